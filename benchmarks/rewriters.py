"""What the shipped rewriters gain on prompts they have not met, against the user's text and rivals that learn nothing.

    python benchmarks/rewriters.py --quick
    python benchmarks/rewriters.py --folder runs/rewriters-benchmark

All methods rewrite the same texts, all pictures of a text share their seeds, and no seed was used in training. With a
folder, rewrites and pictures are kept there: an interrupted run goes on.
"""

import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmops_lab import ImageGenerator, Rewriter
from lmops_lab.digests import read_record, write_record
from lmops_lab.emojiworld.captions import DAMNATION, DRAGGING, PRAISE, USELESS
from lmops_lab.emojiworld.recognised import Recognised
from lmops_lab.generation.store import ImageStore
from lmops_lab.rewards.aesthetic import Aesthetic
from lmops_lab.rewards.classical import Classical
from lmops_lab.rewards.relevance import Relevance
from lmops_lab.rewriting.corpus import emoji_corpus, engineered_prompts
from lmops_lab.rewriting.evaluation import USER, Evaluation, evaluate_rewriters
from lmops_lab.rewriting.hacking import hacking_report
from lmops_lab.rewriting.reward import PictureReward
from lmops_lab.rewriting.search import FixedSuffix, RandomModifiers, best_suffix

SFT, RL = "supervised", "reinforced"
HELD_OUT = ("classical", "recognised")
SEEDS = 1000  # the first one of the evaluation; training and the search for a suffix use 0, 1, ...


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="12 + 6 prompts with 2 seeds instead of 200 + 100 with 4")
    options.add_argument("--prompts", type=int, nargs=2, metavar=("IN", "OUT"))
    options.add_argument("--seeds", type=int)
    options.add_argument("--sft", default="emoji-sft", help="supervised rewriter: a name or folder")
    options.add_argument("--rl", default="emoji", help="reinforced rewriter: a name or folder")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--guidance-end", type=float, default=0.4, help="share of the steps that are guided")
    options.add_argument("--folder", type=Path, help="keep pictures and scores here")
    chosen = options.parse_args()
    start = time.perf_counter()
    found, evaluation = run(chosen)
    print(evaluation.table().round(3).to_string())
    for method in (SFT, RL):
        if method in evaluation.methods:
            print(hacking_report(evaluation, method, held_out=HELD_OUT))
    if chosen.folder:
        evaluation.scores.to_csv(chosen.folder / "scores.csv", index=False)
    print(json.dumps(found | {"minutes": round((time.perf_counter() - start) / 60, 1)}))


def run(options: argparse.Namespace) -> tuple[dict[str, Any], Evaluation]:
    """Rewrite, draw, judge."""
    inside, outside = options.prompts or ((12, 6) if options.quick else (200, 100))
    seeds = range(SEEDS, SEEDS + (options.seeds or (2 if options.quick else 4)))
    corpus, unknown = emoji_corpus()
    training, held_out = corpus.split()
    known = sorted({pair.source for pair in held_out.pairs if pair.kind == "content"})
    draw = random.Random(2026)  # noqa: S311
    if len(known) < inside or len(unknown) < outside:
        raise SystemExit(f"there are {len(known)} held-out texts and {len(unknown)} out of the domain; ask for fewer")
    asked = {"in-domain": draw.sample(known, inside), "out-of-domain": draw.sample(unknown, outside)}
    texts = [text for part in asked.values() for text in part]

    store = ImageStore(options.folder / "pictures") if options.folder else None
    painter = ImageGenerator.load("emoji", store=store)
    relevance = Relevance.load()
    aesthetic = Aesthetic.load(relevance.encoder, "emoji")
    judges = {"relevance": relevance, "aesthetic": aesthetic, "classical": Classical(), "recognised": Recognised.load()}

    rewrites: dict[str, list[str]] = {}
    for name, place in {SFT: options.sft, RL: options.rl}.items():
        try:
            rewrites[name] = rewritten(Rewriter.load(place), texts, options.folder and options.folder / f"{name}.json")
        except FileNotFoundError as missing:
            print(f"{name} is left out: {missing}")
    drawing = {"steps": options.steps, "guidance_end": options.guidance_end}
    reward = PictureReward(painter, relevance, aesthetic, (0, 1), drawing)
    rewrites["fixed suffix"] = suffix(training, reward, options.quick)(texts)
    rewrites["random praise"] = RandomModifiers(tuple(PRAISE), 3)(texts)
    words = {"good": list(PRAISE), "useless": list(USELESS), "harmful": [*DAMNATION, *DRAGGING]}
    rewrites["as people write"] = [engineered_prompts([text], 1, seed=at, **words)[0] for at, text in enumerate(texts)]
    evaluation = evaluate_rewriters(asked, rewrites, painter, judges, seeds=list(seeds), **drawing)
    return figures(evaluation), evaluation


def rewritten(writer: Rewriter, texts: list[str], kept: Path | None) -> list[str]:
    """What a rewriter makes of the texts; of the same weights and texts it is read from the file `kept`."""
    about = {"revision": writer.loaded.revision, "decoding": asdict(writer.decoding), "texts": texts}
    if kept and kept.is_file() and (found := read_record(kept))["about"] == about:
        return found["rewrites"]
    made = writer(texts)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_record(kept, {"about": about, "rewrites": made})
    return made


def suffix(training: Any, reward: PictureReward, quick: bool) -> FixedSuffix:
    """The suffix of at most three words that greedy search finds best on texts of the training corpus."""
    users = sorted({pair.source for pair in training.pairs if pair.kind == "content"})
    some = random.Random(1).sample(users, 4 if quick else 12)  # noqa: S311
    found, mean = best_suffix(some, list(PRAISE), reward, most=1 if quick else 3)
    print(f"fixed suffix: {', '.join(found.modifiers)} (reward {mean:+.2f} on {len(some)} training texts)")
    return found


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Means over both domains, and paired differences with 95 % intervals over prompts."""

    def mean(metric: str, method: str) -> float | None:
        if method not in evaluation.methods:
            return None
        return round(float(evaluation.by_prompt(metric, method).mean()), 4)

    def change(left: str, right: str, metric: str = "reward") -> list[float] | None:
        if not {left, right} <= set(evaluation.methods):
            return None
        return [round(value, 4) for value in evaluation.difference(left, right, metric)]

    best = RL if RL in evaluation.methods else SFT
    return {
        "prompts": len(evaluation.by_prompt("reward", USER)),
        "reward_input": mean("reward", USER),
        "reward_sft": mean("reward", SFT),
        "reward_rl": mean("reward", RL),
        "sft_minus_input_ci": change(SFT, USER),
        "rl_minus_sft_ci": change(RL, SFT),
        "rl_minus_random_ci": change(RL, "random praise"),
        "rl_minus_fixed_ci": change(RL, "fixed suffix"),
        "relevance_change": change(best, USER, "relevance"),
        "recognised_input": mean("recognised", USER),
        "recognised_sft": mean("recognised", SFT),
        "recognised_rl": mean("recognised", RL),
    }


if __name__ == "__main__":
    main()
