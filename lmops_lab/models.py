"""Language models by name: the embedded one, a Hub id, a local folder or a GGUF file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmops_lab import machine, weights
from lmops_lab.attention.context import BosPolicy, GroupedContext, OwnWeight
from lmops_lab.attention.files import load_context
from lmops_lab.attention.probe import check_config, prepare
from lmops_lab.attention.scoring import mean_token_scores, score_labels
from lmops_lab.shapes import LabelScores

if TYPE_CHECKING:
    from lmops_lab.attention.grouping import Tokens


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer, its origin and what it costs.

    Attributes:
        name: the name it was loaded by.
        model: the transformers model, in evaluation mode, with structured attention installed.
        revision: commit of a Hub model, content hash of a local one.
        number_format: dtype and the reason for it.
    """

    name: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    revision: str
    number_format: machine.NumberFormat

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def context_length(self) -> int:
        """Positions the model was made for (tokens)."""
        return int(self.model.config.max_position_embeddings)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one encoded token takes: 2 * layers * kv_heads * head_dim * bytes."""
        config = self.model.config
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * kv_heads * dim * self.model.dtype.itemsize)

    @property
    def fingerprint(self) -> str:
        """Name, revision and dtype: what encoded groups must agree on."""
        return f"{self.name}@{self.revision}/{str(self.model.dtype).removeprefix('torch.')}"

    def __repr__(self) -> str:
        config = self.model.config
        dtype = str(self.model.dtype).removeprefix("torch.")
        return (
            f"LanguageModel {self.name!r}, revision {self.revision}\n"
            f"  {config.model_type}, {self.model.num_parameters() / 1e6:.1f} M parameters, "
            f"{config.num_hidden_layers} layers, {self.context_length} positions\n"
            f"  {dtype} on {self.device} ({self.number_format.reason}), "
            f"{self.kv_bytes_per_token / 1e3:.1f} kB of K/V per token"
        )

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, without any special token added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def bos_tokens(self, bos: BosPolicy) -> list[int]:
        """The prefix that a BOS policy asks for: the tokenizer's BOS token, or its EOS where it has none.

        Raises:
            ValueError: an unknown policy, or a tokenizer without both tokens.
        """
        if bos not in ("none", "group", "shared"):
            raise ValueError(f"bos is {bos!r}; choose 'none', 'group' (one BOS a group) or 'shared' (one for all)")
        if bos == "none":
            return []
        token = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if token is None:
            raise ValueError(f"the tokenizer of {self.name!r} has neither BOS nor EOS token; use bos='none'")
        return [int(token)]

    def load_context(self, path: Path | str) -> GroupedContext:
        """A context that `GroupedContext.save` wrote and this very model encoded.

        Raises:
            FileNotFoundError, ValueError: see `lmops_lab.attention.files.load_context`.
        """
        return load_context(path, self.fingerprint, str(self.device))

    def score(
        self,
        queries: "Sequence[str] | Sequence[Tokens]",
        labels: "Sequence[str] | Sequence[Tokens]",
        *,
        context: GroupedContext | None = None,
        own_weight: OwnWeight = "groups",
        length: str = "sum",
        progress: bool = False,
    ) -> LabelScores:
        """Log-probability of every label after every query: [queries, labels], nats.

        Args:
            queries, labels: texts or token ids; a label usually begins with a space.
            context: encoded demonstrations from `encode_groups`; None for zero-shot.
            own_weight: weight M of the query's own attention: "groups", "sqrt_groups" or a number (1: plain windows).
            length: "sum" or "mean" over the tokens of a label.

        Raises:
            ValueError: an unknown `length`, a context of another model, or whatever `score_labels` refuses.
        """
        if length not in ("sum", "mean"):
            raise ValueError(f"length is {length!r}; choose 'sum' or 'mean'")
        if context is not None and context.model != self.fingerprint:
            raise ValueError(
                f"the context was encoded by {context.model}, not by {self.fingerprint}; encode the demonstrations "
                "again with this model"
            )
        for what, texts in (("queries", queries), ("labels", labels)):
            if isinstance(texts, str):
                raise ValueError(f"{what} is one text, {texts[:40]!r}; give a list of texts")  # noqa: TRY004
        label_tokens = self._all_tokens(labels)
        scores = score_labels(
            self.model,
            self._all_tokens(queries),
            label_tokens,
            context=context,
            own_weight=own_weight,
            progress=progress,
        )
        return scores if length == "sum" else mean_token_scores(scores, [len(label) for label in label_tokens])

    def _all_tokens(self, texts: "Sequence[str] | Sequence[Tokens]") -> "list[Tokens]":
        return [self.tokens(text) if isinstance(text, str) else text for text in texts]


def load_model(name: str = weights.EMBEDDED, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load a causal language model and install structured attention in it.

    Args:
        name: "smollm2-135m" (embedded, no network), a Hub id ("Qwen/Qwen3-0.6B", optionally "id@revision"), a local
            folder with safetensors, or a .gguf file.
        dtype: "auto" (bfloat16 only where the processor is fast at it) or "float32", "bfloat16", "float16", "float64".
        device: "auto", "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: an unknown dtype or device, or an architecture that structured attention does not support.
        FileNotFoundError: no such model; the message says how to get it.
    """
    where = machine.choose_device(device)
    number_format = machine.choose_dtype(dtype, where)
    machine.keep_freed_memory()
    source = weights.locate(name)
    options = {"revision": source.hub_revision} if source.hub_revision else {}
    with weights.explained(name):
        config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=False, **options)
    check_config(config)
    with weights.explained(name), weights.quiet(source):
        model = AutoModelForCausalLM.from_pretrained(
            str(source.path), dtype=number_format.dtype, use_safetensors=True, trust_remote_code=False, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(str(source.path), trust_remote_code=False, **options)
    torch.nn.Module.to(model, where)
    model.eval().requires_grad_(False)
    prepare(model)
    return LanguageModel(name, model, tokenizer, source.revision or source.hub_revision, number_format)
