"""Reinforcement of a supervised rewriter: RLOO or GRPO on trl, or Promptist's own PPO.

The KL penalty is really in place: trl would build its reference from `config._name_or_path`, whatever model object it
is given, so the supervised model is merged and saved here first, and training begins from that folder. With LoRA (the
default) the reference is that model with the new adapter switched off; without, trl loads the folder a second time.
GRPO's own default is no KL at all.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmops_lab.files import atomic_folder
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import MARKER, Card, is_adapter, join_adapters, load_causal
from lmops_lab.rewriting.ppo import PPO, PPOSettings, train
from lmops_lab.rewriting.reward import GuardedReward, PromptReward, score_rewrites
from lmops_lab.rewriting.rewriter import clean_text
from lmops_lab.rewriting.supervised import DEFAULT_LORA
from lmops_lab.rewriting.training import Lora, SeedEveryStep, Trained, train_on, trainer_settings, write_curve

MODES = ("rloo", "grpo", "ppo")


def train_reinforced(
    start: str,
    prompts: Sequence[str],
    reward: PromptReward,
    folder: Path | str,
    *,
    mode: str = "rloo",
    steps: int = 200,
    prompts_a_step: int = 8,
    samples: int = 4,
    kl: float = 0.05,
    learning_rate: float = 1e-4,
    lora: Lora | None = DEFAULT_LORA,
    max_new_tokens: int = 75,
    temperature: float = 1.0,
    save_every: int = 20,
    ppo: PPOSettings | None = None,
    half: bool = False,
    seed: int = 0,
) -> Trained:
    """Train a supervised rewriter on a reward; the same call goes on where a killed one stopped.

    Args:
        start: the supervised rewriter: a folder or name that `Rewriter.load` takes.
        prompts: user texts.
        reward: `f(user_texts, rewrites) -> scores`; guarded here (`GuardedReward`) unless it already is.
        folder: of the run: checkpoints, `curve.csv`, and `rewriter` for `Rewriter.load`.
        mode: "rloo", "grpo" or "ppo" (settings in `ppo`; the others are not used by it).
        samples: rewrites of a prompt that are compared with each other.
        kl: weight of the KL divergence from the supervised model (nats a rewrite in RLOO, a token in GRPO).
        lora: size of the adapter; None trains all weights. A LoRA-trained `start` and this adapter are joined, so the
            result is one adapter for the same base.
        half: keep the joined adapter in float16.

    Raises:
        ValueError: an unknown mode, no prompts, an empty prompt or one with the marker, a KL weight of 0, or a reward
            that returns something else than one finite number a rewrite.
        OSError: the disk is full; the last whole checkpoint stays.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose {', '.join(MODES)}")
    if not prompts:
        raise ValueError("there are no prompts to train on; give at least one")
    if kl <= 0:
        raise ValueError(f"kl is {kl}; without a penalty the rewriter drifts from language, so give more than 0")
    if samples < 2 and mode != "ppo":
        raise ValueError(f"samples is {samples}; rewrites of a prompt are compared, so give at least 2")
    users = list(dict.fromkeys(clean_text(prompt) for prompt in prompts))
    guarded = reward if isinstance(reward, GuardedReward) else GuardedReward(reward)
    folder = Path(folder)
    if mode == "ppo":
        return _with_ppo(start, users, guarded, folder, steps, save_every, ppo or PPOSettings(seed=seed))
    merged, card = merged_start(start, folder)
    trainer = make_trainer(
        mode,
        merged,
        users,
        guarded,
        folder,
        steps=steps,
        prompts_a_step=prompts_a_step,
        samples=samples,
        kl=kl,
        learning_rate=learning_rate,
        lora=lora,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        save_every=save_every,
        seed=seed,
    )
    curve = train_on(trainer, folder / "checkpoints")
    write_curve(curve, folder / "curve.csv")
    out = folder / "rewriter"
    decoding = card.decoding.changed(max_new_tokens=max_new_tokens)
    if lora is None:
        _save_whole(trainer.model, trainer.processing_class, out, mode, decoding)
    else:
        adapter = folder / "adapter"
        with atomic_folder(adapter, replace=True) as temporary:
            trainer.model.save_pretrained(str(temporary))
        if is_adapter(start):
            joined = Card(card.base, card.base_revision, card.marker, decoding, mode)
            shutil.rmtree(out, ignore_errors=True)  # of an earlier, shorter run
            join_adapters(Path(start), adapter, out, card=joined, half=half)
        else:
            with atomic_folder(out, replace=True) as temporary:
                trainer.model.save_pretrained(str(temporary))
                Card(start, load_causal(start).revision, MARKER, decoding, mode).write(temporary)
    return Trained(folder, out, curve, int(trainer.state.global_step))


