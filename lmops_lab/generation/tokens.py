"""What a pipeline's text encoders read of a prompt: CLIP stops after 77 tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_NO_LIMIT = 10**6  # tokenizers without a limit claim about 1e30


@dataclass(frozen=True)
class TokenBudget:
    """How much of a text encoder's window a prompt takes.

    Attributes:
        used: tokens of the whole prompt, start and end included.
        limit: tokens that are read.
        cut: the end of the prompt that is not read; empty if all is.
        unknown: pieces that the tokenizer has no token for.
    """

    used: int
    limit: int
    cut: str
    unknown: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether all is read."""
        return self.used <= self.limit


def token_budget(tokenizer: Any, text: str, limit: int | None = None) -> TokenBudget:
    """Count a prompt's tokens and find what is cut.

    Args:
        tokenizer: a fast tokenizer of transformers.
        limit: tokens that the encoder reads; default the tokenizer's own.
    """
    limit = limit or int(tokenizer.model_max_length)
    coded = tokenizer(
        text, truncation=False, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    body = [
        (token, start, end)
        for token, (start, end), special in zip(
            coded.input_ids, coded.offset_mapping, coded.special_tokens_mask, strict=True
        )
        if end > start or not special
    ]
    kept = limit - (len(coded.input_ids) - len(body))
    cut = text[body[kept][1] :] if len(body) > kept else ""
    # CLIP's unknown token is also its end token: only pieces inside the text count.
    unknown = [text[start:end] for token, start, end in body if token == tokenizer.unk_token_id]
    return TokenBudget(len(coded.input_ids), limit, cut, tuple(dict.fromkeys(unknown)))


def tokenizers_of(pipeline: Any) -> Iterator[tuple[Any, int]]:
    """Every tokenizer of a pipeline that stops somewhere, with the tokens its encoder reads."""
    for number in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        if tokenizer is None or not getattr(tokenizer, "is_fast", False):
            continue
        limit = int(tokenizer.model_max_length)
        places = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if places:
            limit = min(limit, int(places))
        if limit < _NO_LIMIT:
            yield tokenizer, limit


def prompt_warnings(pipeline: Any, text: str) -> list[str]:
    """What of a prompt the pipeline will not see, in words; empty if it sees all."""
    found = []
    for tokenizer, limit in tokenizers_of(pipeline):
        budget = token_budget(tokenizer, text, limit)
        name = text if len(text) <= 60 else f"{text[:57]}..."
        if not budget.fits:
            end = budget.cut if len(budget.cut) <= 80 else f"{budget.cut[:77]}..."
            found.append(
                f"prompt {name!r} has {budget.used} tokens, but {type(tokenizer).__name__} reads {budget.limit} "
                f"(start and end included): cut from {end!r} on"
            )
        if budget.unknown:
            found.append(
                f"prompt {name!r} has pieces that {type(tokenizer).__name__} does not know, "
                f"{', '.join(map(repr, budget.unknown[:5]))}: they do not shape the picture"
            )
    return list(dict.fromkeys(found))
