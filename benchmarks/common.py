"""What the benchmarks share: the real prompts they run on, and the processor's own speed to compare with."""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lmops_lab import LanguageModel, load_task
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.prompts import PromptTokens

REVIEWS = "../shared/data/sst2"
TEMPLATE = "Review: {text}\nSentiment:"


def parser(doc: str) -> argparse.ArgumentParser:
    """Options that every benchmark takes."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    options.add_argument("--data", default=REVIEWS, help="folder with train.jsonl and validation.jsonl; or a task name")
    options.add_argument("--dtype", default="auto")
    return options


def prompts_of(lm: LanguageModel, data: str, count: int, queries: int) -> tuple[PromptTokens, list[Any], list[Any]]:
    """Token ids of drawn demonstrations and queries; the embedded reviews stand in where the folder is missing.

    Returns:
        The prompts, `count` demonstrations (drawn again from the start where the data has fewer), and the queries.
    """
    if Path(data).is_dir():
        task = load_task(data, template=TEMPLATE, test_split="validation")
    else:
        print(f"no data in {data}: the embedded task 'reviews' stands in")
        task = load_task("reviews")
    prompts = PromptTokens.of(lm, task)
    drawn = draw_demonstrations(task.train, min(count, len(task.train) // 2 * 2), 1)
    drawn = (drawn * (count // len(drawn) + 1))[:count]
    return prompts, prompts.demonstrations(drawn), [task.test[i] for i in draw_queries(task.test, queries)]


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
    """Least seconds of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def in_turns(ways: Mapping[str, Callable[[], Any]], turns: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in every turn, and its last result; a slow spell of the machine hits all ways of a turn."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(turns):
        for name, run in ways.items():
            start = time.perf_counter()
            results[name] = run()
            took[name].append(time.perf_counter() - start)
    return took, results


def times_as_long(way: Sequence[float], other: Sequence[float]) -> float:
    """How many times as long one way took as another: the median over the turns of both."""
    return statistics.median(a / b for a, b in zip(way, other, strict=True))


def gemm_gflops(dtype: torch.dtype, size: int = 2048) -> float:
    """Speed of a large square matrix product in this process, in GFLOP/s: the best of a second."""
    return sustained_gflops(dtype, size, 1.0)[1]


def sustained_gflops(dtype: torch.dtype, size: int = 2048, duration: float = 0.5) -> tuple[float, float]:
    """Mean and best speed of that product over so many seconds, in GFLOP/s.

    On a shared machine the two differ: what takes seconds is to be compared with the mean.
    """
    square = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    every: list[float] = []
    while sum(every) < duration:
        every.append(seconds(lambda: square @ square))
    return 2 * size**3 / statistics.mean(every) / 1e9, 2 * size**3 / min(every) / 1e9


def weights_in_products(lm: LanguageModel) -> int:
    """Weights that every token is multiplied with: all matrices but the embedding and the head."""
    tables = {id(lm.model.get_input_embeddings().weight), id(lm.model.get_output_embeddings().weight)}
    return sum(p.numel() for p in lm.model.parameters() if p.ndim == 2 and id(p) not in tables)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of log y against log x by least squares: 1 is linear, 2 quadratic."""
    a, b = torch.tensor(x, dtype=torch.float64).log(), torch.tensor(y, dtype=torch.float64).log()
    a = a - a.mean()
    return float((a * (b - b.mean())).sum() / (a * a).sum())


def peak_gb() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes on Linux


def report(rows: Sequence[Sequence[str]], figures: Mapping[str, Any]) -> None:
    """Print a table, its first row a header, and the figures as the last line."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(json.dumps(figures))
