"""The reinforcement that Promptist was trained with, in one readable module: PPO with a value model and adaptive KL.

One iteration: draw user texts; let the policy complete each by diverse beam search and keep one beam at random; score
the rewrites; give every token the KL penalty to the supervised model and the last token the reward; estimate
advantages; take a few passes of clipped updates.

Positions. A row is prompt and completion, x_0 ... x_{P-1} and a_0 ... a_{C-1}. Logits and value that belong to action
a_t are those at the token before it, position P - 1 + t: V(s_t) knows everything up to a_{t-1} and not a_t.

The supervised model is kept as a full frozen copy, and the policy trains its last blocks only (the embeddings, which
GPT-2 shares with its output, stay as they are), so nothing that the reference uses can move.
"""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lmops_lab.digests import check_files, file_digests, read_record, write_record
from lmops_lab.files import atomic_folder
from lmops_lab.rewriting.decoding import Decoding, Hypothesis, decode
from lmops_lab.rewriting.loading import Loaded
from lmops_lab.rewriting.reward import PromptReward, score_rewrites
from lmops_lab.rewriting.rewriter import clean_text, completion_text, prompt_tokens
from lmops_lab.rewriting.training import explained, last_checkpoint

FACTS = "facts.json"
ROLLOUTS = Decoding("diverse", beams=16, groups=16, diversity_penalty=1.0, min_new_tokens=5, length_penalty=1.0)


@dataclass(frozen=True)
class PPOSettings:
    """Promptist's settings (minimum length counts new tokens here).

    Attributes:
        batch: rollouts an iteration.
        passes: over each batch; `minibatch` rows an update.
        rollouts: search that completions come from; their length is drawn from `lengths` anew for each iteration.
        kl, kl_target, kl_horizon: starting coefficient and the adaptive controller's target (nats a rewrite) and
            horizon (rewrites); a horizon of 0 keeps the coefficient.
        blocks: last blocks of the policy that are trained; 0 trains all its weights.
        whiten: whether advantages are scaled to mean 0 and variance 1 within a batch.
    """

    learning_rate: float = 5e-5
    batch: int = 256
    minibatch: int = 32
    passes: int = 4
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 2.3
    kl: float = 0.2
    kl_target: float = 0.2
    kl_horizon: float = 10_000.0
    blocks: int = 2
    whiten: bool = True
    rollouts: Decoding = ROLLOUTS
    lengths: tuple[int, int] = (15, 75)
    seed: int = 0


@dataclass(frozen=True)
class AdaptiveKL:
    """The coefficient of the KL penalty, steered towards a target (Ziegler et al. 2019, section 2.2)."""

    coefficient: float
    target: float
    horizon: float

    def after(self, kl: float, rewrites: int) -> "AdaptiveKL":
        """The controller after a batch with a mean KL of `kl` nats a rewrite, policy against reference."""
        if self.horizon <= 0:
            return self
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return replace(self, coefficient=self.coefficient * (1 + error * rewrites / self.horizon))


