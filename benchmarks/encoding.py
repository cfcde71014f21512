"""How close encoding comes to the processor's matrix-product speed, and that its cost is linear.

    python benchmarks/encoding.py

The share is the usual model utilisation (Chowdhery et al. 2022, appendix B): the products that the tokens need, those
with weights and the attention's causal half, over the seconds and the speed of one large product, the best just before
and just after. What encoding leaves out, the last layer behind its keys and values, is not counted.
"""

import json
import statistics
from collections.abc import Sequence

from common import gemm_gflops, parser, prompts_of, report, seconds, slope, weights_in_products

from lmops_lab import LanguageModel, encode_groups, load_model
from lmops_lab.attention.encoding import encode_token_groups


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--k", type=json.loads, default=[128, 512, 1024, 4096], help="as JSON")
    options.add_argument("--sequential", type=json.loads, default=[32, 64, 128, 240], help="as JSON, within the window")
    options.add_argument("--group-size", type=int, default=16)
    chosen = options.parse_args()
    lm = load_model(dtype=chosen.dtype)
    print(lm)
    _, demonstrations, _ = prompts_of(lm, chosen.data, max(chosen.k), 1)
    encode_groups(lm, demonstrations[:64], group_size=chosen.group_size, progress=False)  # warm

    rows = [("way", "k", "tokens", "seconds", "tokens/s", "GEMM GFLOP/s", "share of it")]
    peaks = []
    timed: dict[str, list[tuple[int, float, float]]] = {"groups": [], "one prompt": []}
    for way, ks in (("groups", chosen.k), ("one prompt", chosen.sequential)):
        for k in ks:
            taken = demonstrations[:k]
            tokens = sum(map(len, taken))
            if way == "groups":

                def run(taken: list[list[int]] = taken) -> object:
                    return encode_groups(lm, taken, group_size=chosen.group_size, progress=False)
            else:

                def run(taken: list[list[int]] = taken) -> object:
                    return encode_token_groups(
                        lm.model, [taken], bos="none", prefix=(), model_name="one", progress=False
                    )

            before = gemm_gflops(lm.model.dtype)
            took = seconds(run, 2 if k <= 512 else 1)
            peaks.append(max(before, gemm_gflops(lm.model.dtype)))
            size = chosen.group_size if way == "groups" else k
            groups = [sum(map(len, taken[first : first + size])) for first in range(0, k, size)]
            share = products(lm, groups) / took / 1e9 / peaks[-1]
            timed[way].append((k, took, share))
            rows.append(
                (
                    way,
                    f"{k:,}",
                    f"{tokens:,}",
                    f"{took:.1f}",
                    f"{tokens / took:.0f}",
                    f"{peaks[-1]:.0f}",
                    f"{share:.2f}",
                )
            )
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "gemm_gflops": round(statistics.median(peaks), 1),
        "gemm_share": round(statistics.median(share for k, _, share in timed["groups"] if k >= 512), 3),
        "slope": round(slope(*zip(*[(k, t) for k, t, _ in timed["groups"]], strict=True)), 3),
        "sequential_slope": round(slope(*zip(*[(k, t) for k, t, _ in timed["one prompt"]], strict=True)), 3),
    }
    report(rows, figures)


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
