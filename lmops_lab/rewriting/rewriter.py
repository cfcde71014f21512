"""`Rewriter`: a language model that turns what a user types into a better prompt (Promptist, Hao et al. 2023).

The model reads "<user text> Rephrase:" and completes it; the completion is the rewrite. It is taken from the generated
tokens, never by searching the decoded text for the marker, so neither trailing spaces nor a marker that the model
repeats can shift it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from lmops_lab.attention.forward import position_limit
from lmops_lab.rewards.embedded import PIPELINE
from lmops_lab.rewriting.budget import CLIP_TOKENS, ClipBudget
from lmops_lab.rewriting.decoding import Decoding, Hypothesis, beam_score, decode, legacy_beam_score
from lmops_lab.rewriting.loading import (
    MARKER,
    PROMPTIST_DECODING,
    PROMPTIST_END,
    PROMPTIST_MODEL,
    PROMPTIST_TOKENIZER,
    Loaded,
    load_causal,
)

EMBEDDED_FOLDER = Path(__file__).parents[1] / "weights" / "rewriters"
EMBEDDED = {"emoji": "reinforced", "emoji-sft": "supervised"}
ROWS = 64  # beams or samples that are computed at once


@dataclass(frozen=True)
class Candidate:
    """One rewrite.

    Attributes:
        text: the rewrite.
        score: beam score as transformers computes it since 4.36 (what the candidates are ordered by).
        legacy_score: beam score as before 4.36, when Promptist was published.
        log_probability: nats, the end token included.
        tokens: generated tokens, the end token included.
        finished: whether the model ended the rewrite itself.
        clip_tokens: CLIP tokens of the rewrite, start and end included; 77 are read.
        cut: the end of the rewrite that CLIP does not read.
        repeats_marker: whether the marker occurs in the rewrite, which tricks scorers that split at it.
    """

    text: str
    score: float
    legacy_score: float
    log_probability: float
    tokens: int
    finished: bool
    clip_tokens: int
    cut: str
    repeats_marker: bool


@dataclass(frozen=True)
class Rewrite:
    """The rewrites of one user text, best first.

    Attributes:
        user: the text that was rewritten: the user's, stripped, its lines joined by spaces.
        candidates: at least one.
        truncated: whether the user's text was longer than the model reads and was shortened.
        clip_estimated: whether CLIP tokens are an estimate, for want of CLIP's tokenizer.
    """

    user: str
    candidates: tuple[Candidate, ...]
    truncated: bool
    clip_estimated: bool

    @property
    def best(self) -> str:
        """The rewrite with the best score."""
        return self.candidates[0].text

    @property
    def legacy_best(self) -> str:
        """The rewrite that ranks first by the score of transformers before 4.36."""
        return max(self.candidates, key=lambda candidate: candidate.legacy_score).text

    def to_frame(self) -> pd.DataFrame:
        """One row a candidate."""
        return pd.DataFrame([vars(candidate) for candidate in self.candidates])

    def __str__(self) -> str:
        lines = [f"{self.user!r}{' (shortened)' if self.truncated else ''}"]
        for candidate in self.candidates:
            over = f", CLIP does not read {candidate.cut!r}" if candidate.cut else ""
            lines.append(f"  {candidate.score:9.2f}  {candidate.text}  [{candidate.clip_tokens} CLIP tokens{over}]")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Rewriter:
    """A prompt rewriter. Calling it with texts gives the best rewrite of each, which makes it a rewriting method.

    Attributes:
        name, revision: what was loaded.
        marker: text between the user's and the rewrite.
        decoding: how rewrites are searched for unless a call says otherwise.
        budget: counter of CLIP tokens.
    """

    name: str
    loaded: Loaded = field(repr=False)
    marker: str
    decoding: Decoding
    budget: ClipBudget = field(repr=False)

    @property
    def revision(self) -> str:
        """Content hash or commit of the weights."""
        return self.loaded.revision

    @classmethod
    def load(
        cls,
        name: str = "emoji",
        *,
        tokenizer: str | None = None,
        decoding: Decoding | None = None,
        marker: str | None = None,
        clip: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> "Rewriter":
        """Load a rewriter.

        Args:
            name: "emoji" (embedded, trained by reinforcement; "emoji-sft" before it), "promptist" (the published model
                and its published constants), a Hub id or folder of a causal language model, or a folder with a LoRA
                adapter on any causal language model.
            tokenizer: another place for the tokenizer.
            decoding, marker: other than those the rewriter was trained for.
            clip: a CLIP tokenizer (Hub id or folder); default: the one on this machine, or an estimate.

        Raises:
            FileNotFoundError: no such model; the message says how to get it.
            ValueError: an adapter for another base model.
        """
        place, own_tokenizer = located(name)
        tokenizer = tokenizer or own_tokenizer
        if name == "promptist":
            decoding = decoding or PROMPTIST_DECODING
        elif name in EMBEDDED and clip is None and (PIPELINE / "tokenizer").is_dir():
            clip = str(PIPELINE / "tokenizer")  # of the pictures that it was trained for
        loaded = load_causal(place, tokenizer=tokenizer, dtype=dtype, device=device)
        if name == "promptist" and loaded.tokenizer.eos_token_id != PROMPTIST_END:
            raise ValueError(
                f"Promptist ends rewrites with token {PROMPTIST_END}, the tokenizer {tokenizer!r} with "
                f"{loaded.tokenizer.eos_token_id}; use tokenizer='{PROMPTIST_TOKENIZER}'"
            )
        return cls(
            name,
            loaded,
            loaded.card.marker if marker is None else marker,
            decoding or loaded.card.decoding,
            ClipBudget.load(loaded.tokenizer, clip),
        )

    def rewrite(
        self,
        text: str,
        candidates: int = 8,
        *,
        decoding: Decoding | None = None,
        seed: int = 0,
        on_long: str = "error",
    ) -> Rewrite:
        """Rewrite one text. See `rewrite_many`."""
        return self.rewrite_many([text], candidates, decoding=decoding, seed=seed, on_long=on_long, progress=False)[0]

    def rewrite_many(
        self,
        texts: Sequence[str],
        candidates: int = 8,
        *,
        decoding: Decoding | None = None,
        seed: int = 0,
        on_long: str = "error",
        progress: bool = True,
    ) -> list[Rewrite]:
        """Rewrite texts in batches; a text's rewrites depend on the text, the decoding and the seed alone.

        Args:
            candidates: rewrites a text; the search is widened to as many beams where it has fewer.
            on_long: what to do with a text that leaves no room for a rewrite: "error", or "truncate" at a word.

        Raises:
            ValueError: an empty text, one that contains the marker, or one that is too long.
        """
        if isinstance(texts, str):
            raise TypeError(f"give a list of texts, not one text ({texts[:40]!r}); `rewrite` takes one")
        if on_long not in ("error", "truncate"):
            raise ValueError(f"on_long is {on_long!r}; choose 'error' or 'truncate'")
        search = decoding or self.decoding
        if search.method == "beam" and candidates > search.beams:
            search = search.changed(beams=candidates)
        prepared = [self._fit(clean_text(text, self.marker), search.max_new_tokens, on_long) for text in texts]
        rows = [self._prompt_tokens(text) for text, _ in prepared]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # rows of like length pad little
        step = max(1, ROWS // max(candidates, search.beams))
        found: dict[int, list[Hypothesis]] = {}
        tokenizer = self.loaded.tokenizer
        batches = range(0, len(order), step)
        for start in tqdm(batches, desc="rewriting", disable=not progress or len(batches) < 2, leave=False):
            chosen = order[start : start + step]
            completions = decode(
                self.loaded.model,
                [rows[index] for index in chosen],
                search,
                candidates=candidates,
                end=int(tokenizer.eos_token_id),
                pad=int(tokenizer.pad_token_id),
                seed=seed,
            )
            found.update(zip(chosen, completions, strict=True))
        return [
            Rewrite(
                text,
                self._candidates(found[index], len(rows[index]), search.length_penalty),
                truncated,
                self.budget.estimated,
            )
            for index, (text, truncated) in enumerate(prepared)
        ]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The best rewrite of every text, found with the rewriter's own decoding."""
        # A model may end at once; a picture of nothing would be drawn from an empty rewrite.
        return [rewrite.best or rewrite.user for rewrite in self.rewrite_many(texts, 1)]

    def _prompt_tokens(self, text: str) -> list[int]:
        return prompt_tokens(self.loaded.tokenizer, text, self.marker)

    def _fit(self, text: str, new_tokens: int, on_long: str) -> tuple[str, bool]:
        limit = position_limit(self.loaded.model)
        room = limit - new_tokens
        length = len(self._prompt_tokens(text))
        if length <= room:
            return text, False
        if on_long == "error":
            raise ValueError(
                f"the text has {len(text)} characters, with the marker {length} tokens; {self.name!r} reads {room} and "
                "writes the rest. Shorten it, or pass on_long='truncate'"
            )
        least = len(self._prompt_tokens(text[:1]))
        if least > room:
            raise ValueError(
                f"{self.name!r} has {limit} positions and is to write {new_tokens} new tokens (max_new_tokens), which "
                f"leaves {room} for the text; the marker and one character take {least}. Lower max_new_tokens"
            )
        shorter = text
        while length > room:
            # Tokens per character vary; a proportional cut with one spare token converges in a few rounds.
            shorter = shorter[: max(1, min(len(shorter) - 1, len(shorter) * (room - 1) // length))]
            length = len(self._prompt_tokens(shorter))
        whole_words = shorter.rpartition(" ")[0].rstrip()
        shorter = whole_words or shorter.rstrip()
        warnings.warn(f"the text was cut from {len(text)} to {len(shorter)} characters to fit", stacklevel=4)
        return shorter, True

    def _candidates(self, found: list[Hypothesis], prompt: int, penalty: float) -> tuple[Candidate, ...]:
        made = []
        for hypothesis in found:
            text = completion_text(self.loaded.tokenizer, hypothesis.tokens)
            reading = self.budget.read(text)
            made.append(
                Candidate(
                    text=text,
                    score=beam_score(hypothesis.log_probability, hypothesis.generated, penalty),
                    legacy_score=legacy_beam_score(hypothesis.log_probability, prompt, len(hypothesis.tokens), penalty),
                    log_probability=hypothesis.log_probability,
                    tokens=hypothesis.generated,
                    finished=hypothesis.finished,
                    clip_tokens=reading.tokens,
                    cut=reading.cut,
                    repeats_marker=repeats_marker(text, self.marker),
                )
            )
        over = [candidate for candidate in made if candidate.cut]
        if over:
            how = "by another tokenizer's count, about " if self.budget.estimated else ""
            warnings.warn(
                f"{how}{len(over)} of {len(made)} rewrites are longer than the {CLIP_TOKENS} tokens CLIP reads; "
                f"for example {over[0].cut!r} is cut",
                stacklevel=4,
            )
        return tuple(sorted(made, key=lambda candidate: -candidate.score))


def located(name: str) -> tuple[str, str | None]:
    """Where the model or adapter of a rewriter's name is, and the tokenizer it needs if that is elsewhere.

    Raises:
        FileNotFoundError: an embedded rewriter that is not there.
    """
    if name in ("promptist", PROMPTIST_MODEL):
        return PROMPTIST_MODEL, PROMPTIST_TOKENIZER
    if name not in EMBEDDED:
        return name, None
    folder = EMBEDDED_FOLDER / EMBEDDED[name]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the embedded rewriter {name!r} is not in {str(folder)!r}; train one "
            "(lmops_lab.rewriting.supervised, .reinforcement), or load 'promptist' where there is a network"
        )
    return str(folder), None


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str, marker: str = MARKER) -> list[int]:
    """Tokens that a rewrite is written after: as in training, so with the start token of tokenizers that have one."""
    tokens = list(tokenizer(text + marker).input_ids)
    return tokens[:-1] if len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id else tokens


def clean_text(text: str, marker: str = MARKER) -> str:
    """What a user typed as the model is shown it: stripped, lines joined by single spaces.

    Raises:
        ValueError: nothing is left, or the marker occurs inside.
    """
    cleaned = " ".join(line.strip() for line in text.splitlines() if line.strip())
    if not cleaned:
        raise ValueError(f"the prompt {text[:40]!r} is empty; type what the picture should show")
    if repeats_marker(cleaned, marker):
        raise ValueError(
            f"the prompt {cleaned[:60]!r} contains {marker.strip()!r}, which separates a prompt from its rewrite; "
            "remove it"
        )
    return cleaned


def completion_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """A completion as text, the same for whoever reads or scores it: all of it, only stripped."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def repeats_marker(text: str, marker: str = MARKER) -> bool:
    """Whether the marker stands in a text, at its beginning too, where the leading space is missing."""
    return marker.strip() in text
