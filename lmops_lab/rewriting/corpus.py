"""From engineered prompts to the pairs that a rewriter learns from (Promptist, section 2.2).

Every engineered prompt is a target with up to four kinds of source: its main content; the content with some of its
modifiers shuffled; the content rephrased; the whole prompt rephrased. So the rewriter learns to improve bare ideas and
half-finished prompts alike.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lmops_lab.files import write_text
from lmops_lab.outside import parse_json, read_text
from lmops_lab.rewriting.content import Parts, split_or_tags, split_prompt, subject_of
from lmops_lab.rewriting.loading import MARKER
from lmops_lab.rewriting.rewriter import repeats_marker

KINDS = ("content", "shuffled", "rephrased content", "rephrased whole")
COLUMNS = ("prompt", "Prompt", "text", "caption")
Rephrase = Callable[[Sequence[str]], Sequence[str]]
"""Other words for texts, one each; an unchanged or empty answer means: leave this one out."""


@dataclass(frozen=True)
class Pair:
    """One lesson: `source` is what a user might type, `target` the engineered prompt.

    Attributes:
        kind: one of `KINDS`.
        subject: what both show; pairs of one subject never stand on both sides of a split.
    """

    source: str
    target: str
    kind: str
    subject: str


@dataclass(frozen=True)
class Corpus:
    """Pairs, and how many prompts were left out and why."""

    pairs: tuple[Pair, ...]
    left_out: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def statistics(self) -> pd.DataFrame:
        """One row a kind: pairs, targets, subjects, mean words of source and target, mean modifiers."""
        rows = []
        for kind in (*KINDS, "all"):
            chosen = [pair for pair in self.pairs if kind in (pair.kind, "all")]
            if not chosen:
                continue
            targets = sorted({pair.target for pair in chosen})
            rows.append(
                {
                    "kind": kind,
                    "pairs": len(chosen),
                    "targets": len(targets),
                    "subjects": len({pair.subject for pair in chosen}),
                    "source words": sum(len(pair.source.split()) for pair in chosen) / len(chosen),
                    "target words": sum(len(pair.target.split()) for pair in chosen) / len(chosen),
                    "modifiers": sum(len(split_or_tags(target).modifiers) for target in targets) / len(targets),
                }
            )
        return pd.DataFrame(rows).set_index("kind")

    def modifiers(self) -> Counter[str]:
        """How many targets use each modifier, most frequent first."""
        counts: Counter[str] = Counter()
        for target in {pair.target for pair in self.pairs}:
            counts.update({modifier.lower() for modifier in split_or_tags(target).modifiers})
        return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))

    def split(self, held_out: float = 0.2, seed: int = 0) -> tuple["Corpus", "Corpus"]:
        """Training and held-out pairs; all pairs of a subject, and all of a target, are on one side.

        Raises:
            ValueError: a share outside (0, 1), or too few subjects for two sides.
        """
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out}; give a share between 0 and 1")
        subjects = sorted({pair.subject for pair in self.pairs})
        if len(subjects) < 2:
            raise ValueError(
                f"the corpus shows {len(subjects)} subject(s) in {len(self.pairs)} pairs; a split needs at least two. "
                "Add prompts that show something else"
            )
        random.Random(seed).shuffle(subjects)  # noqa: S311
        count = min(len(subjects) - 1, max(1, round(held_out * len(subjects))))
        chosen = set(subjects[:count])
        return (
            Corpus(tuple(pair for pair in self.pairs if pair.subject not in chosen)),
            Corpus(tuple(pair for pair in self.pairs if pair.subject in chosen)),
        )

    def save(self, path: Path | str) -> None:
        """Write the pairs as JSON lines."""
        write_text(Path(path), "".join(json.dumps(vars(pair), ensure_ascii=False) + "\n" for pair in self.pairs))

    @classmethod
    def load(cls, path: Path | str) -> "Corpus":
        """Pairs that `save` wrote.

        Raises:
            ValueError: a line that is no pair, with its number.
        """
        pairs = []
        for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
            fields = parse_json(line, f"{path}, line {number}")
            if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
                raise ValueError(f"{path}, line {number} is no pair (its values are texts): {line[:60]!r}")
            try:
                pairs.append(Pair(**fields))
            except TypeError as error:
                raise ValueError(f"{path}, line {number} is no pair ({error}): {line[:60]!r}") from error
        return cls(tuple(pairs))


def read_prompts(source: Path | str, *, column: str | None = None, split: str = "train") -> list[str]:
    """Engineered prompts from a text file (one a line), a JSONL file, or a data set of the `datasets` library.

    Args:
        source: "prompts.txt", "prompts.jsonl", or what `datasets.load_dataset` takes: a folder, or a name such as
            "Gustavosta/Stable-Diffusion-Prompts".
        column: where the prompt is; default the first of prompt, Prompt, text, caption that is there.

    Raises:
        FileNotFoundError: a path that does not exist, or a data set that cannot be loaded.
        ValueError: no prompts, a line that is no JSON, or no such column.
    """
    path = Path(source).expanduser()
    if path.is_file():
        lines = [line for line in read_text(path).splitlines() if line.strip()]
        if path.suffix != ".jsonl":
            prompts = [line.strip() for line in lines]
        else:
            rows = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
            prompts = [_prompt_in(row, column, path) for row in rows]
    elif not path.is_dir() and (path.suffix in (".txt", ".jsonl") or path.is_absolute() or str(source).startswith(".")):
        raise FileNotFoundError(f"there is no file {str(source)!r}; give a .txt or .jsonl file, or a data set's name")
    else:
        prompts = _from_datasets(str(source), column, split)
    if not prompts:
        raise ValueError(f"{str(source)!r} holds no prompts")
    return prompts


def _prompt_in(row: Any, column: str | None, source: Path | str) -> str:
    if isinstance(row, str):
        return row.strip()
    if not isinstance(row, Mapping):
        raise ValueError(f"{source} holds {str(row)[:60]!r}, which is neither a text nor an object with a text column")  # noqa: TRY004
    name = column or next((name for name in COLUMNS if name in row), None)
    if name is None or not isinstance(row.get(name), str):
        raise ValueError(f"{source} has no text column {column or ' or '.join(COLUMNS)}; it has {', '.join(row)}")
    return str(row[name]).strip()


def _from_datasets(name: str, column: str | None, split: str) -> list[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split)
    except Exception as error:
        raise FileNotFoundError(
            f"the data set {name!r} (split {split!r}) cannot be loaded: {str(error).splitlines()[0]}; check the name "
            "and the network, or give a .txt or .jsonl file"
        ) from error
    return [_prompt_in(row, column, name) for row in rows]


def build_corpus(
    prompts: Iterable[str],
    *,
    rephrase: Rephrase | None = None,
    kinds: Sequence[str] = KINDS,
    most_words: int = 75,
    seed: int = 0,
) -> Corpus:
    """All pairs that engineered prompts give.

    Prompts are left out that repeat an earlier one (case, spaces and the order of modifiers aside), show nothing, hold
    the marker, have no modifier, or are longer than `most_words`. A pair whose source equals its target teaches
    nothing and is left out too.

    Args:
        rephrase: other words for texts (`lmops_lab.rewriting.rephrase`); without it the last two kinds are left out.

    Raises:
        ValueError: an unknown kind, or no pair at all.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind of pair {unknown[0]!r}; choose among {', '.join(KINDS)}")
    left_out: Counter[str] = Counter()
    kept = _kept(prompts, most_words, left_out)
    draw = random.Random(seed)  # noqa: S311
    pairs: list[Pair] = []
    for target, parts in kept:
        subject = subject_of(parts.content)
        if "content" in kinds:
            pairs.append(Pair(parts.content, target, "content", subject))
        if "shuffled" in kinds:
            pairs.append(Pair(_some_shuffled(parts, draw), target, "shuffled", subject))
    if rephrase is not None and kept:
        for kind in ("rephrased content", "rephrased whole"):
            if kind in kinds:
                pairs += _rephrased(kept, kind, rephrase, left_out)
    unique = {(pair.source, pair.target): pair for pair in reversed(pairs) if pair.source != pair.target}
    ordered = tuple(pair for pair in pairs if unique.get((pair.source, pair.target)) is pair)
    if not ordered:
        raise ValueError(f"no pair can be made of these prompts; left out: {dict(left_out) or 'there were none'}")
    return Corpus(ordered, tuple(left_out.items()))


