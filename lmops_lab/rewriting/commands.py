"""`lmops-lab train-rewriter`: corpus, supervised training, reinforcement; the same command goes on where it stopped."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmops_lab.generation.recipe import check_guidance_end
from lmops_lab.origins import EMBEDDED
from lmops_lab.rewards.embedded import EMBEDDED as PICTURES
from lmops_lab.rewriting.run_record import begin_run, check_run

if TYPE_CHECKING:
    from lmops_lab.rewriting.corpus import Corpus

_FOLDER = Path("runs/rewriter")
_SETTINGS = "settings.json"
# Adapters of a few ranks bear, and need, higher rates than whole weights.
_SUPERVISED_RATE, _REINFORCED_RATE = 1e-3, 3e-4
# Settings that may differ between two calls on one folder: they make a training longer, not another one.
_LENGTHS = ("supervised_steps", "steps", "folder", "status", "export")
# Weight of the KL penalty by mode, where none is given; Promptist's adaptive controller starts at PPO's.
_KL = {"rloo": 0.05, "grpo": 0.05, "ppo": 0.2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; `options.answer` is then the function that runs it and returns what to print."""
    parser.add_argument("--folder", type=Path, default=_FOLDER, help=f"where training is kept; default {_FOLDER}")
    parser.add_argument("--base", default=EMBEDDED, help=f"causal language model to start from; default {EMBEDDED}")
    parser.add_argument(
        "--prompts", help="engineered prompts: a file, one a line, or a dataset; default the emoji world"
    )
    parser.add_argument(
        "--pictures", default=PICTURES, help=f"text-to-image pipeline of the reward; default {PICTURES}"
    )
    parser.add_argument("--clip", default=PICTURES, help="CLIP that judges relevance and that the aesthetic head reads")
    parser.add_argument("--head", default=PICTURES, help="aesthetic head: a file in LAION's format")
    parser.add_argument("--threshold", type=float, help="relevance that suffices; default what the CLIP says, or .28")
    parser.add_argument("--pairs", type=int, default=12_000, help="engineered prompts of the emoji world's corpus")
    parser.add_argument("--supervised-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=200, help="of reinforcement; 0 for none")
    parser.add_argument("--mode", default="rloo", help="rloo, grpo or ppo (which trains the last blocks whole)")
    parser.add_argument(
        "--kl", type=float, help="weight of the divergence from the supervised rewriter; default by mode"
    )
    parser.add_argument("--ranks", type=int, nargs=2, default=(6, 4), metavar=("SUPERVISED", "REINFORCED"))
    parser.add_argument("--prompts-a-step", type=int, default=8, help="user texts in a step of reinforcement")
    parser.add_argument("--samples", type=int, default=4, help="rewrites of a text that are compared with each other")
    parser.add_argument("--max-new-tokens", type=int, default=75, help="longest rewrite in reinforcement")
    parser.add_argument("--rephrase", action="store_true", help="pairs in other words, too, by the base model (slow)")
    parser.add_argument("--seeds", type=int, default=2, help="pictures per prompt in the reward")
    parser.add_argument("--picture-steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0, help="Promptist used 7.5 with Stable Diffusion")
    parser.add_argument("--guidance-end", type=float, help="share of the steps that are guided; default the pipeline's")
    parser.add_argument("--scheduler", help="of the pictures, such as dpm++; default the pipeline's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--export", type=Path, help="write the finished adapters there in float16, with cards; no training"
    )
    parser.add_argument("--status", action="store_true", help="say how far the training has come; train nothing")
    parser.set_defaults(answer=train_rewriter)


def train_rewriter(options: argparse.Namespace) -> str:
    """Train what is missing in the folder, and say in words what is there.

    Raises:
        ValueError: a setting that cannot be, or a folder whose training has other settings.
        FileNotFoundError: pictures, prompts or a base model that are not there. All before slow work.
    """
    _check(options)
    folder: Path = options.folder
    if options.status:
        return _status(folder)
    if options.export:
        from lmops_lab.rewriting.export import export_rewriters

        return f"{export_rewriters(folder, options.export):.1f} MB of adapters in {options.export}"
    settings_file, asked = folder / _SETTINGS, _settings(options)
    check_run(settings_file, asked)
    # After the checks: torch and trl take seconds to load.
    from lmops_lab.generation.images import ImageGenerator
    from lmops_lab.rewards.aesthetic import Aesthetic
    from lmops_lab.rewards.relevance import Relevance
    from lmops_lab.rewriting.ppo import PPOSettings
    from lmops_lab.rewriting.reinforcement import train_reinforced
    from lmops_lab.rewriting.reward import PictureReward
    from lmops_lab.rewriting.supervised import train_supervised
    from lmops_lab.rewriting.training import Lora

    settings: dict[str, Any] = {"steps": options.picture_steps, "guidance": options.guidance}
    settings |= {name: value for name in ("scheduler", "guidance_end") if (value := getattr(options, name)) is not None}
    relevance = Relevance.load(options.clip)
    aesthetic = Aesthetic.load(relevance.encoder, options.head)
    generator = ImageGenerator.load(options.pictures)
    seeds = tuple(range(options.seeds))
    reward = PictureReward(generator, relevance, aesthetic, seeds, settings, threshold=options.threshold)
    corpus = _corpus(options)
    begin_run(settings_file, asked)  # now that everything it names was found
    training, held_out = corpus.split(seed=options.seed)
    sizes = [Lora(rank=rank, alpha=2 * rank) for rank in options.ranks]
    supervised = train_supervised(
        training.pairs,
        folder / "supervised",
        base=options.base,
        held_out=held_out.pairs[:256],
        steps=options.supervised_steps,
        learning_rate=_SUPERVISED_RATE,
        lora=sizes[0],
        seed=options.seed,
    )
    if not options.steps:
        return f"{_status(folder)}\nload it with Rewriter.load({str(supervised.rewriter)!r})"
    users = sorted({pair.source for pair in training.pairs if pair.kind == "content"})
    reinforced = train_reinforced(
        str(supervised.rewriter),
        users,
        reward,
        folder / "reinforced",
        mode=options.mode,
        steps=options.steps,
        kl=_kl(options),
        learning_rate=_REINFORCED_RATE,
        ppo=PPOSettings(kl=_kl(options), seed=options.seed),
        lora=sizes[1],
        prompts_a_step=options.prompts_a_step,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        half=True,
        seed=options.seed,
    )
    return f"{_status(folder)}\nload it with Rewriter.load({str(reinforced.rewriter)!r})"


def _check(options: argparse.Namespace) -> None:
    if options.steps < 0:
        raise ValueError(f"--steps is {options.steps}; give at least 1, or 0 for no reinforcement")
    for name in ("pairs", "supervised_steps", "seeds", "picture_steps", "prompts_a_step", "max_new_tokens"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    if options.samples < 2:
        raise ValueError(f"--samples is {options.samples}; rewrites of a text are compared: at least 2")
    if min(options.ranks) < 1:
        raise ValueError(f"--ranks are {options.ranks}; both start at 1")
    modes = ("rloo", "grpo", "ppo")
    if options.mode not in modes:
        raise ValueError(f"--mode is {options.mode!r}; choose {', '.join(modes)}")
    if options.guidance_end is not None:
        check_guidance_end(options.guidance_end)
    if options.threshold is not None and not -1 <= options.threshold <= 1:
        raise ValueError(f"--threshold is {options.threshold}; cosines lie between -1 and 1")
    if _kl(options) <= 0:
        raise ValueError(f"--kl is {options.kl}; without a penalty the rewriter drifts from language: more than 0")


def _kl(options: argparse.Namespace) -> float:
    return float(_KL[options.mode] if options.kl is None else options.kl)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What makes a training another one; two calls on one folder must agree in it."""
    known = {name: value for name, value in vars(options).items() if name not in (*_LENGTHS, "answer", "command")}
    return {**known, "kl": _kl(options)}


def _corpus(options: argparse.Namespace) -> "Corpus":
    from lmops_lab.rewriting.corpus import Corpus, build_corpus, emoji_corpus, read_prompts

    path = options.folder / "corpus.jsonl"
    if not path.is_file():
        rephrase = None
        if options.rephrase:
            from lmops_lab.rewriting.rephrase import Rephraser

            rephrase = Rephraser.load(options.base, seed=options.seed)
        if options.prompts:
            corpus = build_corpus(read_prompts(options.prompts), rephrase=rephrase, seed=options.seed)
        else:
            corpus, _ = emoji_corpus(options.pairs, rephrase=rephrase, seed=options.seed)
        corpus.save(path)
    return Corpus.load(path)


def _status(folder: Path) -> str:
    """How far both trainings have come, from their curves."""
    import pandas as pd

    lines = []
    for name, column in (("supervised", "loss"), ("reinforced", "reward")):
        path = folder / name / "curve.csv"
        if not path.is_file():
            steps = sorted(folder.glob(f"{name}/checkpoints/*-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
            lines.append(f"{name:11} {'not begun' if not steps else f'at {steps[-1].name}'}")
            continue
        curve = pd.read_csv(path)
        values = curve[column].dropna() if column in curve else pd.Series(dtype=float)
        shown = f"{column} {values.iloc[:5].mean():.3f} -> {values.iloc[-5:].mean():.3f}" if len(values) else ""
        lines.append(
            f"{name:11} finished, {int(curve['step'].max()) if 'step' in curve else len(curve)} steps  {shown}"
        )
    return "\n".join(lines)