def merged_start(start: str, folder: Path) -> tuple[Path, Card]:
    """The supervised model with its adapter merged, saved once as `folder/start`, and its card."""
    loaded = load_causal(start, dtype="float32")
    path = folder / "start"
    if not path.is_dir():
        with atomic_folder(path) as temporary:
            loaded.model.save_pretrained(str(temporary))
            loaded.tokenizer.save_pretrained(str(temporary))
    return path, loaded.card


def make_trainer(
    mode: str,
    merged: Path,
    users: list[str],
    reward: PromptReward,
    folder: Path,
    *,
    steps: int,
    prompts_a_step: int,
    samples: int,
    kl: float,
    learning_rate: float,
    lora: Lora | None,
    max_new_tokens: int,
    temperature: float,
    save_every: int,
    seed: int,
) -> Any:
    """Trl's trainer, ready to train. The user's text travels as a column: nothing is split off a decoded string."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    # One pass over a drawn schedule instead of epochs: whoever resumes skips to the very rows that come next.
    random = np.random.default_rng(seed)
    schedule: list[str] = []
    while len(schedule) < steps * prompts_a_step:
        schedule += [users[i] for i in random.permutation(len(users))]
    schedule = schedule[: steps * prompts_a_step]
    loaded = load_causal(str(merged), dtype="float32")
    model: Any = loaded.model.requires_grad_(lora is None)
    assert model.config._name_or_path == str(merged), "the KL reference would be another model"
    config_class: Any
    trainer_class: Any
    config_class, trainer_class = (RLOOConfig, RLOOTrainer) if mode == "rloo" else (GRPOConfig, GRPOTrainer)
    config = config_class(
        **trainer_settings(folder / "checkpoints", steps, save_every, seed),
        per_device_train_batch_size=prompts_a_step * samples,
        num_generations=samples,
        max_completion_length=max_new_tokens,
        temperature=temperature,
        beta=kl,
        learning_rate=learning_rate,
        disable_dropout=True,
        shuffle_dataset=False,
    )

    def rewards(prompts: list[str], completions: list[str], user: list[str], **_: Any) -> list[float]:
        del prompts
        return [float(value) for value in score_rewrites(reward, user, [text.strip() for text in completions])]

    return trainer_class(
        model=model,
        reward_funcs=rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": user + MARKER, "user": user} for user in schedule]),
        callbacks=[SeedEveryStep()],
        processing_class=loaded.tokenizer,
        peft_config=lora.config() if lora else None,
    )


def _save_whole(model: Any, tokenizer: Any, out: Path, mode: str, decoding: Decoding) -> None:
    with atomic_folder(out, replace=True) as temporary:
        model.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        Card(marker=MARKER, decoding=decoding, trained=mode).write(temporary)


def _with_ppo(
    start: str, users: list[str], reward: PromptReward, folder: Path, steps: int, save_every: int, settings: PPOSettings
) -> Trained:
    loaded = load_causal(start, dtype="float32")
    run = PPO(loaded, users, reward, settings)
    curve: pd.DataFrame = train(run, steps, folder, save_every=save_every)
    write_curve(curve, folder / "curve.csv")
    out = folder / "rewriter"
    _save_whole(run.policy, loaded.tokenizer, out, "ppo", loaded.card.decoding)
    return Trained(folder, out, curve, run.step)