def _kept(prompts: Iterable[str], most_words: int, left_out: Counter[str]) -> list[tuple[str, Parts]]:
    seen, kept = set(), []
    for prompt in prompts:
        target = " ".join(prompt.split())
        try:
            parts = split_prompt(target)
        except ValueError:
            left_out["shows nothing"] += 1
            continue
        key = (" ".join(parts.content.lower().split()), frozenset(modifier.lower() for modifier in parts.modifiers))
        if repeats_marker(target, MARKER):
            left_out["holds the marker"] += 1
        elif not parts.modifiers:
            left_out["no modifier"] += 1
        elif len(target.split()) > most_words:
            left_out["too long"] += 1
        elif key in seen:
            left_out["repeated"] += 1
        else:
            seen.add(key)
            kept.append((target, parts))
    return kept


def _rephrased(kept: Sequence[tuple[str, Parts]], kind: str, rephrase: Rephrase, left_out: Counter[str]) -> list[Pair]:
    texts = [parts.content if kind == "rephrased content" else target for target, parts in kept]
    pairs = []
    for (target, parts), text, answer in zip(kept, texts, rephrase(texts), strict=True):
        other = answer.strip()
        if other and other != text and not repeats_marker(other, MARKER):
            pairs.append(Pair(other, target, kind, subject_of(parts.content)))
        else:
            left_out[f"no {kind}"] += 1
    return pairs


