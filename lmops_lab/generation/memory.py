"""How many pictures fit into memory at once."""

from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

LARGEST_BATCH = 16  # beyond, a batch is hardly faster and Ctrl-C loses more
_FREE_SHARE = 0.5  # of the free memory: estimates are rough, and others live here too
# Tensors of the widest layer that are alive at once: in the autoencoder's last block, and in the UNet with its skips.
_DECODER_TENSORS, _DENOISER_TENSORS = 4, 32


def bytes_per_picture(pipeline: Any, width: int, height: int, guidance: float) -> int:
    """Rough peak of one picture's activations (bytes): the larger of denoising and decoding."""
    itemsize = pipeline.dtype.itemsize
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    decoder = _first_width(getattr(pipeline, "vae", None), 128)
    denoiser = _first_width(getattr(pipeline, "unet", None), 320)
    decoding = width * height * 2 * decoder * _DECODER_TENSORS
    passes = 2 if guidance > 1 else 1
    denoising = passes * (width // scale) * (height // scale) * denoiser * _DENOISER_TENSORS
    return int(max(decoding, denoising) * itemsize)


def _first_width(part: Any, otherwise: int) -> int:
    """Channels at the finest resolution."""
    widths = getattr(getattr(part, "config", None), "block_out_channels", None)
    return int(widths[0]) if widths else otherwise


def free_bytes(device: torch.device) -> int:
    """Memory that is free where a pipeline computes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def batch_that_fits(pipeline: Any, device: torch.device, width: int, height: int, guidance: float) -> int:
    """Pictures a batch: 1 to 16, within half of the free memory."""
    room = free_bytes(device) * _FREE_SHARE
    return max(1, min(LARGEST_BATCH, int(room // bytes_per_picture(pipeline, width, height, guidance))))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or (where it raises a plain RuntimeError) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
