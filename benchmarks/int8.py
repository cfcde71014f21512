"""What keeping a context in int8 costs: differences of scores and answers, beside the memory it saves.

python benchmarks/int8.py
"""

from common import report

from lmops_lab import encode_groups, load_model, load_task
from lmops_lab.icl.calibration import calibrate
from lmops_lab.icl.demonstrations import draw_demonstrations, draw_queries
from lmops_lab.icl.prompts import PromptTokens

TASKS, DEMONSTRATIONS, QUERIES, SEEDS = ("questions", "headlines"), 96, 100, 1


def main() -> None:
    lm = load_model()
    print(lm)
    rows = [
        ("task", "seed", "memory", "median |difference|, nats", "largest", "answers changed", "accuracy", "in int8")
    ]
    changed, asked, gains, shares = 0, 0, [], []
    for name in TASKS:
        task = load_task(name)
        prompts = PromptTokens.of(lm, task)
        examples = [task.test[i] for i in draw_queries(task.test, QUERIES)]
        gold = [task.labels.index(example.label) for example in examples]
        for seed in range(1, SEEDS + 1):
            drawn = draw_demonstrations(task.train, DEMONSTRATIONS, seed)
            whole = encode_groups(lm, prompts.demonstrations(drawn), group_size=16, progress=False)
            small = whole.quantized()
            queries, labels = [prompts.query(example) for example in examples], list(prompts.labels)
            exact, rough = (lm.score(queries, labels, context=context).numpy() for context in (whole, small))
            answers = [calibrate("batch", scores, scores).argmax(1) for scores in (exact, rough)]
            right = [float((answer == gold).mean()) for answer in answers]
            apart = abs(exact - rough)
            different = int((answers[0] != answers[1]).sum())
            changed, asked = changed + different, asked + len(queries)
            gains.append(right[1] - right[0])
            shares.append(small.nbytes / whole.nbytes)
            columns = (f"{shares[-1]:.2f}", f"{float(sorted(apart.flat)[apart.size // 2]):.3f}", f"{apart.max():.3f}")
            rows.append((name, str(seed), *columns, f"{different} of {QUERIES}", f"{right[0]:.3f}", f"{right[1]:.3f}"))
    figures = {
        "dtype": str(lm.model.dtype).removeprefix("torch."),
        "memory_share": round(shares[0], 3),
        "changed": changed,
        "asked": asked,
        "accuracy_change": round(sum(gains) / len(gains), 4),
    }
    report(rows, figures)


if __name__ == "__main__":
    main()