def _some_shuffled(parts: Parts, draw: random.Random) -> str:
    """The content with a random part of the modifiers, at least one, in random order."""
    chosen = draw.sample(parts.modifiers, draw.randint(1, len(parts.modifiers)))
    return parts.joined(tuple(chosen))


def engineered_prompts(
    contents: Sequence[str],
    count: int,
    *,
    good: Sequence[str],
    useless: Sequence[str] = (),
    harmful: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """Prompts as people engineer them: a content and modifiers, most of them good, some useless, a few harmful.

    Nine in ten prompts have one to five good modifiers; a third have a useless one; one in eight has a harmful one,
    which for one in ten prompts is all they have. So imitation alone learns habits that reinforcement can drop.

    Raises:
        ValueError: no contents or no good modifiers, or fewer possible prompts than asked for.
    """
    if not contents or not good:
        raise ValueError(f"{len(contents)} contents and {len(good)} good modifiers; give at least one of each")
    draw = random.Random(seed)  # noqa: S311
    contents, good, useless, harmful = list(contents), list(good), list(useless), list(harmful)
    made: dict[str, None] = {}
    for _ in range(50 * count):
        if len(made) >= count:
            return list(made)
        plain = draw.random() < 0.1
        words = [] if plain else draw.sample(good, draw.randint(1, min(5, len(good))))
        if useless and draw.random() < 1 / 3:
            words.append(draw.choice(useless))
        if harmful and (plain or draw.random() < 1 / 8):
            words.append(draw.choice(harmful))
        draw.shuffle(words)
        if words:
            made.setdefault(", ".join([draw.choice(contents), *words]))
    raise ValueError(
        f"only {len(made)} different prompts were found, {count} asked for; give more contents or modifiers"
    )


def emoji_corpus(
    count: int = 12_000, *, held_out: float = 0.15, rephrase: Rephrase | None = None, seed: int = 0
) -> tuple[Corpus, list[str]]:
    """The emoji world's corpus, and contents whose subject or setting is in no pair.

    A prompt gives up to two pairs, with `rephrase` up to four (see `build_corpus`). A share `held_out` of the subjects
    and two of the settings never occur in the corpus: they are out of its domain.
    """
    from lmops_lab.emojiworld.captions import DAMNATION, DRAGGING, PRAISE, USELESS
    from lmops_lab.emojiworld.settings import SETTINGS
    from lmops_lab.emojiworld.subjects import SUBJECTS, with_article

    draw = random.Random(seed)  # noqa: S311
    subjects, places = sorted(SUBJECTS), sorted(SETTINGS)
    draw.shuffle(subjects)
    draw.shuffle(places)
    new_subjects, new_places = set(subjects[: max(1, round(held_out * len(subjects)))]), set(places[:2])
    known: list[str] = []
    unknown: list[str] = []
    for subject in sorted(SUBJECTS):
        for place in (None, *sorted(SETTINGS)):
            for phrase in SETTINGS[place].phrases if place else ("",):
                content = f"{with_article(subject)} {phrase}".strip()
                (unknown if subject in new_subjects or place in new_places else known).append(content)
    prompts = engineered_prompts(
        known, count, good=list(PRAISE), useless=USELESS, harmful=[*DAMNATION, *DRAGGING], seed=seed
    )
    return build_corpus(prompts, rephrase=rephrase, seed=seed), unknown
