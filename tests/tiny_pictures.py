"""Random tiny picture models in the format of the real ones: Stable Diffusion v1 and CLIP ViT-L/14, tokenizers too."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("t", "h"), ("th", "e</w>")]
# What stable-diffusion-v1-4's scheduler folder says.
V1_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer as OpenAI's: all bytes, all bytes at a word's end, a few merges, start and end; 77 tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in MERGES), START, END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=MERGES, model_max_length=77)


def _text_config(tokenizer: CLIPTokenizer, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vision_config(projection: int, side: int, patch: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=projection,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=side,
        patch_size=patch,
        hidden_act="quick_gelu",
    )


def _spread(model: torch.nn.Module) -> None:
    """Weights large enough that texts and pictures change the output."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "norm" not in name:
                weight.normal_(0, 0.2)


def tiny_pipeline(*, safety: str = "none", seed: int = 0) -> StableDiffusionPipeline:
    """A random Stable Diffusion v1 pipeline of 64 x 64 pixels.

    Args:
        safety: "none", or a safety checker that finds every picture "fine" or "bad".
    """
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(_text_config(tokenizer, 32))
    _spread(text_encoder)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )
    checker, extractor = None, None
    if safety != "none":
        config = CLIPConfig(
            text_config=_text_config(tokenizer, 16).to_dict(),
            vision_config=_vision_config(16, 32, 8).to_dict(),
            projection_dim=16,
        )
        checker = StableDiffusionSafetyChecker(config)
        # A picture is flagged where its cosine with a concept passes the concept's threshold.
        threshold = 2.0 if safety == "fine" else -2.0
        torch.nn.init.constant_(checker.concept_embeds_weights, threshold)
        torch.nn.init.constant_(checker.special_care_embeds_weights, 2.0)
        extractor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(**V1_SCHEDULE),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=checker is not None,
    )


def tiny_pipeline_folder(parent: Path, **options) -> Path:
    """A saved tiny pipeline, like a snapshot from the Hub."""
    folder = parent / "stable-diffusion"
    tiny_pipeline(**options).save_pretrained(folder)
    return folder


def tiny_clip_folder(parent: Path, *, side: int = 224, patch: int = 14, projection: int = 768, seed: int = 0) -> Path:
    """A saved random CLIP with ViT-L/14's window, pictures and projection, and two thin layers."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    config = CLIPConfig(
        text_config=_text_config(tokenizer, projection).to_dict(),
        vision_config=_vision_config(projection, side, patch).to_dict(),
        projection_dim=projection,
    )
    model = CLIPModel(config)
    _spread(model)
    folder = parent / "clip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    return folder
