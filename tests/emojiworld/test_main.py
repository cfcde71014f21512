"""The command: trains, continues, says how far it is, refuses nonsense before slow work."""

import json

import pytest

from lmops_lab.emojiworld.__main__ import main


def run(workshop, *arguments):
    return main(["--folder", str(workshop.folder), "--recipe", "smoke", "--quiet", *map(str, arguments)])


def test_a_finished_training_is_measured_and_exported(workshop, tmp_path, capsys):
    assert run(workshop, "--export", tmp_path / "out", "--curves", tmp_path / "curves.png") == 0
    printed = capsys.readouterr().out
    assert "diffusion    step     16 of     16" in printed
    assert json.loads(printed.splitlines()[-1])["weights_mb"] < 30
    assert (tmp_path / "out" / "pipeline" / "model_index.json").is_file()
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_of_limited_time_is_continued_by_the_same_command(tmp_path, capsys):
    command = ["--folder", str(tmp_path), "--recipe", "smoke", "--quiet", "--minutes", "1e-6", "--stages", "recogniser"]
    for step in (1, 2):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert f"recogniser   step      {step} of     12" in printed
        assert "the same command continues" in printed


def test_status_trains_nothing(tmp_path, capsys):
    assert main(["--folder", str(tmp_path), "--status"]) == 0
    assert "autoencoder  step      0" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "huge"], "no recipe 'huge'; choose one of full, smoke"),
        (["--minutes", "0"], "--minutes 0 must be positive"),
        (["--length", "-1"], "factor -1.0 must be positive"),
        (["--threads", "0"], "--threads 0 must be at least 1"),
        (["--scenes", "0"], "scenes=0 must be at least 1"),
        (["--stages", "paint"], "no stage 'paint'"),
        (["--status", "--export", "out"], "stage recogniser has not been trained"),
    ],
)
def test_errors_of_use_take_one_line(tmp_path, capsys, arguments, message):
    assert main(["--folder", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_ctrl_c_ends_with_130(tmp_path, capsys, monkeypatch):
    from lmops_lab.emojiworld import train

    def stopped(*_):
        raise KeyboardInterrupt("stage autoencoder is saved after step 7; the same command continues")

    monkeypatch.setattr(train, "train_world", stopped)
    assert main(["--folder", str(tmp_path)]) == 130
    assert "saved after step 7" in capsys.readouterr().err
