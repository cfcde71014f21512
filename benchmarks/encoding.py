"""How close encoding comes to the processor's matrix-product speed, and that its cost is linear.

python benchmarks/encoding.py
"""

import json

from common import gemm_gflops, parser, prompts_of, report, seconds, slope, weights_in_products

from lmops_lab import encode_groups, load_model
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
    peak = gemm_gflops(lm.model.dtype)
    weights = weights_in_products(lm)

    rows = [("way", "k", "tokens", "seconds", "tokens/s", "share of the GEMM peak")]
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

            took = seconds(run, 2 if k <= 512 else 1)
            share = 2 * weights * tokens / took / 1e9 / peak
            timed[way].append((k, took, share))
            rows.append((way, f"{k:,}", f"{tokens:,}", f"{took:.1f}", f"{tokens / took:.0f}", f"{share:.2f}"))
    after = gemm_gflops(lm.model.dtype)
    print(f"GEMM peak {peak:.0f} GFLOP/s before, {after:.0f} after; {weights / 1e6:.0f} M weights in products")
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "gemm_gflops": round(max(peak, after), 1),
        "gemm_share": round(max(share for k, _, share in timed["groups"] if k >= 512) * peak / max(peak, after), 3),
        "slope": round(slope(*zip(*[(k, t) for k, t, _ in timed["groups"]], strict=True)), 3),
        "sequential_slope": round(slope(*zip(*[(k, t) for k, t, _ in timed["one prompt"]], strict=True)), 3),
    }
    report(rows, figures)


if __name__ == "__main__":
    main()
