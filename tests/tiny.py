"""Tiny random models of every supported architecture, saved in the format of real checkpoints."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2", "gpt_neox", "opt")
_VOCABULARY = 320
_COMMON = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
_OWN = {
    "mistral": {"sliding_window": None},
    "qwen3": {"head_dim": 16},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 512, "n_inner": 96},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 48},
}


def tiny_config(kind: str, **changes):
    """Configuration of a tiny model."""
    options = {**_COMMON, **_OWN.get(kind, {}), **changes}
    if kind in ("gpt2", "gpt_neox", "opt"):
        del options["num_key_value_heads"]
    if kind == "gpt2":
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            del options[name]
        del options["max_position_embeddings"]
    return AutoConfig.for_model(kind, **options)


def tiny_model(kind: str, **changes):
    """A random model with weights large enough that attention is far from uniform."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "norm" not in name:
                weight.normal_(0, 0.25)
    return model.requires_grad_(False)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one token a byte, plus BOS 256 and EOS 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def tiny_tokenizer_folder(parent: Path, kind: str, **changes) -> Path:
    """A saved tiny checkpoint with its tokenizer, like one from the Hub."""
    folder = parent / kind
    tiny_model(kind, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
