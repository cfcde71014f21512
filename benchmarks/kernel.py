"""Our attention kernels beside torch's, alone: milliseconds, GFLOP/s and errors against float64.

    python benchmarks/kernel.py

The sizes are those of one layer of the embedded model: queries behind a context in bfloat16 (on processors with AMX),
and groups of demonstrations in float32. Where one of ours is missing, only torch's is timed.
"""

import argparse
import functools
import json
import math
from collections.abc import Callable
from unittest import mock

import torch
from common import gemm_gflops, in_turns, report

from lmops_lab.attention import amx, causal, partial
from lmops_lab.attention.partial import Part, attend, attend_plainly, backend_of

HEADS, KV_HEADS, DIM = 9, 3, 64
SCALE = 1 / math.sqrt(DIM)

Rows = list[tuple[str, ...]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keys", type=json.loads, default=[512, 2053, 8192], help="of the context, as JSON")
    options.add_argument("--queries", type=int, default=64)
    options.add_argument("--tokens", type=int, default=32, help="of a query")
    options.add_argument("--groups", type=json.loads, default=[128, 500, 1024], help="tokens of a group, as JSON")
    options.add_argument("--turns", type=int, default=20, help="measurements of each kernel, in turns")
    chosen = options.parse_args()
    print(backend_of("cpu", torch.bfloat16), backend_of("cpu", torch.float32), sep="\n")
    peaks = {dtype: gemm_gflops(dtype) for dtype in (torch.bfloat16, torch.float32)}
    head = ("kernel", "ms", "GFLOP/s", "share of the GEMM peak", "largest error", "of the log-sum-exp")
    rows: Rows = [("keys", *head)]
    contexts: dict[str, float | None] = {}
    ours = amx.kernel()
    for keys in chosen.keys:
        query, key, value = given = inputs(chosen.queries, chosen.tokens, keys)
        ways: dict[str, Callable[[], Part]] = {"torch": functools.partial(with_torch, *given, SCALE)}
        if ours is not None and amx.fits(*given, SCALE):
            ways["ours"] = functools.partial(ours.attend, *given, SCALE)
        many = (2, -1, -1, -1)
        exact = attend_plainly(query[:2].double(), *(x.double().expand(many) for x in (key, value)), scale=SCALE)
        contexts[str(keys)] = compare(rows, keys, ways, 4 * query.numel() * keys, exact, peaks[torch.bfloat16], chosen)
    groups: dict[str, float | None] = {}
    own = causal.kernel()
    for tokens in chosen.groups:
        query, key, value = given = group_inputs(tokens)
        ways = {"torch": functools.partial(causal_with_torch, *given)}
        if own is not None and causal.fits(*given):
            ways["ours"] = functools.partial(own, *given, SCALE)
        exact = attend_plainly(*(x[:2].double() for x in given), scale=SCALE, causal=True)
        flops = 2 * query.numel() * (tokens + 1)  # a token sees half the others on average
        groups[str(tokens)] = compare(rows, tokens, ways, flops, exact, peaks[torch.float32], chosen)
    print(f"{HEADS} heads of {DIM}; {chosen.queries} queries of {chosen.tokens} tokens behind a context in bfloat16,")
    print("then groups, 1,024 tokens together, in float32")
    figures = {"gemm_gflops": round(peaks[torch.bfloat16]), "gemm_gflops_float32": round(peaks[torch.float32])}
    report(rows, {**figures, "torch_x": contexts, "torch_x_groups": groups})


def compare(
    rows: Rows,
    keys: int,
    ways: dict[str, Callable[[], Part]],
    flops: int,
    exact: Part,
    peak: float,
    chosen: argparse.Namespace,
) -> float | None:
    """Time the ways in turns, add their rows, and say how many times as long torch's took."""
    seconds, found = in_turns(ways, chosen.turns)
    took = {name: min(every) for name, every in seconds.items()}
    for name, result in found.items():
        errors = [float((a[:2].double() - b).abs().max()) for a, b in zip(result, exact, strict=True)]
        speed = flops / took[name] / 1e9
        rows.append(
            (
                *(f"{keys:,}", name, f"{1000 * took[name]:.2f}", f"{speed:.0f}", f"{speed / peak:.2f}"),
                *(f"{error:.1e}" for error in errors),
            )
        )
    return round(took["torch"] / took["ours"], 2) if "ours" in took else None


def inputs(queries: int, tokens: int, keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [B, H, T, D] and one context's keys and values [K, C, D], in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((queries, HEADS, tokens, DIM), (KV_HEADS, keys, DIM), (KV_HEADS, keys, DIM))
    query, key, value = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes)
    return query, key, value


def with_torch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> tuple[torch.Tensor, ...]:
    """The same work where our kernel is not there: PyTorch's."""
    with mock.patch.object(partial, "_amx_that_works", return_value=None):
        return partial.attend_shared(query, key, value, scale=scale)


def group_inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [B, H, T, D] and keys and values [B, K, T, D] of groups in float32, as a layer lays them out."""
    generator = torch.Generator().manual_seed(0)
    batch = max(1, 1024 // tokens)
    query, key, value = (
        torch.randn(batch, tokens, heads, DIM, generator=generator).transpose(1, 2)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return query, key, value


def causal_with_torch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Part:
    """The same work where our kernel is not there."""
    with mock.patch.object(partial, "_causal_that_works", return_value=None):
        return attend(query, key, value, scale=SCALE, causal=True)


if __name__ == "__main__":
    main()
