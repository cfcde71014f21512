"""Tiny random models of every supported architecture, saved in the format of real checkpoints."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_COMMON = {
    "vocab_size": 320,
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
_UNGROUPED = {name: value for name, value in _COMMON.items() if name != "num_key_value_heads"}
_GPT = {"vocab_size": 320, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 512}
_GPT |= {"bos_token_id": 256, "eos_token_id": 257}
_FALCON = {"vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_kv_heads": 2}
_FALCON |= {"new_decoder_architecture": True, "alibi": False, "max_position_embeddings": 512}
_FALCON |= {"bos_token_id": 256, "eos_token_id": 257}
_XGLM = {"vocab_size": 320, "d_model": 48, "num_layers": 3, "attention_heads": 6, "ffn_dim": 96}
_XGLM |= {"max_position_embeddings": 512, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 256}
# Sizes of a tiny model of every proven architecture; windows of 8 tokens are shorter than the tests' groups.
_CONFIGS = {
    "llama": _COMMON,
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 16},
    "mistral": {**_COMMON, "sliding_window": 8},
    "mixtral": {**_COMMON, "num_local_experts": 4, "sliding_window": None},
    "gemma2": {**_COMMON, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_COMMON, "num_hidden_layers": 6, "head_dim": 16, "sliding_window": 8},
    "phi3": _COMMON,
    "olmo2": _COMMON,
    "granite": {**_COMMON, "logits_scaling": 4.0},
    "stablelm": _COMMON,
    "smollm3": _COMMON,
    "cohere": _COMMON,
    "gpt2": {**_GPT, "n_inner": 96},
    "gpt_neox": _UNGROUPED,
    "gpt_neo": {
        "vocab_size": 320,
        "hidden_size": 48,
        "num_layers": 4,
        "num_heads": 6,
        "intermediate_size": 96,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
        "max_position_embeddings": 512,
        "bos_token_id": 256,
        "eos_token_id": 257,
    },
    "gptj": {**_GPT, "rotary_dim": 4},
    "opt": {**_UNGROUPED, "ffn_dim": 96, "word_embed_proj_dim": 48},
    "codegen": {**_GPT, "n_head": 4, "n_ctx": 512, "rotary_dim": 4},
    "xglm": _XGLM,
    "starcoder2": {**_COMMON, "sliding_window": 8},
    "falcon": _FALCON,
    "biogpt": _UNGROUPED,
    "gpt_oss": {
        **_COMMON,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "rope_parameters": _YARN,
    },
    "bloom": {
        "vocab_size": 320,
        "hidden_size": 48,
        "n_layer": 3,
        "n_head": 6,
        "bos_token_id": 256,
        "eos_token_id": 257,
    },
}
ARCHITECTURES = tuple(_CONFIGS)


def tiny_config(kind: str, **changes):
    """Configuration of a tiny model."""
    return AutoConfig.for_model(kind, **{**_CONFIGS[kind], **changes})


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