def token_rewards(policy: Tensor, reference: Tensor, mask: Tensor, reward: Tensor, coefficient: float) -> Tensor:
    """Rewards of the actions: [rows, C]. Every token pays KL; the last token of a row also earns the row's reward.

    Args:
        policy, reference: log-probabilities of the actions under the policy that drew them and the supervised model.
        mask: 1 on actions (the end token is one), 0 on padding, which stands to the right.
        reward: [rows].
    """
    out = -coefficient * (policy - reference) * mask
    last = mask.sum(1).long() - 1
    out[torch.arange(len(out)), last] += reward
    return out


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns of the actions: [rows, C] each (Schulman et al. 2016).

    A_t = sum_l (gamma lam)^l (r_{t+l} + gamma V_{t+l+1} - V_{t+l}), nothing beyond the last action; R_t = A_t + V_t.
    """
    values, rewards = values * mask, rewards * mask
    running = torch.zeros_like(values[:, 0])
    out = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        after = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(running)
        running = (rewards[:, t] + gamma * after - values[:, t] + gamma * lam * running) * mask[:, t]
        out[:, t] = running
    return out, (out + values) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the actions."""
    return (values * mask).sum() / mask.sum()


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over the actions."""
    mean = masked_mean(values, mask)
    return (values - mean) * torch.rsqrt(masked_mean((values - mean) ** 2, mask) + 1e-8) * mask


@dataclass(frozen=True, eq=False)
class Batch:
    """Rollouts, padded: prompts on the left, completions on the right.

    Attributes:
        tokens, attention: [rows, P + C].
        prompt: P.
        mask: [rows, C]; 1 on actions.
        users, rewrites: texts.
    """

    tokens: Tensor
    attention: Tensor
    prompt: int
    mask: Tensor
    users: list[str]
    rewrites: list[str]

    def to(self, device: torch.device) -> "Batch":
        """The same rollouts where the models are."""
        return replace(
            self, tokens=self.tokens.to(device), attention=self.attention.to(device), mask=self.mask.to(device)
        )

    def rows(self, chosen: Tensor) -> "Batch":
        """Some of the rows."""
        at = chosen.tolist()
        return Batch(
            self.tokens[chosen],
            self.attention[chosen],
            self.prompt,
            self.mask[chosen],
            [self.users[i] for i in at],
            [self.rewrites[i] for i in at],
        )


def _hidden(model: Any, batch: Batch) -> Tensor:
    """Last hidden states at the positions that decide on the actions: [rows, C, width]."""
    positions = (batch.attention.cumsum(1) - 1).clamp(min=0)
    body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    out = body(batch.tokens, attention_mask=batch.attention, position_ids=positions, use_cache=False)
    return out.last_hidden_state[:, batch.prompt - 1 : -1]


def action_log_probabilities(model: Any, batch: Batch) -> Tensor:
    """Log-probability of every action: [rows, C], nats; padding included."""
    logits = model.get_output_embeddings()(_hidden(model, batch)).float()
    return logits.log_softmax(-1).gather(-1, batch.tokens[:, batch.prompt :, None])[..., 0]


class ValueModel(nn.Module):
    """A separate network that foretells the return: the supervised model's body with a head of one number."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(True)
        self.head = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """V(s_t) of the state before every action: [rows, C]."""
        return self.head(_hidden(self.model, batch))[..., 0]


def blocks_of(model: Any) -> nn.ModuleList:
    """The transformer blocks of a causal language model, first to last."""
    count = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} blocks; train all weights with blocks=0")


def freeze_below(model: Any, blocks: int) -> None:
    """Leave only the last blocks of a model trainable; 0 leaves all of it trainable."""
    model.requires_grad_(blocks == 0)
    if blocks:
        for block in list(blocks_of(model))[-blocks:]:
            block.requires_grad_(True)


