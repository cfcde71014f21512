"""Our attention kernel for contexts beside torch's, alone: milliseconds, GFLOP/s and errors against float64.

    python benchmarks/kernel.py

The sizes are those of one layer of the embedded model. Where the processor has no AMX, only torch's kernel is timed.
"""

import argparse
import functools
import json
import math
from unittest import mock

import torch
from common import gemm_gflops, in_turns, report

from lmops_lab.attention import amx, partial
from lmops_lab.attention.partial import attend_plainly, backend_of

HEADS, KV_HEADS, DIM = 9, 3, 64
SCALE = 1 / math.sqrt(DIM)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keys", type=json.loads, default=[512, 2053, 8192], help="as JSON")
    options.add_argument("--queries", type=int, default=64)
    options.add_argument("--tokens", type=int, default=32, help="of a query")
    options.add_argument("--turns", type=int, default=20, help="measurements of each kernel, in turns")
    chosen = options.parse_args()
    print(backend_of("cpu", torch.bfloat16))
    ours = amx.kernel()
    peak = gemm_gflops(torch.bfloat16)
    rows = [("keys", "kernel", "ms", "GFLOP/s", "share of the GEMM peak", "largest error", "of the log-sum-exp")]
    ratios: dict[str, float | None] = {}
    for keys in chosen.keys:
        query, key, value = given = inputs(chosen.queries, chosen.tokens, keys)
        ways = {"torch": functools.partial(with_torch, *given, SCALE)}
        if ours is not None and amx.fits(*given, SCALE):
            ways["ours"] = functools.partial(ours.attend, *given, SCALE)
        exact = oracle(query[:2], key, value)
        flops = 4 * query.numel() * keys
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
        ratios[str(keys)] = round(took["torch"] / took["ours"], 2) if "ours" in took else None
    print(f"{chosen.queries} queries of {chosen.tokens} tokens, {HEADS} heads of {DIM}; products {peak:.0f} GFLOP/s")
    report(rows, {"gemm_gflops": round(peak), "torch_x": ratios})


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


def oracle(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The plain formula in float64 on the same rounded inputs."""
    many = (len(query), -1, -1, -1)
    return attend_plainly(query.double(), key.double().expand(many), value.double().expand(many), scale=SCALE)


if __name__ == "__main__":
    main()
