"""How much of a prompt a CLIP text encoder reads: 77 tokens, start and end included."""

from dataclasses import dataclass, field

from transformers import AutoTokenizer, PreTrainedTokenizerBase

CLIP_TOKENS = 77
CLIP_TOKENIZER = "openai/clip-vit-large-patch14"


@dataclass(frozen=True)
class Reading:
    """What a text encoder reads of a prompt.

    Attributes:
        tokens: tokens of the whole prompt, start and end included.
        cut: the end of the prompt that is not read; empty where everything fits.
    """

    tokens: int
    cut: str


@dataclass(frozen=True, eq=False)
class ClipBudget:
    """A counter of CLIP tokens.

    Attributes:
        tokenizer: of the text encoder, or another byte-pair tokenizer as an estimate.
        estimated: whether the tokenizer is not CLIP's own.
        limit: tokens that are read, start and end included.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    estimated: bool
    limit: int = CLIP_TOKENS

    @classmethod
    def load(cls, fallback: PreTrainedTokenizerBase, name: str | None = None) -> "ClipBudget":
        """CLIP's tokenizer if it is on this machine, otherwise an estimate by another tokenizer.

        Nothing is downloaded unless `name` asks for it: a Hub id or a folder with a CLIP tokenizer, such as the
        `tokenizer` folder of a Stable Diffusion pipeline.

        Raises:
            OSError: `name` is given and cannot be loaded.
        """
        if name is not None:
            return cls(AutoTokenizer.from_pretrained(name, trust_remote_code=False), False)
        try:
            return cls(
                AutoTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True, trust_remote_code=False), False
            )
        except (OSError, ValueError):
            return cls(fallback, True)

    def read(self, text: str) -> Reading:
        """Count a prompt's tokens and find what would be cut."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = encoded["offset_mapping"]
        kept = self.limit - 2  # start and end take their places first
        cut = text[spans[kept][0] :] if len(spans) > kept else ""
        return Reading(len(spans) + 2, cut.strip())
