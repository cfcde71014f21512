import math
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lmops_lab.rewriting import reinforcement, rewriter, training
from lmops_lab.rewriting.corpus import Pair
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import load_causal
from lmops_lab.rewriting.ppo import PPOSettings
from lmops_lab.rewriting.reinforcement import make_trainer, merged_start, train_reinforced
from lmops_lab.rewriting.reward import GuardedReward
from lmops_lab.rewriting.rewriter import Rewriter
from lmops_lab.rewriting.supervised import train_supervised
from lmops_lab.rewriting.training import Lora, last_checkpoint
from tests.rewriting.tiny_rewriters import byte_gpt2_folder

FAST = Decoding(beams=2, max_new_tokens=8)
PAIRS = [Pair(c, f"{c}, 8k", "content", c) for c in "abcdefgh"]
LORA = Lora(rank=4, alpha=8)
USERS = ["a cat", "a dog", "b", "c"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return byte_gpt2_folder(tmp_path_factory.mktemp("base") / "model", spread=0.1)


def supervise(base, folder, **changes):
    options = {"steps": 6, "batch": 4, "evaluate_every": 2, "lora": LORA, "decoding": FAST, "learning_rate": 1e-2}
    return train_supervised(PAIRS, folder, base=str(base), **{**options, **changes})


@pytest.fixture(scope="module")
def supervised(base, tmp_path_factory):
    return supervise(base, tmp_path_factory.mktemp("sft"))


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_supervised_training_learns_and_loads(supervised, base):
    losses = supervised.curve["loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0] - 0.1
    assert supervised.load().decoding == FAST
    card = supervised.load().loaded.card
    assert (card.base, card.base_revision, card.trained) == (str(base), load_causal(str(base)).revision, "sft")
    assert (supervised.folder / "curve.csv").is_file()


def test_a_training_shows_a_bar_and_prints_no_numbers(base, tmp_path, capsys):
    trained = supervise(base, tmp_path, steps=1, evaluate_every=1)
    shown = capsys.readouterr()
    assert "loss" not in shown.out + shown.err
    assert "1/1" in shown.err
    assert "loss" in trained.curve


def test_the_loss_is_on_the_target_and_its_end_alone(base, tmp_path):
    """Step one's loss is the mean over target tokens, computed here one pair at a time from the untouched model."""
    found = supervise(base, tmp_path, steps=1, batch=8).curve["loss"].dropna().iloc[0]
    loaded = load_causal(str(base), dtype="float32")
    total, count = 0.0, 0
    for pair in PAIRS:
        prompt = loaded.tokenizer(f"{pair.source} Rephrase:").input_ids
        target = [*loaded.tokenizer(f" {pair.target}").input_ids, loaded.tokenizer.eos_token_id]
        logs = loaded.model(torch.tensor([[*prompt, *target]])).logits[0].log_softmax(-1)
        total -= sum(float(logs[len(prompt) + i - 1, token]) for i, token in enumerate(target))
        count += len(target)
    assert found == pytest.approx(total / count, abs=2e-3)


class StopHereError(Exception):
    pass


def stopping_at(step):
    def stop(self, args, state, control, **_):
        if state.global_step == step:
            raise StopHereError

    return stop


def test_a_killed_supervised_run_goes_on_to_the_same_weights(base, supervised, tmp_path, monkeypatch):
    """The original looked for its checkpoint in another folder than it wrote."""
    monkeypatch.setattr(training.MarkComplete, "on_step_begin", stopping_at(4), raising=False)
    with pytest.raises(StopHereError):
        supervise(base, tmp_path)
    assert last_checkpoint(tmp_path / "checkpoints").name == "checkpoint-4"
    monkeypatch.undo()
    again = supervise(base, tmp_path)
    assert len(again.curve["loss"].dropna()) == 6
    assert same(weights(supervised.rewriter), weights(again.rewriter))


def test_a_full_disk_leaves_the_last_whole_checkpoint(base, supervised, tmp_path, monkeypatch):
    original = torch.save

    def full(value, where, *rest, **options):
        if "checkpoint-4" in str(where):
            raise OSError(28, "No space left on device")
        return original(value, where, *rest, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="the disk is full; the last whole checkpoint is 'checkpoint-2'"):
        supervise(base, tmp_path)
    assert (tmp_path / "checkpoints" / "checkpoint-4").is_dir()  # half of it, which is not resumed from
    assert last_checkpoint(tmp_path / "checkpoints").name == "checkpoint-2"
    monkeypatch.undo()
    assert same(weights(supervised.rewriter), weights(supervise(base, tmp_path).rewriter))


def test_training_stops_early_and_keeps_the_best(base, tmp_path):
    held = [Pair("x", "completely different %%%", "content", "x")]
    done = supervise(base, tmp_path, held_out=held, steps=40, evaluate_every=1, patience=2, learning_rate=0.3)
    assert done.steps < 40
    assert done.curve["eval_loss"].notna().sum() >= 3


def test_a_finished_training_is_left_as_it_is(base, supervised, tmp_path):
    held = [Pair("x", "completely different %%%", "content", "x")]
    early = {"held_out": held, "steps": 40, "evaluate_every": 1, "patience": 2, "learning_rate": 0.3}
    for options in ({"steps": 3, "evaluate_every": 2}, early):  # 3 steps are not the end of an epoch
        folder = tmp_path / str(len(options))
        once = supervise(base, folder, **options)
        again = supervise(base, folder, **options)
        assert (again.steps, len(again.curve)) == (once.steps, len(once.curve))
        assert same(weights(once.rewriter), weights(again.rewriter))
        assert len(list((folder / "checkpoints").glob("checkpoint-*"))) <= 2
    longer = supervise(base, tmp_path / "2", steps=6, evaluate_every=2)
    assert longer.steps == 6
    assert same(weights(longer.rewriter), weights(supervised.rewriter))


def test_a_killed_run_stops_as_early_as_one_in_one_piece(base, tmp_path, monkeypatch):
    held = [Pair("x", "completely different %%%", "content", "x")]
    options = {"held_out": held, "steps": 40, "evaluate_every": 1, "patience": 3, "learning_rate": 0.3}
    whole = supervise(base, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(training.MarkComplete, "on_step_begin", stopping_at(whole.steps - 1), raising=False)
        with pytest.raises(StopHereError):
            supervise(base, tmp_path / "part", **options)
    again = supervise(base, tmp_path / "part", **options)
    assert again.steps == whole.steps
    assert same(weights(whole.rewriter), weights(again.rewriter))


def test_a_folder_is_of_one_training(base, supervised, tmp_path):
    supervise(base, tmp_path, steps=1)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate was 0.01 and is 0.02\); use another folder"):
        supervise(base, tmp_path, steps=1, learning_rate=0.02)
    reinforce(supervised.rewriter, tmp_path / "rl", steps=1)
    with pytest.raises(ValueError, match=r"other settings \(kl was 0.05 and is 0.1\)"):
        reinforce(supervised.rewriter, tmp_path / "rl", steps=1, kl=0.1)
    with pytest.raises(ValueError, match=r"other settings \(start was .* and is"):
        reinforce(supervise(base, tmp_path, steps=2).rewriter, tmp_path / "rl", steps=1)


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/11: file write failed"),
        OSError(122, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_known_in_every_librarys_words(error, tmp_path):
    with (
        pytest.raises(OSError, match="the disk is full; the last whole checkpoint is 'checkpoint-2'"),
        training.explained(tmp_path, lambda: tmp_path / "checkpoint-2"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="something else"), training.explained(tmp_path, lambda: None):
        raise RuntimeError("something else")


def test_all_weights_can_be_trained(base, tmp_path):
    done = supervise(base, tmp_path, lora=None, steps=2, learning_rate=1e-3)
    assert not (done.rewriter / "adapter_config.json").exists()
    assert len(done.load().rewrite("a", 2).candidates) == 2


def test_bad_pairs(base, tmp_path):
    with pytest.raises(ValueError, match="no pairs to train on"):
        train_supervised([], tmp_path, base=str(base))
    for bad in (Pair("", "a", "content", ""), Pair("a", " ", "content", ""), Pair("a Rephrase: b", "a", "content", "")):
        with pytest.raises(ValueError, match="is empty|contains 'Rephrase:'"):
            train_supervised([bad], tmp_path, base=str(base))


def letters(users, rewrites):
    return [sum("a" <= c <= "z" for c in rewrite) / max(1, len(rewrite)) for rewrite in rewrites]


def reinforce(start, folder, reward=letters, **changes):
    options = {"steps": 3, "prompts_a_step": 2, "samples": 2, "lora": LORA, "max_new_tokens": 6, "save_every": 1}
    return train_reinforced(str(start), USERS, reward, folder, **{"learning_rate": 1e-2, **options, **changes})


@pytest.mark.parametrize("mode", ["rloo", "grpo"])
def test_reinforcement_yields_one_adapter_for_the_same_base(supervised, base, tmp_path, mode):
    done = reinforce(supervised.rewriter, tmp_path, mode=mode)
    loaded = done.load().loaded
    assert (loaded.card.base, loaded.card.trained) == (str(base), mode)
    assert not same(weights(done.rewriter), weights(supervised.rewriter))
    assert done.curve["reward"].notna().sum() == 3
    # What was trained (the merged start and its own adapter) says the same as the joined adapter on the base.
    from peft import PeftModel

    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "start"), tmp_path / "adapter")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(ids).logits, trained(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mode", "lora"), [("rloo", LORA), ("grpo", None)])
def test_kl_is_measured_against_the_supervised_model(supervised, tmp_path, mode, lora):
    """The trap: the reference comes from a path. It must be the merged supervised model, and beta must not be 0."""
    merged, _ = merged_start(str(supervised.rewriter), tmp_path)
    options = {"prompts_a_step": 2, "samples": 2, "kl": 0.05, "learning_rate": 0.05, "lora": lora, "seed": 0}
    trainer = make_trainer(
        mode, merged, USERS, letters, tmp_path, steps=3, max_new_tokens=6, temperature=1.0, save_every=10, **options
    )
    assert trainer.beta == 0.05
    expected = Rewriter.load(str(supervised.rewriter), dtype="float32").loaded.model
    if lora is None:
        reference = trainer.ref_model.state_dict()
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(reference[name], value)
    trainer.train()
    kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert kl[0] == pytest.approx(0, abs=1e-4)  # nothing is learned yet
    assert max(abs(value) for value in kl[1:]) > 1e-3
    if lora is None:  # the reference has not moved while the policy has
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(trainer.ref_model.state_dict()[name], value)


def test_a_killed_reinforcement_goes_on_to_the_same_weights(supervised, tmp_path, monkeypatch):
    whole = reinforce(supervised.rewriter, tmp_path / "whole")
    monkeypatch.setattr(training.MarkComplete, "on_step_begin", stopping_at(2), raising=False)
    with pytest.raises(StopHereError):
        reinforce(supervised.rewriter, tmp_path / "part")
    monkeypatch.undo()
    again = reinforce(supervised.rewriter, tmp_path / "part")
    for name, value in weights(whole.rewriter).items():
        torch.testing.assert_close(value, weights(again.rewriter)[name])


def test_the_reward_sees_the_users_text_and_the_whole_rewrite(supervised, tmp_path):
    """In the original a missing marker made the user's text the rewrite, and a second one cut it."""
    seen = []

    def remember(users, rewrites):
        seen.extend(zip(users, rewrites, strict=True))
        return [0.1 * len(rewrite) for rewrite in rewrites]

    reinforce(supervised.rewriter, tmp_path, remember, steps=1)
    assert {user for user, _ in seen} <= set(USERS)
    # The tiny model writes noise: what begins with the user's text would be the prompt, not the rewrite.
    assert seen
    assert not any(rewrite.startswith(user) and len(user) > 1 for user, rewrite in seen)


@pytest.mark.parametrize(
    ("reward", "message"),
    [(lambda users, _: [math.nan] * len(users), "returned nan"), (lambda *_: [1.0] * 99, r"shape \(99,\)")],
)
def test_bad_rewards_stop_training(supervised, tmp_path, reward, message):
    with pytest.raises(ValueError, match=message):
        reinforce(supervised.rewriter, tmp_path, reward)


def test_bad_settings(supervised, tmp_path):
    start = supervised.rewriter
    with pytest.raises(ValueError, match="mode is 'dpo'"):
        reinforce(start, tmp_path, mode="dpo")
    with pytest.raises(ValueError, match="kl is 0.0"):
        reinforce(start, tmp_path, kl=0.0)
    with pytest.raises(ValueError, match="samples is 1"):
        reinforce(start, tmp_path, samples=1)
    with pytest.raises(ValueError, match="no prompts"):
        train_reinforced(str(start), [], letters, tmp_path)
    with pytest.raises(ValueError, match="is empty"):
        train_reinforced(str(start), [" "], letters, tmp_path)


def test_names_of_rewriters_can_be_trained_further(supervised, tmp_path, monkeypatch):
    monkeypatch.setattr(rewriter, "EMBEDDED_FOLDER", tmp_path)
    shutil.copytree(supervised.rewriter, tmp_path / "supervised")
    done = reinforce("emoji-sft", tmp_path / "run", steps=1)
    assert done.load().loaded.card.base == supervised.load().loaded.card.base
    assert rewriter.located("promptist") == ("microsoft/Promptist", "gpt2")


def test_ppo_through_the_same_door(supervised, tmp_path):
    settings = PPOSettings(
        batch=4, minibatch=4, passes=1, rollouts=Decoding("sampling"), lengths=(3, 4), learning_rate=1e-3
    )
    done = reinforce(supervised.rewriter, tmp_path, GuardedReward(letters), mode="ppo", ppo=settings, steps=2)
    assert list(done.curve["step"]) == [1, 2]
    assert done.load().loaded.card.trained == "ppo"
    assert reinforcement.MODES == ("rloo", "grpo", "ppo")
