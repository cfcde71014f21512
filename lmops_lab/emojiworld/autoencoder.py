"""Pictures to 16 x 16 latents and back: an AutoencoderKL whose latents are normalised inside its own weights."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from lmops_lab.emojiworld.dataset import Scenes
from lmops_lab.emojiworld.recipe import Recipe
from lmops_lab.emojiworld.recogniser import to_tensor
from lmops_lab.emojiworld.settings import SIZE

# Edges weigh as much as flat areas together: emoji are named by their outlines, which are few of the pixels.
_EDGES = 1.0
# Keeps the latents near a normal distribution, so that they can be diffused; small enough not to blur.
_DIVERGENCE = 1e-4


def build_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An untrained autoencoder; each level after the first halves the picture. Initialised from the recipe's seed."""
    levels = len(recipe.autoencoder_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = AutoencoderKL(
            block_out_channels=recipe.autoencoder_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            norm_num_groups=8,
            latent_channels=recipe.latent_channels,
            sample_size=SIZE,
            # Attention over 256 places costs as much as all else and sees nothing that convolutions miss.
            mid_block_add_attention=False,
            # See `normalise_latents`.
            scaling_factor=1.0,
            force_upcast=False,
        )
    return model.to(memory_format=torch.channels_last)


def autoencoder_loss(model: AutoencoderKL, scenes: Scenes, batch: int, generator: torch.Generator) -> Tensor:
    """Absolute error of pixels and of edges at three scales, plus the divergence of the latents from a normal one."""
    rows = torch.randint(len(scenes), (batch,), generator=generator).numpy()
    images = to_tensor(scenes.images[rows])
    latents = model.encode(images).latent_dist
    noise = torch.randn(latents.mean.shape, generator=generator)
    restored = model.decode(latents.mean + latents.std * noise).sample
    divergence = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
    return picture_distance(restored, images) + _DIVERGENCE * divergence


def picture_distance(left: Tensor, right: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of pixels, and of neighbours' differences (edges) at several scales."""
    total = (left - right).abs().mean()
    for scale in range(scales):
        difference = left - right  # edges are linear: the difference of edges is the edge of the difference
        total = total + _EDGES / scales * (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
        if scale + 1 < scales:
            left, right = functional.avg_pool2d(left, 2), functional.avg_pool2d(right, 2)
    return total


@torch.no_grad()
def normalise_latents(model: AutoencoderKL, scenes: Scenes, count: int = 512) -> None:
    """Give each latent channel mean 0 and deviation 1 by changing the 1 x 1 convolutions on both sides of the latents.

    The stock pipeline knows one scaling factor for all channels; this does better and leaves that factor at 1. What the
    autoencoder restores stays the same.
    """
    latents = encode_all(model, scenes.images[:count], progress=False).astype(np.float32)
    mean = torch.from_numpy(latents.mean((0, 2, 3)))
    deviation = torch.from_numpy(latents.std((0, 2, 3))).clamp_min(1e-6)
    channels = len(mean)
    before, after = model.quant_conv, model.post_quant_conv
    before.weight[:channels] /= deviation[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / deviation
    before.bias[channels:] -= 2 * deviation.log()  # the second half is the logarithm of the variance
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= deviation[None, :, None, None]


@torch.no_grad()
def encode_all(
    model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 32, *, progress: bool = True
) -> NDArray[np.float16]:
    """The mean latents of pictures [n, 64, 64, 3]: [n, channels, 16, 16]."""
    model.eval()
    starts = tqdm(range(0, len(images), batch), desc="encoding scenes", unit="batch", disable=not progress)
    parts = [model.encode(to_tensor(images[s : s + batch])).latent_dist.mean.contiguous().numpy() for s in starts]
    return np.concatenate(parts).astype(np.float16)


@torch.no_grad()
def restore(model: AutoencoderKL, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures after encoding and decoding, for looking at: [n, 64, 64, 3]."""
    decoded = model.decode(model.encode(to_tensor(images)).latent_dist.mean).sample
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    return pixels.contiguous().numpy().astype(np.uint8)
