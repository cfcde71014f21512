"""Causal language models and LoRA adapters for rewriting, by name."""

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lmops_lab import machine, origins
from lmops_lab.files import atomic_folder, write_text
from lmops_lab.outside import parse_json, read_text
from lmops_lab.rewriting.decoding import Decoding

MARKER = " Rephrase:"
PROMPTIST_MODEL, PROMPTIST_TOKENIZER, PROMPTIST_END = "microsoft/Promptist", "gpt2", 50256
PROMPTIST_DECODING = Decoding(method="beam", beams=8, max_new_tokens=75, length_penalty=-1.0)
CARD = "rewriter.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Card:
    """What a trained rewriter needs besides its weights; kept beside them as `rewriter.json`.

    Attributes:
        base, base_revision: model that an adapter belongs to, and its content hash or commit; empty for full weights.
        marker: what stands between the user's text and the rewrite.
        decoding: how it is meant to be searched.
        trained: "sft", "rloo", "grpo", "ppo" or "".
    """

    base: str = ""
    base_revision: str = ""
    marker: str = MARKER
    decoding: Decoding = PROMPTIST_DECODING
    trained: str = ""

    def write(self, folder: Path) -> None:
        """Write the card into a folder."""
        write_text(folder / CARD, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Card":
        """The card of a folder; the published settings where there is none.

        Raises:
            ValueError: a card that is not one.
        """
        path = folder / CARD
        if not path.is_file():
            return cls()
        try:
            fields = parse_json(read_text(path), path.name)
            texts = ("base", "base_revision", "marker", "trained")
            if not all(isinstance(fields.get(name, ""), str) for name in texts):
                raise TypeError(f"{', '.join(texts)} are texts")  # noqa: TRY301
            return cls(**{**fields, "decoding": Decoding(**fields["decoding"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no rewriter card ({error}); train the rewriter again or delete it") from error


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready for rewriting, with its tokenizer, its revision and its card."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    card: Card


def is_adapter(name: str) -> bool:
    """Whether a name is a folder with a LoRA adapter in PEFT's format."""
    return (Path(name).expanduser() / ADAPTER).is_file()


def load_causal(name: str, *, tokenizer: str | None = None, dtype: str = "auto", device: str = "auto") -> Loaded:
    """Load a causal language model, or a LoRA adapter merged into its base, in evaluation mode.

    Args:
        name: as for `lmops_lab.load_model`, or a folder with an adapter.
        tokenizer: another place for the tokenizer.
        dtype: "auto" is float32 on a CPU: what a search finds in bfloat16 would depend on the batch it is found in.

    Raises:
        FileNotFoundError: no such model or tokenizer.
        ValueError: an adapter for another base model.
    """
    if is_adapter(name):
        folder = Path(name).expanduser()
        card = Card.read(folder)
        base_name = card.base or _base_of(folder)
        base = load_causal(base_name, tokenizer=tokenizer, dtype=dtype, device=device)
        merged = merge_adapter(base, folder)
        return Loaded(merged, base.tokenizer, f"{base.revision}+{origins.file_hash(_weights(folder))[:12]}", card)
    where = machine.choose_device(device)
    number_format = machine.choose_dtype("float32" if dtype == "auto" and where.type == "cpu" else dtype, where)
    source = origins.locate(name)
    options: dict[str, Any] = {"revision": source.hub_revision} if source.hub_revision else {}
    with origins.explained(name), origins.quiet(source):
        # Hub checkpoints of 2022 are pickles: transformers reads those with weights_only=True, so no code runs.
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(source.path), dtype=number_format.dtype, trust_remote_code=False, **options
        )
        words = (
            AutoTokenizer.from_pretrained(tokenizer, padding_side="left", trust_remote_code=False)
            if tokenizer
            else AutoTokenizer.from_pretrained(
                str(source.path), padding_side="left", trust_remote_code=False, **options
            )
        )
    if words.eos_token_id is None:
        raise ValueError(f"the tokenizer of {name!r} has no end token, which a rewriter needs to stop")
    if len(words) > model.get_input_embeddings().num_embeddings:
        raise ValueError(
            f"the tokenizer has {len(words)} tokens, the model {name!r} knows "
            f"{model.get_input_embeddings().num_embeddings}; give the tokenizer the model was trained with"
        )
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    model = torch.nn.Module.to(model, where).eval().requires_grad_(False)
    card = Card.read(Path(source.path)) if isinstance(source.path, Path) else Card()
    return Loaded(model, words, source.revision or source.hub_revision, card)


def merge_adapter(base: Loaded, folder: Path) -> PreTrainedModel:
    """Merge a LoRA adapter into its base model (which is changed) and return it.

    Raises:
        ValueError: the adapter was trained on another base model.
        ImportError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError("adapters need peft: pip install 'lmops-lab[rl]'") from error
    card = Card.read(folder)
    if card.base_revision and card.base_revision != base.revision:
        raise ValueError(
            f"the adapter in {str(folder)!r} was trained on {card.base!r} at {card.base_revision}, the base model "
            f"loaded is at {base.revision}; load the base model it was trained on"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of these libraries about each other
            adapted = PeftModel.from_pretrained(base.model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the adapter in {str(folder)!r} does not fit the base model {base.model.config.model_type} at "
            f"{base.revision}: {str(error).strip().splitlines()[0]}; load the base model it was trained on"
        ) from error
    return adapted.merge_and_unload().eval().requires_grad_(False)


def join_adapters(first: Path, second: Path, into: Path, *, card: Card, half: bool = False) -> None:
    """One LoRA adapter that equals merging `first`, then `second`: ranks are stacked, scales folded into B.

    W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2], exactly. So an adapter that was trained on a merged model
    becomes one for the original base.

    Args:
        half: keep float16 instead of float32.

    Raises:
        ValueError: an adapter with settings that do not stack (rank-stabilised, DoRA, per-layer ranks, biases).
    """
    configs = [json.loads((folder / ADAPTER).read_text(encoding="utf-8")) for folder in (first, second)]
    for folder, config in zip((first, second), configs, strict=True):
        odd = [
            key
            for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "modules_to_save")
            if config.get(key)
        ]
        odd = [key for key in odd if key != "fan_in_fan_out"]  # how the base stores its weight, not the adapter
        if odd or config.get("bias", "none") != "none":
            raise ValueError(f"the adapter in {str(folder)!r} uses {odd or 'biases'}, which cannot be stacked")
    sides = [load_file(_weights(folder)) for folder in (first, second)]
    scales = [config["lora_alpha"] / config["r"] for config in configs]
    rank = sum(config["r"] for config in configs)
    joined: dict[str, torch.Tensor] = {}
    for a_name in sorted({name for side in sides for name in side if ".lora_A." in name}):
        b_name = a_name.replace(".lora_A.", ".lora_B.")
        a_parts, b_parts = [], []
        like_a, like_b = next((side[a_name], side[b_name]) for side in sides if a_name in side)
        for side, config, scale in zip(sides, configs, scales, strict=True):
            a_parts.append(side.get(a_name, like_a.new_zeros(config["r"], like_a.shape[1])).float())
            b_parts.append(side.get(b_name, like_b.new_zeros(like_b.shape[0], config["r"])).float() * scale)
        joined[a_name] = torch.cat(a_parts, 0)
        joined[b_name] = torch.cat(b_parts, 1)
    modules = sorted({module for config in configs for module in config["target_modules"]})
    config = {**configs[0], "r": rank, "lora_alpha": rank, "target_modules": modules}
    config["base_model_name_or_path"] = card.base
    with atomic_folder(into) as temporary:
        dtype = torch.float16 if half else torch.float32
        save_file({name: value.to(dtype).contiguous() for name, value in joined.items()}, temporary / _WEIGHTS)
        write_text(temporary / ADAPTER, json.dumps(config, indent=2) + "\n")
        card.write(temporary)


_WEIGHTS = "adapter_model.safetensors"


def _weights(folder: Path) -> Path:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"the adapter folder {str(folder)!r} has no {_WEIGHTS}")
    return path


def _base_of(folder: Path) -> str:
    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / ADAPTER} does not name its base model; add base_model_name_or_path")
    return str(base)