@dataclass(eq=False)
class PPO:
    """The state of a training run.

    Attributes:
        start: the supervised rewriter; the reference is a frozen copy of it.
        users: texts that rollouts begin from.
        reward: scores (user texts, rewrites).
        step: iterations done.
    """

    start: Loaded
    users: Sequence[str]
    reward: PromptReward
    settings: PPOSettings = field(default_factory=PPOSettings)
    step: int = 0

    def __post_init__(self) -> None:
        """Make the policy, its frozen reference and the value model."""
        if not self.users:
            raise ValueError("there are no user texts to train on; give at least one")
        cleaned = [clean_text(user) for user in self.users]
        torch.manual_seed(self.settings.seed)
        self.users = cleaned
        self.reference = copy.deepcopy(self.start.model).eval().requires_grad_(False)
        self.policy = copy.deepcopy(self.start.model).eval()  # no dropout: ratios compare like with like
        freeze_below(self.policy, self.settings.blocks)
        self.value = ValueModel(self.start.model).eval().to(self.start.model.device)
        self.controller = AdaptiveKL(self.settings.kl, self.settings.kl_target, self.settings.kl_horizon)
        self.optimizer = torch.optim.AdamW(self._trained(), lr=self.settings.learning_rate, weight_decay=0.0)

    def _trained(self) -> list[nn.Parameter]:
        policy = [weight for weight in self.policy.parameters() if weight.requires_grad]
        return [*policy, *self.value.parameters()]

    def rollouts(self, rng: np.random.Generator) -> Batch:
        """One completion of as many user texts as the batch holds, drawn with replacement beyond their number."""
        settings, tokenizer = self.settings, self.start.tokenizer
        many = settings.batch > len(self.users)
        users = [self.users[i] for i in rng.choice(len(self.users), settings.batch, replace=many)]
        low, high = settings.lengths
        length = int(rng.integers(low, high + 1))
        search = settings.rollouts.changed(
            max_new_tokens=length, min_new_tokens=min(settings.rollouts.min_new_tokens, length)
        )
        end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        # A prompt's search depends on its text alone, so a text drawn twice takes two of one search's completions.
        counts = Counter(users)
        each = max(counts.values()) if search.method == "sampling" else search.beams
        texts = list(counts)
        prompts = {text: prompt_tokens(tokenizer, text) for text in texts}
        found: dict[str, list[Hypothesis]] = {}
        step, seed = max(1, 256 // each), int(rng.integers(2**31))
        for start in range(0, len(texts), step):
            some = texts[start : start + step]
            rows = [prompts[text] for text in some]
            searched = decode(self.policy, rows, search, candidates=each, end=end, pad=pad, seed=seed)
            found.update(zip(some, searched, strict=True))
        taken: Counter[str] = Counter()
        completions: list[list[int]] = []
        for user in users:
            at = taken[user] if search.method == "sampling" else int(rng.integers(each))
            taken[user] += 1
            chosen = found[user][at]
            completions.append([*chosen.tokens, end] if chosen.finished else list(chosen.tokens))
        rows = [prompts[user] for user in users]
        batch = _padded(rows, completions, users, pad, lambda tokens: completion_text(tokenizer, tokens), end)
        return batch.to(self.start.model.device)

    def iterate(self) -> dict[str, float]:
        """One iteration; returns its numbers. What is drawn depends on the seed and the iteration alone."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, self.step])
        batch = self.rollouts(rng)
        scores = score_rewrites(self.reward, batch.users, batch.rewrites)
        reward = torch.tensor(scores, dtype=torch.float32, device=batch.mask.device)
        with torch.no_grad():
            old = action_log_probabilities(self.policy, batch)
            reference = action_log_probabilities(self.reference, batch)
            old_values = self.value(batch)
        rewards = token_rewards(old, reference, batch.mask, reward, self.controller.coefficient)
        gains, returns = advantages(rewards, old_values, batch.mask, settings.gamma, settings.lam)
        if settings.whiten:
            gains = whitened(gains, batch.mask)
        losses = []
        for _ in range(settings.passes):
            order = torch.from_numpy(rng.permutation(len(reward))).to(reward.device)
            for rows in order.split(settings.minibatch):
                loss = self._loss(batch.rows(rows), old[rows], gains[rows], old_values[rows], returns[rows])
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self._trained(), 1.0)
                self.optimizer.step()
                losses.append(float(loss.detach()))
        kl = float(((old - reference) * batch.mask).sum(1).mean())
        row = {"step": self.step + 1.0, "reward": float(reward.mean()), "kl": kl}
        row |= {"coefficient": self.controller.coefficient, "loss": float(np.mean(losses))}
        row |= {"tokens": float(batch.mask.sum(1).mean()), "value": float(masked_mean(old_values, batch.mask))}
        self.controller = self.controller.after(kl, len(reward))
        self.step += 1
        return row

    def _loss(self, batch: Batch, old: Tensor, gains: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
        settings = self.settings
        ratio = ((action_log_probabilities(self.policy, batch) - old) * batch.mask).exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy_loss = masked_mean(-torch.min(ratio * gains, clipped * gains), batch.mask)
        values = self.value(batch)
        near = old_values + (values - old_values).clamp(-settings.value_clip, settings.value_clip)
        value_loss = 0.5 * masked_mean(torch.max((values - returns) ** 2, (near - returns) ** 2), batch.mask)
        return policy_loss + settings.value_coefficient * value_loss

    def save(self, folder: Path, curve: list[dict[str, float]]) -> None:
        """Write everything that training needs to go on, as a folder that appears whole or not at all."""
        with atomic_folder(folder, replace=True) as temporary:  # of a damaged one that was passed over
            state = {
                "policy": {n: w for n, w in self.policy.named_parameters() if w.requires_grad},
                "value": self.value.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            torch.save(state, temporary / "state.pt")
            facts = {"step": self.step, "coefficient": self.controller.coefficient, "curve": curve}
            facts["settings"] = asdict(self.settings)
            facts["files"] = file_digests({"state.pt": temporary / "state.pt"})
            write_record(temporary / FACTS, facts)

    def restore(self, folder: Path) -> list[dict[str, float]]:
        """Go on from a folder that `save` wrote; returns the curve so far.

        Raises:
            ValueError: the run there had other settings, or what it left is damaged.
        """
        facts = read_record(folder / FACTS)
        check_files(folder, facts["files"])
        now = json.loads(json.dumps(asdict(self.settings)))
        if facts["settings"] != now:
            changed = [name for name in now if facts["settings"].get(name) != now[name]]
            raise ValueError(
                f"the run in {str(folder)!r} had other settings ({', '.join(changed)}); use them, or another folder"
            )
        state = torch.load(folder / "state.pt", weights_only=True, map_location=self.start.model.device)
        self.policy.load_state_dict(state["policy"], strict=False)
        self.value.load_state_dict(state["value"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller = replace(self.controller, coefficient=facts["coefficient"])
        self.step = facts["step"]
        return list(facts["curve"])


def train(run: PPO, steps: int, folder: Path, *, save_every: int = 10, progress: bool = True) -> pd.DataFrame:
    """Train to `steps` iterations in all, going on from the last checkpoint in `folder` where there is one.

    Checkpoints are written to, and read from, `folder/checkpoints/step-000010` and so on; the last two stay. Ctrl-C
    keeps the finished checkpoint.

    Returns:
        The learning curve, one row an iteration.
    """
    checkpoints = folder / "checkpoints"
    last = last_checkpoint(checkpoints, FACTS)
    curve = run.restore(last) if last else []
    for _ in tqdm(range(run.step, steps), desc="PPO", initial=run.step, total=steps, disable=not progress):
        curve.append(run.iterate())
        if run.step % save_every == 0 or run.step == steps:
            with explained(folder, lambda: last_checkpoint(checkpoints, FACTS)):
                run.save(checkpoints / f"step-{run.step:06d}", curve)
            for old in sorted(checkpoints.glob("step-*"))[:-2]:
                shutil.rmtree(old)
    return pd.DataFrame(curve)


def _padded(
    prompts: list[list[int]],
    completions: list[list[int]],
    users: list[str],
    pad: int,
    text: Callable[[list[int]], str],
    end: int,
) -> Batch:
    width, longest = max(map(len, prompts)), max(map(len, completions))
    tokens = torch.full((len(prompts), width + longest), pad)
    attention = torch.zeros_like(tokens)
    mask = torch.zeros(len(prompts), longest)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens[row, width - len(prompt) : width] = torch.tensor(prompt)
        tokens[row, width : width + len(completion)] = torch.tensor(completion)
        attention[row, width - len(prompt) : width + len(completion)] = 1
        mask[row, : len(completion)] = 1
    rewrites = [text([token for token in completion if token != end]) for completion in completions]
    return Batch(tokens, attention, width, mask, users, rewrites)
