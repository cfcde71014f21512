"""The training loop: continues exactly, keeps what is done, refuses what does not belong together."""

import os
import signal

import pytest
import torch
from torch import nn

from lmops_lab.emojiworld.loop import load_average, read_curve, read_progress, step_generator, train_stage
from lmops_lab.emojiworld.recipe import Length

LENGTH = Length(40, 8, 1e-2)


def build():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def train(path, model, *, stop_after=None, fingerprint="one", length=LENGTH, how=None, **options):
    """Fit the sum of four numbers; `how` is what happens in step `stop_after` of this call."""
    steps = 0

    def loss(generator):
        nonlocal steps
        steps += 1
        if steps == stop_after:
            how()
        inputs = torch.randn(length.batch, 4, generator=generator)
        return (model(inputs).squeeze(-1) - inputs.sum(-1)).square().mean()

    return train_stage(model, loss, length, path=path, fingerprint=fingerprint, seed=1, progress=False, **options)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


@pytest.fixture(autouse=True)
def _listening():
    """A shell that starts tests in the background lets them ignore Ctrl-C; here it is listened to."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def fall():
    raise KeyboardInterrupt


def test_training_lowers_the_loss_and_leaves_the_averaged_weights(tmp_path):
    model = build()
    done = train(tmp_path / "x.pt", model)
    assert done.finished
    assert sum(done.losses[-5:]) < 0.5 * sum(done.losses[:5])
    averaged = build()
    load_average(tmp_path / "x.pt", averaged)
    assert same(model, averaged)
    assert not model.training
    curve = read_curve(tmp_path / "x.pt", window=10)
    assert list(curve["step"]) == [10, 20, 30, 40]
    assert curve["loss"].iloc[0] == pytest.approx(sum(done.losses[:10]) / 10)


def test_interrupted_and_continued_training_equals_uninterrupted_training(tmp_path):
    whole, parts = build(), build()
    straight = train(tmp_path / "whole" / "x.pt", whole)
    path = tmp_path / "parts" / "x.pt"
    for stop in (13, 9):
        with pytest.raises(KeyboardInterrupt, match="saved after step"):
            train(path, build(), stop_after=stop, how=ctrl_c)
    assert read_progress(path, 40).step == 22
    finished = train(path, parts)
    assert finished.losses == straight.losses
    assert same(whole, parts)


def test_the_second_ctrl_c_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    train(path, build(), minutes=1e-9)
    assert read_progress(path, 40).step == 1
    with pytest.raises(KeyboardInterrupt):
        train(path, build(), stop_after=5, how=fall)
    assert read_progress(path, 40).step == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_minutes_are_of_one_run_and_the_next_continues(tmp_path):
    path = tmp_path / "x.pt"
    steps = [train(path, build(), minutes=1e-9).step for _ in range(3)]
    assert steps == [1, 2, 3]
    assert train(path, build()).finished


def test_a_finished_stage_is_not_trained_again_but_can_be_trained_longer(tmp_path):
    path = tmp_path / "x.pt"
    train(path, build())
    again = train(path, build(), stop_after=1, how=fall)
    assert len(again.losses) == 40
    assert train(path, build(), length=Length(50, 8, 1e-2)).step == 50


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    train(path, build(), minutes=1e-9)
    with pytest.raises(ValueError, match=r"x\.pt was trained with settings or on models one, not two"):
        train(path, build(), fingerprint="two")
    with pytest.raises(FileNotFoundError, match="stage y has not been trained"):
        load_average(tmp_path / "y.pt", build())


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_run_needs_time(tmp_path, minutes):
    with pytest.raises(ValueError, match="minutes="):
        train(tmp_path / "x.pt", build(), minutes=minutes)


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    train(path, build(), minutes=1e-9)
    with pytest.raises(FloatingPointError, match="nan"):
        train_stage(
            build(), lambda _: torch.tensor(float("nan")), LENGTH, path=path, fingerprint="one", seed=1, progress=False
        )
    assert read_progress(path, 40).step == 1


def test_each_step_of_each_stage_has_its_own_random_numbers():
    draws = {
        float(torch.rand(1, generator=step_generator(seed, stage, step)))
        for seed in (0, 1)
        for stage in ("a", "b")
        for step in range(5)
    }
    assert len(draws) == 20
    assert torch.rand(1, generator=step_generator(0, "a", 3)) == torch.rand(1, generator=step_generator(0, "a", 3))
