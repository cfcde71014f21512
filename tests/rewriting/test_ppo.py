import math

import numpy as np
import pytest
import torch

from lmops_lab.rewriting import ppo
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import MARKER, Card, Loaded
from lmops_lab.rewriting.ppo import PPO, AdaptiveKL, PPOSettings, advantages, token_rewards, train, whitened
from tests.rewriting.tiny_rewriters import letter_tokenizer, tiny_gpt2
from tests.tiny import byte_tokenizer

SAMPLES = Decoding("sampling", max_new_tokens=4, min_new_tokens=0)
END = 257


@pytest.fixture(scope="module")
def start():
    return Loaded(tiny_gpt2(320, END, spread=0.1), byte_tokenizer(), "tiny", Card())


def small(**changes):
    options = {"batch": 8, "minibatch": 4, "passes": 2, "rollouts": SAMPLES, "lengths": (3, 6), "learning_rate": 1e-3}
    return PPOSettings(**{**options, **changes})


def share_of_letters(users, rewrites):
    return [sum("a" <= c <= "z" for c in rewrite) / max(1, len(rewrite)) for rewrite in rewrites]


def run_of(start, **changes):
    return PPO(start, ["x", "a cat", "y z"], share_of_letters, small(**changes))


def test_promptists_settings():
    settings = PPOSettings()
    assert (settings.learning_rate, settings.batch, settings.passes) == (5e-5, 256, 4)
    assert (settings.gamma, settings.lam, settings.clip, settings.value_clip) == (1.0, 0.95, 0.2, 0.2)
    assert (settings.value_coefficient, settings.kl, settings.kl_target, settings.kl_horizon) == (2.3, 0.2, 0.2, 10_000)
    assert (settings.blocks, settings.lengths) == (2, (15, 75))
    rollouts = settings.rollouts
    assert (rollouts.method, rollouts.beams, rollouts.groups, rollouts.diversity_penalty) == ("diverse", 16, 16, 1.0)
    assert rollouts.min_new_tokens == 5


def test_rewards_of_tokens_by_hand():
    policy = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    reference = torch.tensor([[-1.5, -2.0, -2.0], [-2.0, -1.0, -9.9]])
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    out = token_rewards(policy, reference, mask, torch.tensor([5.0, 7.0]), 0.1)
    torch.testing.assert_close(out, torch.tensor([[-0.05, 0.0, 0.1 + 5], [-0.1, 7.0, 0.0]]))


