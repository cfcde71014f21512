"""Seconds a query behind a long prompt: recomputed, cached, cached in a batch, and the shared merge; beside zero-shot.

    python benchmarks/scoring.py

One prefix of real demonstrations as one sequential prompt, so that all ways compute the same thing. Every ratio is the
median over turns in which all ways ran one after the other.
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from common import in_turns, parser, prompts_of, report, times_as_long
from transformers import DynamicCache

from lmops_lab import LanguageModel, load_model
from lmops_lab.attention.encoding import encode_token_groups

Rows = list[list[int]]
Ways = dict[str, tuple[Callable[[], torch.Tensor], int]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--prefix", type=int, default=2048, help="tokens")
    options.add_argument("--queries", type=int, default=64)
    options.add_argument("--recomputed", type=int, default=4, help="queries to recompute the whole prompt for")
    options.add_argument("--turns", type=int, default=6, help="measurements of each way")
    options.add_argument("--batch", type=int, default=16, help="rows of the repeated cache")
    chosen = options.parse_args()
    lm = load_model(dtype=chosen.dtype)
    print(lm)
    prompts, demonstrations, examples = prompts_of(lm, chosen.data, 100, chosen.queries)
    prefix: list[int] = []
    while len(prefix) < chosen.prefix:
        prefix += demonstrations.pop(0)
    queries, labels = [prompts.query(e) for e in examples], [list(label) for label in prompts.labels]
    ways = _ways(lm, prefix, queries, labels, chosen)
    lm.score(queries[:16], labels)  # warm
    took, answers = in_turns({name: run for name, (run, _) in ways.items()}, chosen.turns)
    times = {name: [t / count for t in took[name]] for name, (_, count) in ways.items()}
    same = _same(answers)
    exact = same
    if lm.model.dtype != torch.float32:  # which rounds so much that two ways of the same sum may differ
        again = _ways(load_model(dtype="float32"), prefix, queries, labels, chosen)
        exact = _same({name: run() for name, (run, _) in again.items()})
    merge, floor, cached, repeated, recomputed = times.values()
    tokens = sum(map(len, queries)) / len(queries)
    print(f"prefix {len(prefix)} tokens, {len(queries)} queries of {tokens:.0f} tokens on average")
    rows = [("way", "ms a query", "times the merge")]
    for name, every in times.items():
        rows.append((name, f"{1000 * statistics.median(every):.1f}", f"{times_as_long(every, merge):.2f}"))
    rows += [(f"same answers as the merge: {name}", str(n), "") for name, n in same.items()]
    rows += [(f"the same in float32: {name}", str(n), "") for name, n in exact.items()]
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "prefix": len(prefix),
        "query_tokens": round(tokens, 1),
        "merge_ms": round(1000 * statistics.median(merge), 2),
        "recompute_x": round(times_as_long(recomputed, merge), 2),
        "cached_x": round(times_as_long(cached, merge), 2),
        "repeat_x": round(times_as_long(repeated, merge), 2),
        "floor_x": round(times_as_long(merge, floor), 3),
        "same": same,
        "same_float32": exact,
        "asked": {name: len(answers[name]) for name in same},
    }
    report(rows, figures)


def _ways(lm: LanguageModel, prefix: list[int], queries: Rows, labels: Rows, chosen: argparse.Namespace) -> Ways:
    """Each way of scoring as a function that gives the answers, and how many queries it asks."""
    first = torch.tensor([label[0] for label in labels])
    context = encode_token_groups(
        lm.model, [[prefix]], bos="none", prefix=(), model_name=lm.fingerprint, progress=False
    )
    cache = DynamicCache()
    with torch.inference_mode():
        lm.model(torch.tensor([prefix]), past_key_values=cache, logits_to_keep=1)
    return {
        "shared merge": (lambda: lm.score(queries, labels, context=context).argmax(1), len(queries)),
        "zero-shot (no prefix)": (lambda: lm.score(queries, labels).argmax(1), len(queries)),
        "cache, batch 1": (lambda: _cached(lm, cache, queries, first), len(queries)),
        f"cache repeated, batch {chosen.batch}": (
            lambda: _repeated(lm, cache, queries, first, chosen.batch),
            len(queries),
        ),
        "prompt recomputed": (lambda: _recomputed(lm, prefix, queries[: chosen.recomputed], first), chosen.recomputed),
    }


def _same(answers: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many answers of each way are those of the merge."""
    ours = answers["shared merge"]
    return {
        name: int((answer == ours[: len(answer)]).sum()) for name, answer in answers.items() if "zero-shot" not in name
    }


@torch.inference_mode()
def _cached(lm: LanguageModel, cache: DynamicCache, queries: Rows, labels: torch.Tensor) -> torch.Tensor:
    best = []
    for query in queries:
        logits = lm.model(torch.tensor([query]), past_key_values=cache, logits_to_keep=1).logits[0, -1]
        best.append(logits[labels].argmax())
        cache.crop(-len(query))
    return torch.stack(best)


@torch.inference_mode()
def _repeated(lm: LanguageModel, cache: DynamicCache, queries: Rows, labels: torch.Tensor, batch: int) -> torch.Tensor:
    best = torch.empty(len(queries), dtype=torch.long)
    order = sorted(range(len(queries)), key=lambda i: len(queries[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = max(len(queries[i]) for i in rows)
        ids = torch.tensor([queries[i] + [0] * (width - len(queries[i])) for i in rows])
        copied = copy.deepcopy(cache)
        copied.batch_repeat_interleave(len(rows))
        states = lm.model.model(ids, past_key_values=copied).last_hidden_state
        last = states[torch.arange(len(rows)), torch.tensor([len(queries[i]) - 1 for i in rows])]
        best[rows] = lm.model.lm_head(last)[:, labels].argmax(1)
    return best


@torch.inference_mode()
def _recomputed(lm: LanguageModel, prefix: list[int], queries: Rows, labels: torch.Tensor) -> torch.Tensor:
    logits = [
        lm.model(torch.tensor([prefix + query]), use_cache=False, logits_to_keep=1).logits[0, -1] for query in queries
    ]
    return torch.stack([row[labels].argmax() for row in logits])


if __name__ == "__main__":
    main()
