"""1,000 demonstrations of real text: seconds to encode, seconds a query, peak memory.

python benchmarks/thousand.py --data ../shared/data/sst2
"""

import argparse
import json
import resource
import time

import torch

from lmops_lab import encode_groups, load_model, load_task
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.prompts import PromptTokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/sst2")
    parser.add_argument("--template", default="Sentence: {text} Sentiment:")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--demonstrations", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()

    lm = load_model(dtype=options.dtype)
    print(lm)
    task = load_task(options.data, template=options.template, test_split=options.split)
    prompts = PromptTokens.of(lm, task)
    demonstrations = prompts.demonstrations(draw_demonstrations(task.train, options.demonstrations, 1))
    queries = [prompts.query(task.test[i]) for i in draw_queries(task.test, options.queries)]
    labels = list(prompts.labels)
    warm = encode_groups(lm, demonstrations[:32], group_size=16, progress=False)
    lm.score(queries[:8], labels, context=warm)

    start = time.perf_counter()
    context = encode_groups(lm, demonstrations, group_size=options.group_size, progress=False)
    encode_s = time.perf_counter() - start
    start = time.perf_counter()
    lm.score(queries, labels, context=context)
    query_s = (time.perf_counter() - start) / len(queries)
    start = time.perf_counter()
    lm.score(queries, labels)
    floor_s = (time.perf_counter() - start) / len(queries)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux

    generator = torch.Generator().manual_seed(0)
    square = torch.randn(2048, 2048, generator=generator).to(lm.model.dtype)
    best = min(_seconds(square) for _ in range(5))
    gemm = 2 * 2048**3 / best / 1e9
    weights = sum(p.numel() for p in lm.model.model.layers.parameters())
    share = 2 * weights * context.tokens / encode_s / 1e9 / gemm
    rows = [
        ("demonstrations", f"{context.examples:,} in {context.groups} groups"),
        ("tokens", f"{context.tokens:,}"),
        ("encode", f"{encode_s:.1f} s, {context.tokens / encode_s:.0f} tokens/s"),
        ("matrix-product peak", f"{gemm:.0f} GFLOP/s; weights alone use {100 * share:.0f} % of it"),
        ("a query", f"{query_s:.3f} s; without a context {floor_s:.3f} s"),
        ("keys and values", f"{context.nbytes / 1e9:.2f} GB"),
        ("peak memory", f"{peak_gb:.2f} GB"),
    ]
    for name, value in rows:
        print(f"{name:22}{value}")
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "demonstrations": context.examples,
        "groups": context.groups,
        "tokens": context.tokens,
        "encode_s": round(encode_s, 2),
        "query_s": round(query_s, 4),
        "floor_s": round(floor_s, 4),
        "kv_gb": round(context.nbytes / 1e9, 3),
        "peak_gb": round(peak_gb, 3),
        "gemm_gflops": round(gemm, 1),
    }
    print(json.dumps(figures))


def _seconds(square: torch.Tensor) -> float:
    start = time.perf_counter()
    square @ square
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
