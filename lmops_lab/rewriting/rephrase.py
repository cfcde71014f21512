"""Other words for a text, by a language model with a few examples; offline by the embedded one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from lmops_lab import origins
from lmops_lab.rewriting.decoding import Decoding, decode
from lmops_lab.rewriting.loading import Loaded, load_causal
from lmops_lab.rewriting.rewriter import completion_text

EXAMPLES = (
    ("a rabbit wearing a space suit", "rabbit dressed as an astronaut"),
    ("a castle on a hill at sunset", "castle up on the hill while the sun goes down"),
    (
        "an old man reading a book by the fire, oil painting",
        "painting in oil of an elderly man with a book near the fireplace",
    ),
    ("a red sports car in the rain", "rainy day, sports car, red"),
)


@dataclass(frozen=True, eq=False)
class Rephraser:
    """Rewords texts by sampling from a language model after a few examples. Calling it rewords a list.

    An answer is the first line that the model writes. Answers that are empty, that repeat the text, or that share no
    word of four letters or more with it (the model wandered off) come back empty.

    Attributes:
        examples: (text, other words) pairs that show the model what is meant.
        temperature: of sampling.
        seed: draws depend on the text and this.
    """

    loaded: Loaded = field(repr=False)
    examples: Sequence[tuple[str, str]] = EXAMPLES
    temperature: float = 0.7
    seed: int = 0
    batch: int = 16

    @classmethod
    def load(cls, name: str = origins.EMBEDDED, *, seed: int = 0) -> "Rephraser":
        """A rephraser by the name of a causal language model."""
        return cls(load_causal(name), seed=seed)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Other words for every text, or "" where the model found none."""
        tokenizer = self.loaded.tokenizer
        shown = "".join(f"Text: {text}\nOther words: {other}\n\n" for text, other in self.examples)
        rows = [
            list(tokenizer(f"{shown}Text: {text}\nOther words:", add_special_tokens=False).input_ids) for text in texts
        ]
        # The answer is one line, so the line's end may end the search.
        line_end = tokenizer("\n", add_special_tokens=False).input_ids
        end = int(line_end[0]) if len(line_end) == 1 else int(tokenizer.eos_token_id)
        search = Decoding("sampling", max_new_tokens=40, temperature=self.temperature, top_p=0.9)
        answers: list[str] = []
        starts = range(0, len(rows), self.batch)
        for start in tqdm(starts, desc="rephrasing", disable=len(starts) < 2, leave=False):
            found = decode(
                self.loaded.model,
                rows[start : start + self.batch],
                search,
                candidates=1,
                end=end,
                pad=int(tokenizer.pad_token_id),
                seed=self.seed,
            )
            answers += [completion_text(tokenizer, hypotheses[0].tokens) for hypotheses in found]
        return [_accepted(text, answer.split("\n")[0].strip()) for text, answer in zip(texts, answers, strict=True)]


def _accepted(text: str, answer: str) -> str:
    shared = {word for word in _words(text) & _words(answer) if len(word) >= 4}
    short = not any(len(word) >= 4 for word in _words(text))
    return answer if answer and answer.lower() != text.lower() and (shared or short) else ""


def _words(text: str) -> set[str]:
    return {word.strip(".,;:!?\"'").lower() for word in text.split()}
