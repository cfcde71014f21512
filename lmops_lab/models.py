"""Language models by name: the embedded one, a Hub id, a local folder or a GGUF file."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TextIteratorStreamer,
)

from lmops_lab import machine, origins
from lmops_lab.attention.context import BosPolicy, GroupedContext, OwnWeight
from lmops_lab.attention.files import load_context
from lmops_lab.attention.forward import key_value_shapes, position_limit
from lmops_lab.attention.generate import generate_tokens
from lmops_lab.attention.mass import mass_of_tokens
from lmops_lab.attention.methods import check_method, score_method
from lmops_lab.attention.probe import Capabilities, check_config, prepare
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
        return position_limit(self.model)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one encoded token takes: 2 * layers * kv_heads * head_dim * bytes."""
        shapes = key_value_shapes(self.model)
        return sum(heads * (key_dim + value_dim) for heads, key_dim, value_dim in shapes) * self.model.dtype.itemsize

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

    def capabilities(self) -> Capabilities:
        """How structured attention runs on this model: its route, what was checked, and which kernel attends."""
        return cast("Capabilities", self.model.lmops_capabilities)

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
        method: str = "structured",
        own_weight: OwnWeight = "groups",
        length: str = "sum",
        progress: bool = False,
        **settings: Any,
    ) -> LabelScores:
        """Log-probability of every label after every query: [queries, labels], nats.

        Args:
            queries, labels: texts or token ids; a label usually begins with a space.
            context: encoded demonstrations from `encode_groups`; None for zero-shot.
            method: how the groups are used (see `lmops_lab.attention.methods.METHODS`); without a context there is
                nothing to choose.
            own_weight: weight M of the query's own attention: "groups", "sqrt_groups" or a number (1: plain windows).
            settings: `temperature`, `exponent` (APE), `beta` (NBCE), `group_weights` (ensemble).
            length: "sum" or "mean" over the tokens of a label.

        Raises:
            ValueError: an unknown `length` or `method`, a context of another model, or whatever `score_method` refuses.
        """
        if length not in ("sum", "mean"):
            raise ValueError(f"length is {length!r}; choose 'sum' or 'mean'")
        check_method(method)
        self._check_context(context)
        for what, texts in (("queries", queries), ("labels", labels)):
            if isinstance(texts, str):
                raise ValueError(f"{what} is one text, {texts[:40]!r}; give a list of texts")  # noqa: TRY004
        label_tokens = self._all_tokens(labels)
        asked = self._all_tokens(queries)
        if context is None:
            scores = score_labels(self.model, asked, label_tokens, progress=progress)
        else:
            scores = score_method(
                self.model,
                asked,
                label_tokens,
                context=context,
                method=method,
                own_weight=own_weight,
                progress=progress,
                **settings,
            )
        return scores if length == "sum" else mean_token_scores(scores, [len(label) for label in label_tokens])

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        context: GroupedContext | None = None,
        own_weight: OwnWeight = "groups",
        max_new_tokens: int = 64,
        stop: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Any:
        """Continue one prompt (a text) or several (a list of texts), behind a grouped context if one is given.

        Greedy unless `options` say otherwise; a seed for sampling is set by `transformers.set_seed`.

        Args:
            context: encoded demonstrations or documents.
            stop: text or texts at which to end; the stop text itself is cut off.
            options: of `transformers` generate: do_sample, temperature, top_p, num_beams, num_return_sequences,
                streamer, ...; several returned sequences a prompt follow each other in the list.

        Raises:
            ValueError: a context of another model, an empty prompt, or one too long for the positions left.
        """
        self._check_context(context)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        stops = _texts(stop)
        if stops:
            options |= {"stop_strings": stops, "tokenizer": self.tokenizer}
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None} | options
        new = generate_tokens(
            self.model,
            [self.tokens(text) for text in texts],
            context=context,
            own_weight=own_weight,
            max_new_tokens=max_new_tokens,
            pad_token=int(pad) if pad is not None else 0,
            **options,
        )
        answers = [_until(str(self.tokenizer.decode(row, skip_special_tokens=True)), stops) for row in new]
        return answers[0] if isinstance(prompts, str) and len(answers) == 1 else answers

    def stream(self, prompt: str, *, stop: str | Sequence[str] | None = None, **options: Any) -> Iterator[str]:
        """Pieces of the continuation of one prompt as they come; takes what `generate` takes.

        Joined, they are what `generate` returns: a piece that may begin a stop text is held back until that is settled.
        """
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.generate(prompt, streamer=streamer, stop=stop, **options)
            except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
                failed.append(error)
                streamer.end()

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        yield from _pieces_until(streamer, _texts(stop))
        worker.join()
        if failed:
            raise failed[0]

    def attention_mass(
        self,
        queries: str | Sequence[str],
        context: GroupedContext,
        *,
        own_weight: OwnWeight = "groups",
        by: str = "group",
    ) -> Tensor:
        """Share of attention that each group (or demonstration) receives: see `lmops_lab.attention.mass`."""
        self._check_context(context)
        texts = [queries] if isinstance(queries, str) else queries
        return mass_of_tokens(self.model, self._all_tokens(texts), context, own_weight=own_weight, by=by)

    def _check_context(self, context: GroupedContext | None) -> None:
        if context is not None and context.model != self.fingerprint:
            raise ValueError(
                f"the context was encoded by {context.model}, not by {self.fingerprint}; encode the demonstrations "
                "again with this model"
            )

    def _all_tokens(self, texts: "Sequence[str] | Sequence[Tokens]") -> "list[Tokens]":
        return [self.tokens(text) if isinstance(text, str) else text for text in texts]


def _texts(stop: str | Sequence[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or [])


def _until(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def _pieces_until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces of a text before the first stop string, which may lie across several of them.

    >>> list(_pieces_until(["a b", "c d", "e f"], ["de"]))
    ['a b', 'c ']
    """
    held = ""
    for piece in pieces:
        held += piece
        before = len(_until(held, stops))
        # Where the end of what is there could be the beginning of a stop string: nothing after it is settled yet.
        open_from = next(
            (i for i in range(len(held)) if any(stop.startswith(held[i:]) and stop != held[i:] for stop in stops)),
            len(held),
        )
        settled = min(before, open_from)
        if settled:
            yield held[:settled]
        if settled == before < len(held):
            return
        held = held[settled:]
    if rest := _until(held, stops):
        yield rest


def load_model(name: str = origins.EMBEDDED, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
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
    source = origins.locate(name)
    options = {"revision": source.hub_revision} if source.hub_revision else {}
    with origins.explained(name):
        config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=False, **options)
    check_config(config)
    with origins.explained(name), origins.quiet(source):
        model = AutoModelForCausalLM.from_pretrained(
            str(source.path), dtype=number_format.dtype, use_safetensors=True, trust_remote_code=False, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(str(source.path), trust_remote_code=False, **options)
    torch.nn.Module.to(model, where)
    model.eval().requires_grad_(False)
    vars(model)["lmops_capabilities"] = prepare(model)
    return LanguageModel(name, model, tokenizer, source.revision or source.hub_revision, number_format)
