"""Label log-probabilities scored once; every way of reading an answer from them is a pure function afterwards.

stored = score_task(lm, task, context=context)      # needs the model
stored.save("sst2.parquet")
read_scores(stored, length="mean", calibration="domain")   # does not
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmops_lab.attention.context import GroupedContext, OwnWeight
from lmops_lab.digests import digest_of, read_table
from lmops_lab.files import atomic_file
from lmops_lab.icl.calibration import CALIBRATIONS, Scores, calibrate
from lmops_lab.icl.channel import score_channel
from lmops_lab.icl.knn import vote
from lmops_lab.icl.loaders import nearest
from lmops_lab.icl.prompts import DOMAIN_TEXTS, PromptTokens
from lmops_lab.icl.tasks import Example, Task
from lmops_lab.models import LanguageModel
from lmops_lab.outside import parse_json

FORMAT = "lmops-lab scores 2"
LENGTHS = ("sum", "mean", "pmi")


def _none() -> Scores:
    return np.empty((0, 0))


def _no_labels() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class StoredScores:
    """What a model said about a classification task, as label log-probabilities (nats, summed over label tokens).

    Attributes:
        labels: label names in the order of every matrix.
        tokens: tokens of each label.
        scores: log p(label | demonstrations, query) [queries, labels].
        gold: index of each query's right label.
        content_free, domain: the same for inputs without content, and for random in-domain words.
        unconditional: log p(label | the template's end alone) [1, labels].
        anchors, anchor_gold: scores of further labelled training examples, for kNN prompting.
        channel: log p(query's text | demonstrations, label) [queries, labels].
    """

    labels: tuple[str, ...]
    tokens: NDArray[np.int64]
    scores: Scores
    gold: NDArray[np.int64]
    content_free: Scores = field(default_factory=_none)
    domain: Scores = field(default_factory=_none)
    unconditional: Scores = field(default_factory=_none)
    anchors: Scores = field(default_factory=_none)
    anchor_gold: NDArray[np.int64] = field(default_factory=_no_labels)
    channel: Scores = field(default_factory=_none)

    def save(self, path: Path | str) -> Path:
        """Write one Parquet file: columns part ("scores", "domain", ...), row, gold (-1: none), label, value."""
        path = Path(path)
        tables = []
        for part in _PARTS:
            values = getattr(self, part)
            rows, count = len(values), len(self.labels)
            gold = {"scores": self.gold, "anchors": self.anchor_gold}.get(part, np.full(rows, -1))
            tables.append(
                pa.table(
                    {
                        "part": pa.array([part] * values.size, pa.string()),
                        "row": np.repeat(np.arange(rows), count),
                        "gold": np.repeat(np.asarray(gold, np.int64), count),
                        "label": pa.array(list(self.labels) * rows, pa.string()),
                        "value": np.asarray(values, np.float64).ravel(),
                    }
                )
            )
        about = {"format": FORMAT, "labels": list(self.labels), "tokens": self.tokens.tolist()}
        about["numbers"] = digest_of(None, *self._arrays())
        table = pa.concat_tables(tables).replace_schema_metadata(
            {"lmops_lab": json.dumps(about), "digest": digest_of(about)}
        )
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary)
        return path

    @classmethod
    def load(cls, path: Path | str) -> "StoredScores":
        """Read back what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that something else wrote, or a damaged one.
        """
        table = read_table(path, "score the task again", ("part", "row", "gold", "label", "value"))
        metadata = table.schema.metadata or {}
        try:
            return cls._read(path, table, metadata, parse_json(metadata.get(b"lmops_lab", b"{}"), str(path)))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{str(path)!r} is no whole {FORMAT!r} file ({error}); score the task again") from error

    @classmethod
    def _read(cls, path: Path | str, table: pa.Table, metadata: Mapping[bytes, bytes], about: Any) -> "StoredScores":
        if about.get("format") != FORMAT:
            raise ValueError(f"{str(path)!r} is no {FORMAT!r} file but {about.get('format')!r}; score the task again")
        count = len(about["labels"])
        part, value, gold = (table[name].to_numpy() for name in ("part", "value", "gold"))
        arrays = {name: value[part == name].reshape(-1, count) for name in _PARTS}
        golds = {"gold": gold[part == "scores"][::count], "anchor_gold": gold[part == "anchors"][::count]}
        found = cls(tuple(about["labels"]), np.array(about["tokens"], np.int64), **arrays, **golds)
        if digest_of(about) != metadata.get(b"digest", b"").decode() or about["numbers"] != digest_of(
            None, *found._arrays()
        ):
            raise ValueError(f"{str(path)!r} is not what was written (wrong digest); score the task again")
        return found

    def _arrays(self) -> list[NDArray[Any]]:
        """All numbers in the order of the fields, as they are stored: nothing is [0, labels]."""
        count = len(self.labels)
        scores = [np.asarray(getattr(self, part), np.float64).reshape(-1, count) for part in _PARTS]
        return [self.tokens.astype(np.int64), self.gold.astype(np.int64), self.anchor_gold.astype(np.int64), *scores]


_PARTS = tuple(f.name for f in fields(StoredScores) if f.name not in ("labels", "tokens", "gold", "anchor_gold"))


def score_task(
    lm: LanguageModel,
    task: Task,
    *,
    queries: Sequence[Example] | None = None,
    context: GroupedContext | None = None,
    own_weight: OwnWeight = "groups",
    anchors: Sequence[Example] = (),
    channel: bool = False,
    channel_context: GroupedContext | None = None,
    domain: int = DOMAIN_TEXTS,
    seed: int = 0,
    progress: bool = True,
) -> StoredScores:
    """Score a classification task once, with everything that calibrations and read-outs need afterwards.

    Args:
        queries: examples to ask; default all test examples.
        context: encoded demonstrations; None for zero-shot.
        anchors: labelled examples, not among the demonstrations, that kNN prompting compares with.
        channel: score the noisy channel as well (as many passes over each text as there are labels).
        channel_context: demonstrations with the label before the text (`channel_demonstrations`), encoded; None scores
            the channel without demonstrations.
        domain: how many random in-domain texts.
        seed: of these texts.

    Raises:
        ValueError: a task of another kind, no queries, or whatever `LanguageModel.score` refuses.
    """
    prompts = PromptTokens.of(lm, task)
    asked = list(task.test if queries is None else queries)
    if not asked:
        raise ValueError(f"there is nothing to ask of task {task.name!r}; give at least one query")
    parts = {
        "scores": [prompts.query(example) for example in asked],
        "content_free": prompts.content_free(),
        "domain": prompts.domain(domain, seed),
        "anchors": [prompts.query(example) for example in anchors],
    }
    labels = [list(label) for label in prompts.labels]
    rows = [row for part in parts.values() for row in part]
    values = lm.score(rows, labels, context=context, own_weight=own_weight, progress=progress).double().numpy()
    ends = np.cumsum([len(part) for part in parts.values()])
    split = dict(zip(parts, np.split(values, ends[:-1]), strict=True))
    return StoredScores(
        task.labels,
        np.array([len(label) for label in labels], np.int64),
        gold=_gold(task, asked),
        anchor_gold=_gold(task, anchors),
        unconditional=lm.score([prompts.premise()], labels).double().numpy(),
        channel=score_channel(prompts, asked, context=channel_context, own_weight=own_weight, progress=progress)
        if channel
        else _none(),
        **split,
    )


def read_scores(stored: StoredScores, length: str = "sum", calibration: str = "raw") -> Scores:
    """Scores to answer by: [queries, labels], the largest is the answer.

    Args:
        length: "sum" over the tokens of a label, their "mean", or "pmi": log p(label | query) - log p(label).
        calibration: "raw", "contextual", "domain" (arXiv 2305.19148) or "batch", on top of it.

    Raises:
        ValueError: an unknown word, or a part that was not scored.
    """
    for what, word, known in (("length", length, LENGTHS), ("calibration", calibration, tuple(CALIBRATIONS))):
        if word not in known:
            raise ValueError(f"{what} is {word!r}; choose among {', '.join(known)}{nearest(word, known)}")
    free = {"contextual": "content_free", "domain": "domain"}.get(calibration)
    for part in (free, "unconditional" if length == "pmi" else None):
        if part is not None and not len(getattr(stored, part)):
            raise ValueError(f"{part} was not scored, which {length}/{calibration} needs; score the task again with it")
    scores, content_free, domain = (
        _of_length(stored, part, length) for part in (stored.scores, stored.content_free, stored.domain)
    )
    return calibrate(calibration, scores, content_free, domain)


def read_channel(stored: StoredScores, calibration: str = "raw") -> Scores:
    """Noisy channel: log p(text | label) with labels equally likely (arXiv 2108.04106): [queries, labels].

    Raises:
        ValueError: the channel was not scored, or a calibration other than "raw" and "batch".
    """
    if not len(stored.channel):
        raise ValueError("the channel was not scored; call score_task(..., channel=True)")
    if calibration not in ("raw", "batch"):
        raise ValueError(f"calibration is {calibration!r}; the channel has 'raw' and 'batch'")
    return calibrate(calibration, stored.channel, np.zeros((1, len(stored.labels))))


def read_neighbours(stored: StoredScores, neighbours: int = 8, length: str = "sum") -> Scores:
    """Share of each label among the nearest anchors (kNN prompting): [queries, labels].

    Raises:
        ValueError: no anchors were scored, or more neighbours than anchors.
    """
    queries, anchors = (_of_length(stored, part, length) for part in (stored.scores, stored.anchors))
    return vote(queries, anchors, stored.anchor_gold, neighbours)


def _of_length(stored: StoredScores, values: Scores, length: str) -> Scores:
    if length == "mean":
        return values / stored.tokens
    return values - stored.unconditional if length == "pmi" else values


def _gold(task: Task, examples: Sequence[Example]) -> NDArray[np.int64]:
    return np.array([task.labels.index(example.label) for example in examples], np.int64)
