"""Text to latents: a UNet and its text encoder, trained together to predict velocity."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel

from lmops_lab.emojiworld.dataset import Scenes
from lmops_lab.emojiworld.recipe import Recipe

CAPTION_DROPOUT = 0.1
# Of log SNR, from which times are drawn: where noise has the colours left but not the shapes.
_LOG_SNR_MEAN, _LOG_SNR_DEVIATION = -0.5, 2.0
_PRAISED = 3.0
_HEADS = 4


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The sampler that the pipeline ships with; its noise levels are those of training.

    Stable Diffusion's own levels end at .012 and leave .07 of the signal in the last step. In 64 x 64 pictures that
    betrays the background's colour, which no real noise does; .02 leaves .015.
    """
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # without effect on trailing steps; the stock pipeline asks for it
    )


class TextToLatents(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, recipe: Recipe, clip: CLIPModel) -> None:
        super().__init__()
        levels = len(recipe.unet_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 3)
            self.unet = UNet2DConditionModel(
                sample_size=16,
                in_channels=recipe.latent_channels,
                out_channels=recipe.latent_channels,
                layers_per_block=1,
                block_out_channels=recipe.unet_channels,
                # Attention at 16 x 16 costs three times everything else.
                down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
                up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
                cross_attention_dim=recipe.width,
                attention_head_dim=_HEADS,  # diffusers' name for the number of heads
                norm_num_groups=16,
            ).to(memory_format=torch.channels_last)
        # The text encoder begins where contrastive training left it: it knows the words, as in Stable Diffusion.
        self.text = CLIPTextModel(cast("CLIPTextConfig", clip.config.text_config))
        own = self.text.state_dict()
        given = clip.state_dict()
        self.text.load_state_dict({name: given.get(name, given.get(f"text_model.{name}")) for name in own})

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The velocity that these captions' latents have: [batch, channels, 16, 16]."""
        states = self.text(input_ids=ids).last_hidden_state
        return cast("Tensor", self.unet(noisy, timesteps, encoder_hidden_states=states).sample)


def time_shares(alphas: Tensor) -> Tensor:
    """How often each time is trained: log SNR is drawn from a normal distribution (after Esser et al., 2403.03206).

    Weights of min(SNR, 5) / (SNR + 1) (Hang et al., 2303.09556) on times drawn evenly, tried before, leave the half of
    the times at which a small picture's shapes are decided with hardly any gradient.

    Args:
        alphas: the signal's share of the variance at each time, falling: [times].

    Returns:
        Probabilities: [times].
    """
    log_snr = torch.log(alphas / (1 - alphas))
    density = torch.exp(-0.5 * ((log_snr - _LOG_SNR_MEAN) / _LOG_SNR_DEVIATION) ** 2)
    shares = density * torch.gradient(-log_snr)[0]
    return shares / shares.sum()


def scene_shares(scenes: Scenes) -> Tensor:
    """How often each scene is trained: praised ones more, since only they show sharply what subjects look like.

    Returns:
        Probabilities: [scenes].
    """
    shares = torch.tensor([_PRAISED if kind == "praised" else 1.0 for kind in scenes.kinds])
    return shares / shares.sum()


def diffusion_loss(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    latents: NDArray[np.float16],
    tokens: NDArray[np.uint16],
    nothing: NDArray[np.uint16],
    alphas: Tensor,
    shares: Tensor,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted velocity at the times of `time_shares`.

    Args:
        model: noisy latents, times, token ids -> velocity.
        latents: [scenes, channels, 16, 16].
        tokens: token ids of all wordings: [scenes, wordings, 77].
        nothing: token ids of the empty caption, which stands in for one caption in ten: [77].
        alphas: the signal's share of the variance at each time: [times].
        shares: how often each scene is drawn: [scenes].
    """
    rows = torch.multinomial(shares, batch, replacement=True, generator=generator).numpy()
    wording = torch.randint(tokens.shape[1], (batch,), generator=generator).numpy()
    dropped = torch.rand(batch, generator=generator) < CAPTION_DROPOUT
    times = torch.multinomial(time_shares(alphas), batch, replacement=True, generator=generator)
    clean = torch.from_numpy(latents[rows].astype(np.float32)).to(memory_format=torch.channels_last)
    noise = torch.randn(clean.shape, generator=generator)
    ids = torch.from_numpy(tokens[rows, wording].astype(np.int64))
    ids[dropped] = torch.from_numpy(nothing.astype(np.int64))
    share = alphas[times].view(-1, 1, 1, 1)
    signal, spread = share.sqrt(), (1 - share).sqrt()
    velocity = signal * noise - spread * clean
    predicted = model(signal * clean + spread * noise, times, ids)
    return (predicted - velocity).square().mean()
