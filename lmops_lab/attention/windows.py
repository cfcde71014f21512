"""Sliding windows by position: a token at position p sees keys at positions above p - window, wherever they are kept.

Groups lie side by side in memory but end at the same position, so a window over memory columns would be wrong.
"""

import math

import torch
from torch import Tensor

from lmops_lab.attention.partial import Part, attend_plainly, attend_shared, causal_mask
from lmops_lab.shapes import ContextKeys, ContextValues, Heads, OwnMask


def attend_shared_window(
    query: Heads,
    key: ContextKeys,
    value: ContextValues,
    *,
    scale: float,
    softcap: float | None,
    window: int,
    columns: Tensor,
    rows: Tensor,
) -> Part | None:
    """Attention of a batch to the shared keys inside each row's window; None if no row sees any of them.

    Shapes: query [B, H, T, D]; key, value [K, C, D]; columns [C] and rows [B, T] are positions.
    """
    first, last = int(rows.min()) - window, int(rows.max()) - window
    if int(columns.min()) > last:  # every row sees everything
        return attend_shared(query, key, value, scale=scale, softcap=softcap)
    kept = columns > first
    if not bool(kept.any()):
        return None
    seen = columns[kept][None, None] > rows[..., None] - window  # [B, T, C']
    mask = _additive(seen, query.dtype)[:, None]  # [B, 1, T, C']
    batch = query.shape[0]
    keys, values = (part[:, kept].expand(batch, -1, -1, -1) for part in (key, value))
    # Rows that see no key at all have log-sum-exp -inf here, which fused kernels turn into NaN.
    return attend_plainly(query, keys, values, scale=scale, mask=mask, softcap=softcap)


def own_window_mask(
    mask: OwnMask | None,
    *,
    tokens: int,
    keys: int,
    window: int | None,
    positions: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> OwnMask | None:
    """The mask among own tokens with the window added, or `mask` itself where the window hides nothing.

    Args:
        mask: additive mask so far; None means causal.
        positions: [B, tokens]; used while all keys belong to this pass. Keys of earlier passes stand in unbroken order,
            so their distance is counted in columns.
    """
    if window is None:
        return mask
    if positions is not None and keys == tokens:
        distance = positions[:, :, None] - positions[:, None, :]  # [B, T, T]
    else:
        steps = torch.arange(keys, device=device)
        distance = (steps[keys - tokens :, None] - steps)[None]  # [1, T, keys]
    if int(distance.max()) < window:
        return mask
    if mask is None:
        mask = causal_mask(tokens, keys, dtype=dtype, device=device)
    return mask + _additive(distance < window, mask.dtype)[:, None]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -math.inf)
