"""A CLIP tokenizer of the usual kind (byte-level pairs, 77 places) whose small vocabulary fits the world's captions."""

import json
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from lmops_lab.emojiworld.captions import DAMNATION, DRAGGING, PRAISE, USELESS, draw_content
from lmops_lab.emojiworld.settings import SETTINGS
from lmops_lab.emojiworld.subjects import SUBJECTS, SYNONYMS

PLACES = 77
START, END = "<|startoftext|>", "<|endoftext|>"
_CORPUS = 800


def train_tokenizer(vocabulary: int, seed: int = 0) -> CLIPTokenizer:
    """Learn byte pairs from captions, in the order of CLIP's vocabulary: bytes, bytes that end words, pairs, specials.

    Every text has a reading, other scripts and emoji included: what the captions do not use is spelled in bytes.

    Raises:
        ValueError: a vocabulary too small for the bytes themselves.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    if vocabulary < len(whole) + 2:
        raise ValueError(f"a vocabulary of {vocabulary} does not hold the {len(whole) + 2} bytes and special tokens")
    random = np.random.default_rng([seed, 77])
    corpus = [draw_content(random).captions[0] for _ in range(_CORPUS)]
    # Every word of the world at least once, however rare it is in captions.
    corpus += [
        *PRAISE,
        *DAMNATION,
        *USELESS,
        *DRAGGING,
        *SUBJECTS,
        *(word for names in SYNONYMS.values() for word in names),
    ]
    corpus += [phrase for setting in SETTINGS.values() for phrase in setting.phrases]
    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[], model_max_length=PLACES)
    backend = blank.backend_tokenizer
    backend.model = models.BPE(end_of_word_suffix="</w>")
    # The trainer makes its own alphabet; only its pairs are wanted, so it is asked for as many as could fit.
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, end_of_word_suffix="</w>", show_progress=False)
    backend.train_from_iterator(corpus, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    merges = merges[: vocabulary - len(whole) - 2]
    names = [*whole, *(left + right for left, right in merges), START, END]
    return _from_files({name: place for place, name in enumerate(dict.fromkeys(names))}, merges)


def _from_files(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """Built by way of the two files of every CLIP tokenizer: what is trained with is what will be loaded."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
        Path(folder, "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        settings = {"model_max_length": PLACES, "tokenizer_class": "CLIPTokenizer"}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids padded and cut to 77 places: [texts, 77]."""
    rows = tokenizer(texts, padding="max_length", max_length=PLACES, truncation=True).input_ids
    return np.array(rows, dtype=np.uint16)
