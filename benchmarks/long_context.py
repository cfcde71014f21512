"""Thousands of demonstrations: seconds, bytes beside the formula, and a query's cost against their number.

python benchmarks/long_context.py
"""

import json

from common import parser, peak_gb, prompts_of, report, seconds, slope

from lmops_lab import encode_groups, load_model


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--demonstrations", type=int, default=4096)
    options.add_argument("--k", type=json.loads, default=[512, 1024, 2048, 4096], help="as JSON, up to all of them")
    options.add_argument("--queries", type=int, default=32)
    options.add_argument("--group-size", type=int, default=16)
    chosen = options.parse_args()
    lm = load_model(dtype=chosen.dtype)
    print(lm)
    prompts, demonstrations, examples = prompts_of(lm, chosen.data, chosen.demonstrations, chosen.queries)
    queries, labels = [prompts.query(e) for e in examples], [list(label) for label in prompts.labels]
    warm = encode_groups(lm, demonstrations[:64], group_size=chosen.group_size, progress=False)
    lm.score(queries[:8], labels, context=warm)
    before = peak_gb()
    encoded = []
    encode_s = seconds(
        lambda: encoded.append(encode_groups(lm, demonstrations, group_size=chosen.group_size))  # shows its progress
    )
    (context,) = encoded
    formula = context.tokens * lm.kv_bytes_per_token / 1e9
    rows = [("k", "tokens", "K/V GB", "seconds a query")]
    timed = []
    for k in chosen.k:
        part = context.subset(range(k // chosen.group_size))
        took = seconds(lambda part=part: lm.score(queries, labels, context=part)) / len(queries)
        timed.append((part.tokens, took))
        rows.append((f"{part.examples:,}", f"{part.tokens:,}", f"{part.nbytes / 1e9:.2f}", f"{took:.3f}"))
    above = peak_gb() - before
    print(f"encoded in {encode_s:.1f} s ({context.tokens / encode_s:.0f} tokens/s)")
    print(f"formula {formula:.2f} GB, kept {context.nbytes / 1e9:.2f} GB; peak {above:.2f} GB above the loaded model")
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "demonstrations": context.examples,
        "tokens": context.tokens,
        "encode_s": round(encode_s, 1),
        "query_s": round(timed[-1][1], 3),
        "formula_gb": round(formula, 3),
        "above_model_gb": round(above, 3),
        "allowed_gb": round(1.2 * formula + 0.5, 3),
        "peak_gb": round(peak_gb(), 2),
        "query_slope": round(slope(*zip(*timed, strict=True)), 3),
    }
    report(rows, figures)


if __name__ == "__main__":
    main()
