"""Supervised training of a rewriter: pairs "source Rephrase: target", loss on the target only (trl's SFTTrainer)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback

from lmops_lab import origins
from lmops_lab.digests import digest_of
from lmops_lab.files import atomic_folder
from lmops_lab.rewriting.corpus import Pair
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import MARKER, PROMPTIST_DECODING, Card, load_causal
from lmops_lab.rewriting.rewriter import clean_text
from lmops_lab.rewriting.run_record import RUN, begin_run
from lmops_lab.rewriting.training import Lora, Trained, libraries, train_on, trainer_settings, write_curve

DEFAULT_LORA = Lora()


def train_supervised(
    pairs: Sequence[Pair],
    folder: Path | str,
    *,
    base: str = origins.EMBEDDED,
    held_out: Sequence[Pair] = (),
    steps: int = 1000,
    batch: int = 16,
    accumulate: int = 1,
    learning_rate: float = 2e-4,
    lora: Lora | None = DEFAULT_LORA,
    max_tokens: int = 512,
    evaluate_every: int = 50,
    patience: int = 3,
    decoding: Decoding = PROMPTIST_DECODING,
    seed: int = 0,
) -> Trained:
    """Train a rewriter on pairs; the same call goes on where a killed one stopped.

    Args:
        folder: of the run: checkpoints, `curve.csv`, and `rewriter` for `Rewriter.load`.
        base: any causal language model by name.
        held_out: pairs whose loss is measured every `evaluate_every` steps; where there are some, training stops after
            `patience` measurements without improvement, and the best checkpoint is kept.
        lora: size of the adapter, or None to train all weights (Promptist: learning rate 5e-5, batch 256).
        max_tokens: longer rows are cut.
        decoding: how the trained rewriter searches; kept in its card.

    Raises:
        ValueError: no pairs, a text that is empty or holds the marker, or a folder with the training of other pairs or
            settings (more or fewer steps are the same training).
        OSError: the disk is full; see `train_on`.
    """
    if not pairs:
        raise ValueError("there are no pairs to train on; build_corpus makes some from engineered prompts")
    rows, held_rows = _rows(pairs), _rows(held_out)
    from datasets import Dataset

    trl, _ = libraries()
    folder = Path(folder)
    loaded = load_causal(base, dtype="float32")
    facts = {
        "kind": "supervised",
        "base": loaded.revision,
        "pairs": digest_of([list(row.values()) for row in rows]),
        "held_out": digest_of([list(row.values()) for row in held_rows]),
        "batch": [batch, accumulate],
        "learning_rate": learning_rate,
        "lora": asdict(lora) if lora else None,
        "max_tokens": max_tokens,
        "evaluate_every": evaluate_every,
        "patience": patience,
        "seed": seed,
    }
    begin_run(folder / RUN, facts)
    torch.manual_seed(seed)
    model: Any = loaded.model.requires_grad_(lora is None)
    if lora is None:
        model.train()
    measured: dict[str, Any] = {}
    if held_rows:
        measured = {
            "eval_strategy": "steps",
            "eval_steps": evaluate_every,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    settings = trainer_settings(folder / "checkpoints", steps, evaluate_every, seed)
    trainer: Any = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            **settings,
            **measured,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            learning_rate=learning_rate,
            max_length=max_tokens,
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(held_rows) if held_rows else None,
        processing_class=loaded.tokenizer,
        peft_config=lora.config() if lora else None,
        callbacks=[EarlyStoppingCallback(patience)] if held_rows else None,
    )
    curve = train_on(trainer, folder / "checkpoints")
    write_curve(curve, folder / "curve.csv")
    out = folder / "rewriter"
    card = Card(base if lora else "", loaded.revision if lora else "", MARKER, decoding, "sft")
    with atomic_folder(out, replace=True) as temporary:
        trainer.model.save_pretrained(str(temporary))
        card.write(temporary)
        if lora is None:
            loaded.tokenizer.save_pretrained(str(temporary))
    return Trained(folder, out, curve, int(trainer.state.global_step))


def _rows(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """As trl reads them; the end token is added there. The loss is on the completion alone."""
    for pair in pairs:
        clean_text(pair.target)
    return [{"prompt": clean_text(pair.source) + MARKER, "completion": " " + pair.target.strip()} for pair in pairs]
