"""The accuracy curve on a real data set: does structured prompting with 1,000 demonstrations beat zero-shot?

Needs a folder with train.jsonl and validation.jsonl (columns text and label), by default SST-2 beside the checkout:

    python benchmarks/icl_curve.py --data ../shared/data/sst2
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from lmops_lab import icl_curve, load_model, load_task
from lmops_lab.attention.cache import GroupCache
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.reading import reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/sst2")
    parser.add_argument("--template", default="Review: {text}\nSentiment:")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--k", type=json.loads, default=[0, 16, 128, 1000], help="as JSON, such as [0,16]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--bos", default="none")
    parser.add_argument("--own-weight", type=lambda text: text if text.isalpha() or "_" in text else float(text))
    parser.add_argument("--folder", type=Path, help="keep finished points here (default: a fresh folder)")
    parser.add_argument("--cache", type=Path, help="keep encoded groups here (default: nowhere)")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()

    lm = load_model(dtype=options.dtype)
    print(lm)
    task = load_task(options.data, template=options.template, test_split=options.split)
    start = time.perf_counter()
    curve = icl_curve(
        lm,
        task,
        k=options.k,
        methods=["structured"],
        seeds=options.seeds,
        queries=options.queries,
        group_size=options.group_size,
        bos=options.bos,
        own_weight=options.own_weight or "groups",
        folder=options.folder or Path(tempfile.mkdtemp(prefix="lmops-lab-")),
        cache=GroupCache(options.cache) if options.cache else None,
    )
    seconds = time.perf_counter() - start
    frame = curve.to_frame()
    columns = ["method", "k", "calibration", "accuracy", "low", "high", "groups", "encode_s", "query_ms"]
    print(frame[columns].round(3).to_string(index=False))
    print(reading(curve))
    most = ("structured", max(options.k))
    gain = curve.difference(most, (ZERO_SHOT, 0), "batch")
    figures = {
        "task": task.name,
        "queries": options.queries,
        "seeds": options.seeds,
        "group_size": options.group_size,
        "bos": options.bos,
        "own_weight": options.own_weight or "groups",
        "zero_shot_batch": round(curve.accuracy(ZERO_SHOT, 0, "batch").mean, 4),
        "largest_k": most[1],
        "largest_k_batch": round(curve.accuracy(*most, "batch").mean, 4),
        "largest_k_raw": round(curve.accuracy(*most, "raw").mean, 4),
        "gain_batch": [round(value, 4) for value in gain],
        "seconds": round(seconds, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
