"""Reinforcement of a supervised rewriter: RLOO or GRPO on trl, or Promptist's own PPO.

The KL penalty is really in place: trl would build its reference from `config._name_or_path`, whatever model object it
is given, so the supervised model is merged and saved here first, and training begins from that folder. With LoRA (the
default) the reference is that model with the new adapter switched off; without, trl loads the folder a second time.
GRPO's own default is no KL at all.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lmops_lab.digests import digest_of
from lmops_lab.files import atomic_folder
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import MARKER, Card, Loaded, is_adapter, join_adapters, load_causal
from lmops_lab.rewriting.ppo import PPO, PPOSettings, train
from lmops_lab.rewriting.reward import GuardedReward, PromptReward, score_rewrites
from lmops_lab.rewriting.rewriter import clean_text, located
from lmops_lab.rewriting.run_record import RUN, begin_run
from lmops_lab.rewriting.supervised import DEFAULT_LORA
from lmops_lab.rewriting.training import (
    Lora,
    SeedEveryStep,
    Trained,
    libraries,
    train_on,
    trainer_settings,
    write_curve,
)

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
        kl: weight of the KL divergence from the supervised model (nats per rewrite in RLOO, per token in GRPO).
        lora: size of the adapter; None trains all weights. A LoRA-trained `start` and this adapter are joined, so the
            result is one adapter for the same base.
        half: keep the joined adapter in float16.

    Raises:
        ValueError: an unknown mode, no prompts, an empty prompt or one with the marker, a KL weight of 0, or a reward
            that returns something else than one finite number per rewrite, or a folder with another training (another
            start, other texts or settings; more or fewer steps are the same training).
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
    place, tokenizer = located(start)
    facts: dict[str, Any] = {"kind": mode, "texts": digest_of(users), "seed": seed}
    if mode == "ppo":
        settings = ppo or PPOSettings(seed=seed)
        return _with_ppo(
            load_causal(place, tokenizer=tokenizer, dtype="float32"),
            users,
            guarded,
            folder,
            steps,
            save_every,
            settings,
            facts,
        )
    facts |= {"prompts_a_step": prompts_a_step, "samples": samples, "kl": kl, "learning_rate": learning_rate}
    facts |= {"lora": asdict(lora) if lora else None, "max_new_tokens": max_new_tokens, "temperature": temperature}
    merged, started = merged_start(place, folder, tokenizer=tokenizer, facts=facts)
    card = started.card
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
        if is_adapter(place):
            joined = Card(card.base, card.base_revision, card.marker, decoding, mode)
            shutil.rmtree(out, ignore_errors=True)  # of an earlier, shorter run
            join_adapters(Path(place).expanduser(), adapter, out, card=joined, half=half)
        else:
            with atomic_folder(out, replace=True) as temporary:
                trainer.model.save_pretrained(str(temporary))
                Card(place, started.revision, MARKER, decoding, mode).write(temporary)
    return Trained(folder, out, curve, int(trainer.state.global_step))


def merged_start(
    place: str, folder: Path, *, tokenizer: str | None = None, facts: Mapping[str, Any] | None = None
) -> tuple[Path, Loaded]:
    """The supervised model with its adapter merged, saved once as `folder/start`, and what was loaded.

    Args:
        place: a folder or name for `load_causal`.
        facts: settings of the run; with the start's revision they are what its folder is of.

    Raises:
        ValueError: the folder's training began from another start, or has other settings.
    """
    loaded = load_causal(place, tokenizer=tokenizer, dtype="float32")
    begin_run(folder / RUN, {**(facts or {}), "start": loaded.revision})
    path = folder / "start"
    if not path.is_dir():
        with atomic_folder(path) as temporary:
            loaded.model.save_pretrained(str(temporary))
            loaded.tokenizer.save_pretrained(str(temporary))
    return path, loaded


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

    trl, _ = libraries()
    # One pass over a drawn schedule instead of epochs: whoever resumes skips to the very rows that come next.
    random = np.random.default_rng(seed)
    schedule: list[str] = []
    while len(schedule) < steps * prompts_a_step:
        schedule += [users[i] for i in random.permutation(len(users))]
    schedule = schedule[: steps * prompts_a_step]
    loaded = load_causal(str(merged), dtype="float32")
    model: Any = loaded.model.requires_grad_(lora is None)
    assert model.config._name_or_path == str(merged), "the KL reference would be another model"
    config_class = trl.RLOOConfig if mode == "rloo" else trl.GRPOConfig
    trainer_class = trl.RLOOTrainer if mode == "rloo" else trl.GRPOTrainer
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
    loaded: Loaded,
    users: list[str],
    reward: PromptReward,
    folder: Path,
    steps: int,
    save_every: int,
    settings: PPOSettings,
    facts: Mapping[str, Any],
) -> Trained:
    begin_run(folder / RUN, {**facts, "start": loaded.revision})
    run = PPO(loaded, users, reward, settings)
    curve: pd.DataFrame = train(run, steps, folder, save_every=save_every)
    write_curve(curve, folder / "curve.csv")
    out = folder / "rewriter"
    _save_whole(run.policy, loaded.tokenizer, out, "ppo", loaded.card.decoding)
    return Trained(folder, out, curve, run.step)
