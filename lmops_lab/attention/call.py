"""What one forward pass attends to besides its own tokens, and how the layers of a model get to know it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from lmops_lab.attention.context import GroupedContext
from lmops_lab.shapes import OwnMask

# Receives (layer, keys [B, K, T, D], values [B, K, T, D]) of the tokens of this pass.
Sink = Callable[[int, Tensor, Tensor], None]
# Receives (layer, mass [segments + 1, B, H, T]); the last segment is the own part.
MassSink = Callable[[int, Tensor], None]


@dataclass
class AttentionCall:
    """What one forward pass attends to besides its own tokens.

    Attributes:
        context: encoded groups, or None for ordinary causal attention.
        log_weight: log of the own weight.
        own_mask: additive mask [B, 1, T, own tokens] among the own tokens (label tries); None means causal.
        sink: receives the keys and values of the own tokens; how groups are encoded.
        temperature, exponent: APE's two numbers: context scores are divided by the first, the context's log-sum-exp is
            multiplied by the second; the shared prefix is left alone. (1, 1) is plain structured attention.
        generating: own keys may come from the model's cache, and transformers' own mask (padding) counts.
        segments: column ranges of the context whose attention mass `mass` receives.
        mass: receives the share of attention of every segment and of the own part.
        lengths: tokens of each row that are no padding; the context's part is computed for them alone.
        positions: positions [B, T] of the own tokens, set by the forward pass (sliding windows need them).
        layers: layers that the call has reached so far, in order.
        windows: sliding window of each layer reached (tokens), None for full attention.
        mask_window: sliding window that the model wanted in its masks, None for none. Its masks are not used, so the
            layers have to hand the window over, too.
    """

    context: GroupedContext | None = None
    log_weight: float = 0.0
    own_mask: OwnMask | None = None
    sink: Sink | None = None
    temperature: int | float = 1.0
    exponent: int | float = 1.0
    generating: bool = False
    segments: tuple[slice, ...] = ()
    mass: MassSink | None = None
    lengths: tuple[int, ...] | None = None
    positions: Tensor | None = None
    layers: list[int] = field(default_factory=list)
    windows: list[int | None] = field(default_factory=list)
    mask_window: int | None = None


_local = threading.local()


@contextmanager
def active(call: AttentionCall) -> Iterator[AttentionCall]:
    """Let forward passes of prepared models in this thread attend as `call` says."""
    outer = current()
    _local.call = call
    try:
        yield call
    finally:
        _local.call = outer


def current() -> AttentionCall | None:
    """The call that is active in this thread."""
    return getattr(_local, "call", None)
