"""The same prompts through lm-evaluation-harness and through one shared context: same answers, and how much faster.

    pip install -c constraints.txt ".[bench]"
    python benchmarks/versus_lm_eval.py

Both see the same tokens, 64 demonstrations and the query as one text, in the same model object and dtype (float32 by
default, as bfloat16 rounds enough to turn close answers). The third way, one forward pass for every query and
candidate, is how OpenICL and the reference code score.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from common import parser, prompts_of, report

from lmops_lab import LanguageModel, load_model
from lmops_lab.attention.encoding import encode_token_groups


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(dtype="float32")
    options.add_argument("--shots", type=int, default=64)
    options.add_argument("--queries", type=int, default=100)
    options.add_argument("--candidates", type=int, default=5, help="queries for the one-by-one way")
    chosen = options.parse_args()
    lm = load_model(dtype=chosen.dtype)
    print(lm)
    prompts, demonstrations, examples = prompts_of(lm, chosen.data, chosen.shots, chosen.queries)
    labels = [list(label) for label in prompts.labels]
    gold = torch.tensor([prompts.task.labels.index(e.label) for e in examples])
    demonstrated = lm.tokenizer.decode([token for demonstration in demonstrations for token in demonstration])
    texts = [demonstrated + lm.tokenizer.decode(prompts.query(e)) for e in examples]
    words = [lm.tokenizer.decode(label) for label in labels]
    # The harness reads each prompt as one text, in which a line break may join other tokens than at a text's end.
    whole = [lm.tokens(text) for text in texts]
    shared = next(i for i, column in enumerate(zip(*whole, strict=False)) if len(set(column)) > 1)
    prefix = whole[0][:shared]
    queries = [tokens[len(prefix) :] for tokens in whole]

    start = time.perf_counter()
    context = encode_token_groups(
        lm.model, [[prefix]], bos="none", prefix=(), model_name=lm.fingerprint, progress=False
    )
    ours = lm.score(queries, labels, context=context, method="sequential").argmax(1)
    ours_s = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        rows = [{"prompt": text, "label": int(label)} for text, label in zip(texts, gold, strict=True)]
        theirs, theirs_s = _harness(lm, rows, words, Path(folder))
    one_by_one_s = _one_by_one(lm, prefix, queries[: chosen.candidates], labels) / chosen.candidates * len(queries)

    same = int((ours == theirs).sum())
    accuracy, accuracy_theirs = float((ours == gold).float().mean()), float((theirs == gold).float().mean())
    print(f"{chosen.shots} shots, {len(prefix)} tokens, {len(queries)} queries; {same} of them answered alike")
    table = [
        ("way", "seconds", "accuracy", "times ours"),
        ("LMOps Lab (encoding included)", f"{ours_s:.1f}", f"{accuracy:.3f}", "1.0"),
        ("lm-evaluation-harness", f"{theirs_s:.1f}", f"{accuracy_theirs:.3f}", f"{theirs_s / ours_s:.1f}"),
        (
            f"one candidate at a time (from {chosen.candidates})",
            f"{one_by_one_s:.1f}",
            "",
            f"{one_by_one_s / ours_s:.1f}",
        ),
    ]
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "shots": chosen.shots,
        "queries": len(queries),
        "speedup": round(theirs_s / ours_s, 1),
        "speedup_one_by_one": round(one_by_one_s / ours_s, 1),
        "accuracy": round(accuracy, 3),
        "accuracy_lm_eval": round(accuracy_theirs, 3),
        "same": same,
    }
    report(table, figures)


def _harness(
    lm: LanguageModel, rows: list[dict[str, Any]], words: list[str], folder: Path
) -> tuple[torch.Tensor, float]:
    """Answers and seconds of lm-evaluation-harness on a local task file, its model being our model object."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    data = folder / "queries.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": "same_prompts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{label}}",
        "doc_to_choice": words,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "same_prompts.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=1)
    start = time.perf_counter()
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=["same_prompts"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    took = time.perf_counter() - start
    samples = sorted(results["samples"]["same_prompts"], key=lambda sample: sample["doc_id"])
    scores = torch.tensor([[float(pair[0]) for pair in sample["filtered_resps"]] for sample in samples])
    return scores.argmax(1), took


@torch.inference_mode()
def _one_by_one(lm: LanguageModel, prefix: list[int], queries: list[list[int]], labels: list[list[int]]) -> float:
    start = time.perf_counter()
    for query in queries:
        for label in labels:
            row = torch.tensor([prefix + query + label])
            logits = lm.model(row, use_cache=False).logits[0, -len(label) - 1 : -1].float()
            logits.log_softmax(-1)[torch.arange(len(label)), torch.tensor(label)].sum()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