def test_advantages_by_hand():
    """gamma 1, lambda .5, three actions, reward 1 on the last; the second row is one action shorter."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    values = torch.tensor([[0.2, 0.4, 0.6], [0.2, 0.4, 99.0]])
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    found, returns = advantages(rewards, values, mask, 1.0, 0.5)
    # deltas: .4-.2 = .2, .6-.4 = .2, 1-.6 = .4; A2 = .4, A1 = .2 + .5*.4 = .4, A0 = .2 + .5*.4 = .4
    # deltas: .4-.2 = .2, 1-.4 = .6;             A1 = .6, A0 = .2 + .5*.6 = .5
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.4], [0.5, 0.6, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.6, 0.8, 1.0], [0.7, 1.0, 0.0]]))


def test_whitening_looks_at_actions_only():
    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    out = whitened(torch.tensor([[1.0, 2.0, 50.0], [3.0, 60.0, 70.0]]), mask)
    assert float(out.sum()) == pytest.approx(0, abs=1e-5)
    assert float((out**2).sum() / 3) == pytest.approx(1, abs=1e-4)


def test_values_and_log_probabilities_belong_to_the_state_before_the_action(start):
    """The original read values one position early: V of a state that lacks the latest token."""
    run = run_of(start)
    torch.nn.init.normal_(run.value.head.weight)
    batch = run.rollouts(np.random.default_rng(0))
    values, logs = run.value(batch), ppo.action_log_probabilities(run.policy, batch)
    for row in range(3):
        sequence = batch.tokens[row][batch.attention[row].bool()].tolist()
        actions = int(batch.mask[row].sum())
        prompt = len(sequence) - actions
        for t in range(actions):
            state = torch.tensor([sequence[: prompt + t]])  # everything up to the action, which is not seen
            hidden = run.value.model.transformer(state).last_hidden_state[0, -1]
            assert float(values[row, t]) == pytest.approx(float(run.value.head(hidden).detach()), abs=1e-4)
            expected = run.policy(state).logits[0, -1].log_softmax(-1)[sequence[prompt + t]]
            assert float(logs[row, t]) == pytest.approx(float(expected), abs=1e-4)


def test_the_kl_controller_by_hand():
    controller = AdaptiveKL(0.2, target=0.2, horizon=10_000.0)
    # KL .21 is 5 % above target: 256 rewrites raise the coefficient by .05 * 256 / 10,000.
    assert controller.after(0.21, 256).coefficient == pytest.approx(0.2 * (1 + 0.05 * 0.0256))
    assert controller.after(10.0, 256).coefficient == pytest.approx(0.2 * (1 + 0.2 * 0.0256))
    assert controller.after(0.0, 256).coefficient == pytest.approx(0.2 * (1 - 0.2 * 0.0256))
    assert AdaptiveKL(0.2, 0.2, 0.0).after(10.0, 256).coefficient == 0.2


def test_the_controller_is_fed_policy_against_reference(start):
    """The original fed it the ratio of the new to the old policy, which is 0 before the first update."""
    run = run_of(start, kl_horizon=100.0)
    for _ in range(3):
        run.iterate()
    seen = []
    original = AdaptiveKL.after

    def spy(self, kl, rewrites):
        seen.append((kl, rewrites))
        return original(self, kl, rewrites)

    before = run.controller.coefficient
    batch = run.rollouts(np.random.default_rng([run.settings.seed, run.step]))
    policy = ppo.action_log_probabilities(run.policy, batch)
    reference = ppo.action_log_probabilities(run.reference, batch)
    expected = float(((policy - reference) * batch.mask).sum(1).mean())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptiveKL, "after", spy)
        row = run.iterate()
    assert abs(expected) > 1e-3
    assert seen == [(pytest.approx(expected, abs=1e-5), 8)]
    assert row["kl"] == pytest.approx(expected, abs=1e-5)
    assert run.controller.coefficient != before


def test_the_reference_and_the_embeddings_stay_while_the_last_blocks_learn(start):
    """In the original the embeddings, which policy and reference shared, went on learning."""

    def shortest(_, rewrites):
        return [-float(len(rewrite)) for rewrite in rewrites]

    run = PPO(start, ["x", "y"], shortest, small(blocks=1, learning_rate=0.05))
    before = {name: weight.clone() for name, weight in run.policy.named_parameters()}
    ids = torch.tensor([[1, 2, 3]])
    said = run.reference(ids).logits.clone()
    run.iterate()
    changed = {name for name, weight in run.policy.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("transformer.h.1.") for name in changed)
    assert torch.equal(run.reference(ids).logits, said)
    assert torch.equal(start.model(ids).logits, said)


def test_ppo_finds_the_known_optimum():
    """One action, KL coefficient beta: the best policy is the reference times exp(reward / beta), normalised."""
    beta, vocabulary, end = 0.5, 12, 11
    model = tiny_gpt2(vocabulary, end, layers=1)

    loaded = Loaded(model, letter_tokenizer(end), "tiny", Card())
    prompt = torch.tensor([loaded.tokenizer("b" + MARKER).input_ids])
    worth = {"a": 1.0, "b": 0.5, "": 0.8}
    settings = PPOSettings(
        learning_rate=2e-2,
        batch=128,
        minibatch=128,
        passes=3,
        kl=beta,
        kl_horizon=0.0,
        blocks=0,
        value_clip=10.0,
        rollouts=Decoding("sampling", max_new_tokens=1),
        lengths=(1, 1),
        whiten=False,
    )
    run = PPO(loaded, ["b"], lambda _, texts: [worth.get(text, 0.0) for text in texts], settings)
    base = model(prompt).logits[0, -1].detach().log_softmax(-1)
    rewards = torch.tensor([worth.get("" if i == end else chr(97 + i), 0.0) for i in range(vocabulary)])
    optimum = (base + rewards / beta).softmax(-1)
    start = float((base.exp() - optimum).abs().sum() / 2)
    for _ in range(30):
        run.iterate()
    with torch.no_grad():
        found = run.policy(prompt).logits[0, -1].softmax(-1)
    distance = float((found - optimum).abs().sum() / 2)  # total variation
    assert start > 0.2
    assert distance < min(0.12, start / 2)
    # The value model foretells the return of that policy: the reward less its KL penalty.
    expected = float((found * (rewards - beta * (found.log() - base))).sum())
    assert run.iterate()["value"] == pytest.approx(expected, abs=0.1)


def test_diverse_beam_rollouts_raise_the_reward(start):
    rollouts = Decoding("diverse", beams=8, groups=8, min_new_tokens=2)
    settings = small(rollouts=rollouts, batch=16, minibatch=16, passes=4, learning_rate=1e-2, kl=0.01, blocks=0)
    run = PPO(start, [f"text {i}" for i in range(40)], share_of_letters, settings)
    rewards = [run.iterate()["reward"] for _ in range(7)]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.1


def test_rollouts_have_random_lengths_that_evaluation_does_not_inherit(start):
    """The original evaluated with the length that the last rollouts had drawn."""
    settings = small(lengths=(1, 9), rollouts=Decoding("sampling", min_new_tokens=1))
    run = PPO(start, ["x", "y", "z"], share_of_letters, settings)
    longest = {int(run.rollouts(np.random.default_rng(i)).mask.sum(1).max()) for i in range(8)}
    assert len(longest) > 2
    assert max(longest) <= 9
    assert run.settings.rollouts.max_new_tokens == 75
    assert run.start.card.decoding.max_new_tokens == 75


def test_equal_texts_of_a_batch_draw_apart(start):
    run = PPO(start, ["x"], share_of_letters, small(batch=16))
    assert len(set(run.rollouts(np.random.default_rng(0)).rewrites)) > 8


def test_a_stopped_run_goes_on_to_the_same_end(start, tmp_path):
    """The original wrote checkpoints to one folder and looked for them in another."""
    whole = run_of(start)
    curve = train(whole, 4, tmp_path / "whole", save_every=1, progress=False)
    stopped = run_of(start)

    def stop(users, rewrites):
        if stopped.step == 2:
            raise KeyboardInterrupt
        return share_of_letters(users, rewrites)

    stopped.reward = stop
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 4, tmp_path / "part", save_every=1, progress=False)
    again = run_of(start)
    resumed = train(again, 4, tmp_path / "part", save_every=1, progress=False)
    assert resumed.to_dict() == curve.to_dict()
    for left, right in zip(whole.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(ValueError, match="had other settings \\(clip\\)"):
        train(run_of(start, clip=0.1), 5, tmp_path / "part", progress=False)


def test_a_full_disk_leaves_the_last_checkpoint(start, tmp_path, monkeypatch):
    run = run_of(start)
    train(run, 1, tmp_path, save_every=1, progress=False)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="the disk is full; the last whole checkpoint is 'step-000001'"):
        train(run_of(start), 2, tmp_path, save_every=1, progress=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    monkeypatch.undo()
    assert len(train(run_of(start), 2, tmp_path, save_every=1, progress=False)) == 2


def test_a_damaged_checkpoint_is_passed_over(start, tmp_path):
    whole = train(run_of(start), 3, tmp_path / "whole", save_every=1, progress=False)
    train(run_of(start), 2, tmp_path / "part", save_every=1, progress=False)
    state = tmp_path / "part" / "checkpoints" / "step-000002" / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="checkpoint step-000002 is passed over"):
        again = train(run_of(start), 3, tmp_path / "part", save_every=1, progress=False)
    assert again.to_dict() == whole.to_dict()


def test_bad_rewards_stop_the_run_before_an_update(start):
    run = PPO(start, ["x"], lambda users, _: [math.nan] * len(users), small())
    before = [weight.clone() for weight in run.policy.parameters()]
    with pytest.raises(ValueError, match="returned nan"):
        run.iterate()
    assert all(torch.equal(a, b) for a, b in zip(before, run.policy.parameters(), strict=True))
    with pytest.raises(ValueError, match="no user texts"):
        PPO(start, [], share_of_letters, small())
    with pytest.raises(ValueError, match="is empty"):
        PPO(start, [" "], share_of_letters, small())
