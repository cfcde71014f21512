"""How close encoding comes to the processor's matrix-product speed, and that its cost is linear.

    python benchmarks/encoding.py

The share is the usual model utilisation (Chowdhery et al. 2022, appendix B): the products that the tokens need, those
with weights and the attention's causal half, over the seconds and the speed of one large product. That speed is the
mean of half a second before and half a second after each run, since a shared machine changes its own; beside it stands
the share of the best single product. What encoding leaves out, the last layer behind its keys and values, is not
counted. A share is the median of a k's runs, and gemm_share the mean over k.

Every k takes about the same time a turn, in several runs where it is small: a slow spell of the machine then weighs on
all of them alike, and the slope is that of the mean seconds. torch_x: how many times as long the first k takes without
our kernels.

float32 by default: it is what every processor has, and where bfloat16 has a unit of its own, products are so fast there
that the share says more of that unit than of encoding (`--dtype bfloat16`).
"""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

from common import parser, prompts_of, report, slope, sustained_gflops, times_as_long, weights_in_products
from common import seconds as seconds_of

from lmops_lab import LanguageModel, encode_groups, load_model
from lmops_lab.attention import fused, partial
from lmops_lab.attention.encoding import encode_token_groups


class Run(NamedTuple):
    """One measurement: seconds, GFLOP/s, and the speed of a large product around it, mean and best."""

    took: float
    speed: float
    product: float
    best: float

    @property
    def share_of_best(self) -> float:
        """Of its best."""
        return self.speed / self.best

    @property
    def share(self) -> float:
        """Of the product's mean speed."""
        return self.speed / self.product


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(dtype="float32")
    options.add_argument("--k", type=json.loads, default=[128, 512, 1024, 4096], help="as JSON")
    options.add_argument("--sequential", type=json.loads, default=[32, 64, 128, 240], help="as JSON, within the window")
    options.add_argument("--group-size", type=int, default=16)
    options.add_argument("--turns", type=int, default=2)
    chosen = options.parse_args()
    lm = load_model(dtype=chosen.dtype)
    print(lm)
    _, demonstrations, _ = prompts_of(lm, chosen.data, max(chosen.k), 1)
    encode_groups(lm, demonstrations[:64], group_size=chosen.group_size, progress=False)  # warm

    ways: dict[tuple[str, int], tuple[Callable[[], object], list[int], int]] = {}
    for k in chosen.k:
        taken = demonstrations[:k]
        groups = [sum(map(len, taken[first : first + chosen.group_size])) for first in range(0, k, chosen.group_size)]
        ways["groups", k] = _in_groups(lm, taken, chosen.group_size), groups, max(1, 1024 // k)
    for k in chosen.sequential:
        taken = demonstrations[:k]
        ways["one prompt", k] = _as_one(lm, taken), [sum(map(len, taken))], max(1, max(chosen.sequential) // k)
    first = chosen.k[0]
    ways["torch alone", first] = _with_torch_alone(ways["groups", first][0]), *ways["groups", first][1:]
    runs: dict[tuple[str, int], list[Run]] = {way: [] for way in ways}
    for _ in range(chosen.turns):
        around = sustained_gflops(lm.model.dtype)
        for number in range(max(times for _, _, times in ways.values())):
            for way, (run, groups, times) in ways.items():
                if number >= times:
                    continue
                took, before = seconds_of(run), around
                around = sustained_gflops(lm.model.dtype)
                speed = products(lm, groups) / took / 1e9
                runs[way].append(Run(took, speed, (before[0] + around[0]) / 2, max(before[1], around[1])))

    rows = [("way", "k", "tokens", "runs", "seconds", "tokens/s", "GFLOP/s", "of a product's", "share", "of the best")]
    middle = {way: Run(*map(statistics.median, zip(*every, strict=True))) for way, every in runs.items()}
    mean_took = {way: statistics.mean(run.took for run in every) for way, every in runs.items()}
    shares = {way: statistics.median(run.share for run in every) for way, every in runs.items()}
    shares_of_best = {way: statistics.median(run.share_of_best for run in every) for way, every in runs.items()}
    for way, (_, groups, _) in ways.items():
        rows.append(
            (
                *(way[0], f"{way[1]:,}", f"{sum(groups):,}", str(len(runs[way])), f"{mean_took[way]:.1f}"),
                *(f"{sum(groups) / mean_took[way]:.0f}", f"{middle[way].speed:.0f}", f"{middle[way].product:.0f}"),
                *(f"{shares[way]:.2f}", f"{shares_of_best[way]:.2f}"),
            )
        )
    grouped = [("groups", k) for k in chosen.k]
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "gemm_gflops": round(statistics.mean(middle[way].product for way in grouped), 1),
        "gemm_share": round(statistics.mean(shares[way] for way in grouped), 3),
        "share_of_best": round(statistics.mean(shares_of_best[way] for way in grouped), 3),
        "torch_x": round(
            times_as_long(
                [run.took for run in runs["torch alone", first]], [run.took for run in runs["groups", first]]
            ),
            3,
        ),
        "slope": round(slope(chosen.k, [mean_took[way] for way in grouped]), 3),
        "sequential_slope": round(slope(chosen.sequential, [mean_took["one prompt", k] for k in chosen.sequential]), 3),
    }
    report(rows, figures)


def _in_groups(lm: LanguageModel, taken: list[list[int]], size: int) -> Callable[[], object]:
    return lambda: encode_groups(lm, taken, group_size=size, progress=False)


def _as_one(lm: LanguageModel, taken: list[list[int]]) -> Callable[[], object]:
    return lambda: encode_token_groups(lm.model, [taken], bos="none", prefix=(), model_name="one", progress=False)


def _with_torch_alone(run: Callable[[], object]) -> Callable[[], object]:
    def without_ours() -> object:
        with (
            mock.patch.object(fused, "steps", return_value=None),
            mock.patch.object(partial, "_causal_that_works", return_value=None),
        ):
            return run()

    return without_ours


def products(lm: LanguageModel, groups: Sequence[int]) -> float:
    """Floating-point operations of the matrix products that encoding groups of so many tokens needs."""
    config = lm.model.config
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    last = sum(p.numel() for name, p in lm.model.named_parameters() if p.ndim == 2 and _is_left_out(name, config))
    pairs = sum(tokens * (tokens + 1) / 2 for tokens in groups)
    attention = 4 * heads * dim * (config.num_hidden_layers - 1) * pairs
    return 2.0 * (weights_in_products(lm) - last) * sum(groups) + attention


def _is_left_out(name: str, config: object) -> bool:
    """Whether a matrix stands behind the last layer's keys and values."""
    layer = f"layers.{config.num_hidden_layers - 1}."  # type: ignore[attr-defined]
    return layer in name and ("mlp" in name or "o_proj" in name)


if __name__ == "__main__":
    main()
