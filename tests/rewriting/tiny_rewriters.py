"""Tiny GPT-2 rewriters in the formats of the published ones."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast, PreTrainedTokenizerFast

from tests.tiny import byte_tokenizer

GPT2_END = 50256


def gpt2_tokenizer() -> GPT2TokenizerFast:
    """A tokenizer with GPT-2's ids for bytes and its end token 50256; the merges between are unreachable fillers."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary.update({f"~{i}~": i for i in range(256, GPT2_END)})
    vocabulary["<|endoftext|>"] = GPT2_END
    return GPT2TokenizerFast(vocab=vocabulary, merges=[])


def tiny_gpt2(
    vocabulary: int = GPT2_END + 1, end: int = GPT2_END, *, layers: int = 2, width: int = 16, positions=256, spread=0.4
):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        n_positions=positions,
        bos_token_id=end,
        eos_token_id=end,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, spread)
            if name.endswith("wte.weight") and vocabulary > 1000:
                weight[256:-1] *= 0.05  # the fillers stay unlikely
                weight[-1] *= 1.5  # the end token is likely enough that rewrites end
    return model


def hub_folder(cache: Path, repository: str, write) -> Path:
    """A repository in the Hub's cache layout: refs/main and one snapshot, filled by `write(folder)`."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = cache / ("models--" + repository.replace("/", "--"))
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    write(snapshot)
    return snapshot


def promptist_cache(cache: Path) -> GPT2LMHeadModel:
    """microsoft/Promptist as it lies on the Hub (a pickle of weights, no tokenizer) and gpt2 (a tokenizer only)."""
    model = tiny_gpt2()

    def weights(folder):
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")

    def words(folder):
        gpt2_tokenizer().save_pretrained(folder)
        model.config.save_pretrained(folder)

    hub_folder(cache, "microsoft/Promptist", weights)
    hub_folder(cache, "gpt2", words)
    return model


def byte_gpt2_folder(folder: Path, **options) -> Path:
    """A tiny GPT-2 with one token a byte (end token 257), saved like a local checkpoint."""
    tiny_gpt2(320, 257, **options).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def letter_tokenizer(letters: int) -> PreTrainedTokenizerFast:
    """One token a letter from "a" on, and an end token after them; every other character is dropped."""
    tokenizer = Tokenizer(models.BPE({chr(97 + i): i for i in range(letters)}, []))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
