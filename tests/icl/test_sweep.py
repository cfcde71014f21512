"""Sweeps on a tiny model: nothing lost, nothing twice, the same numbers whatever happened on the way."""

import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from lmops_lab import icl_curve
from lmops_lab.cli import main
from lmops_lab.icl import experiment, scoring
from lmops_lab.icl import sweep as sweep_module
from lmops_lab.icl.cells import CellStore
from lmops_lab.icl.curve import ZERO_SHOT
from lmops_lab.icl.estimate import estimate
from lmops_lab.icl.influence import leave_one_group_out
from lmops_lab.icl.query import query
from lmops_lab.icl.results import Sweep
from lmops_lab.icl.sweep import plan_sweep, run_sweep, start_sweep
from lmops_lab.icl.tasks import load_task
from lmops_lab.runs.jobs import FolderBusyError, Job, one_writer


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums over several threads may differ in the last bit; equality to the bit is promised for equal threads only."""
    before, setting = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before)
    if setting is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = setting


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A real task file with a loader's defaults."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("letters")
    for split in ("train", "test"):
        rows = [{"text": "".join(rng.choice(list("abcd "), 6)), "label": ("no", "yes")[i % 2]} for i in range(40)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def grid(tiny, data):
    return {
        "model": tiny.name,
        "task": {"name": str(data), "template": "{text}:"},
        "k": [0, 2, 4, 7],
        "seed": [1, 2],
        "group_size": 3,
        "own_weight": [1, "groups", "2groups"],
        "queries": 8,
        "dtype": "float32",
    }


@pytest.fixture(scope="module")
def done(grid, tmp_path_factory):
    return run_sweep(grid, tmp_path_factory.mktemp("sweep"), progress=False)


def numbers(sweep):
    return {name: (cell.scores.tobytes(), cell.content_free.tobytes()) for name, _, cell in sweep.cells()}


def files(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (folder / "cells").glob("[!.]*.parquet")}


def test_equal_work_is_one_cell(done):
    cells = list(done.cells())
    # 1 zero-shot; per seed and k > 0: three own weights of the groups, one long prompt.
    assert len(cells) == 1 + 2 * 3 * (3 + 1)
    table = done.table()
    assert len(table) == 4 * len(cells)
    assert set(table[table.method == "sequential"].group_size.isna()) == {True}
    assert sorted(table.own_weight.dropna().unique()) == ["1", "2groups", "groups"]
    pd.testing.assert_frame_equal(pd.read_parquet(done.folder / "table.parquet"), table)
    assert Job(done.folder).status().state == "finished"


def test_cells_hold_what_a_curve_gives(done, tiny, tmp_path):
    task = load_task(str(done.grid.task[0]["name"]), template="{text}:")
    kept = done.curve(own_weight="groups")
    curve = icl_curve(
        tiny, task, k=[0, 2, 4, 7], seeds=[1, 2], queries=8, group_size=3, folder=tmp_path, progress=False
    )
    pd.testing.assert_frame_equal(curve.to_long_frame(), kept.to_long_frame())
    double = {(c.k, c.seed): c for c in done.curve(own_weight="2groups").cells if c.method == "structured"}
    weighted = icl_curve(
        tiny, task, k=[7], methods=["structured"], seeds=[2], queries=8, group_size=3, own_weight=6, folder=tmp_path,
        progress=False,
    )  # fmt: skip
    assert np.array_equal(double[7, 2].scores, weighted.cells[0].scores)
    with pytest.raises(ValueError, match="are several curves; choose one value of each of {'own_weight'"):
        done.curve()
    with pytest.raises(ValueError, match="no finished cell"):
        done.curve(task="other")


def test_each_cell_is_one_row_group_and_a_manifest(done):
    import pyarrow.parquet as pq

    path = next((done.folder / "cells").glob("*.parquet"))
    assert pq.ParquetFile(path).num_row_groups == 1
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["config"]["versions"] == list(experiment._versions())
    assert manifest["queries"] == 8


def test_a_second_run_does_nothing_and_a_larger_grid_the_rest(done, grid, tmp_path, monkeypatch):
    before = files(done.folder)
    with monkeypatch.context() as patched:
        patched.setattr(sweep_module, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
        run_sweep(grid, done.folder, progress=False)
    assert files(done.folder) == before
    run_sweep({**grid, "k": [0, 2], "seed": 1}, tmp_path, progress=False)
    small = files(tmp_path)
    run_sweep({**grid, "k": [0, 2]}, tmp_path, progress=False)
    assert small.items() < files(tmp_path).items()
    run_sweep({**grid, "k": [0]}, tmp_path, progress=False, only_missing=False)
    assert len(files(tmp_path).items() - small.items()) > 0


def test_a_damaged_cell_is_computed_again_to_the_bit(done, grid, tmp_path):
    sweep = run_sweep({**grid, "seed": 1}, tmp_path, progress=False)
    expected = numbers(sweep)
    for number, path in enumerate(sorted((tmp_path / "cells").glob("*.parquet"))[:6]):
        whole = bytearray(path.read_bytes())
        whole[8 + number] ^= 255  # one byte of the first pages
        path.write_bytes(bytes(whole) if number < 4 else whole[: len(whole) // 2] if number == 4 else b"")
    run_sweep({**grid, "seed": 1}, tmp_path, progress=False)
    assert numbers(sweep) == expected


def _sweep(grid, folder):
    run_sweep(grid, folder, progress=False, threads=1)


def test_killed_at_random_moments_it_ends_with_the_very_same_table(grid, done, tmp_path):
    """SIGKILL, over and over: no finished file is ever touched again, and the numbers are those of a quiet run."""
    context, dice, kills = multiprocessing.get_context("fork"), random.Random(0), 0
    while True:
        before = files(tmp_path)
        child = context.Process(target=_sweep, args=(grid, tmp_path))
        child.start()
        child.join(dice.uniform(0.03, 0.3) if kills < 6 else 120)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
            child.join()
        after = files(tmp_path)
        assert before.items() <= after.items()
        if child.exitcode == 0:
            break
    assert kills >= 3
    assert numbers(Sweep(tmp_path)) == numbers(done)
    pd.testing.assert_frame_equal(Sweep(tmp_path).table(), done.table())
    assert (tmp_path / "table.csv").read_bytes() == (done.folder / "table.csv").read_bytes()


def test_a_second_sweep_on_one_folder_is_refused(grid, tmp_path):
    with one_writer(tmp_path):
        held = multiprocessing.get_context("fork").Process(target=_refused, args=(grid, tmp_path))
        held.start()
        held.join(60)
    assert held.exitcode == 0
    assert not (tmp_path / "cells").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_sweep_that_is_still_loading_keeps_its_grid(grid, tmp_path):
    job = start_sweep(grid, tmp_path)
    try:
        asked = (tmp_path / "grid.json").read_bytes()
        with pytest.raises(FolderBusyError):
            start_sweep({**grid, "k": [0]}, tmp_path)
        assert (tmp_path / "grid.json").read_bytes() == asked
    finally:
        job.stop()
    assert not job.wait(60).active


def _refused(grid, folder):
    try:
        run_sweep(grid, folder, progress=False)
    except FolderBusyError:
        os._exit(0)
    os._exit(1)


def test_cells_of_another_version_are_not_mixed(grid, tmp_path, monkeypatch):
    run_sweep({**grid, "k": [0]}, tmp_path, progress=False)
    before = files(tmp_path)
    monkeypatch.setattr(experiment, "_versions", lambda: ["9.9", "9.9", "9.9"])
    with pytest.raises(ValueError, match=r"come from {'lmops-lab': .* but this is \['9.9', '9.9', '9.9'\]"):
        run_sweep({**grid, "k": [0]}, tmp_path, progress=False)
    monkeypatch.undo()
    about = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**about, "format": "lmops-lab sweep 0"}))
    with pytest.raises(ValueError, match="has format 'lmops-lab sweep 0'"):
        run_sweep({**grid, "k": [0]}, tmp_path, progress=False)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        run_sweep({**grid, "k": [0]}, tmp_path, progress=False)
    assert files(tmp_path) == before


def test_a_full_disk_is_noticed_before_and_during_the_work(grid, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sweep_module.shutil, "disk_usage", lambda _: _Usage())
        with pytest.raises(OSError, match="25 cells need about .* MB, but|25 cells need about .* but 0.0 MB"):
            run_sweep(grid, tmp_path, progress=False)
    real, written = CellStore.write, []

    def full(self, name, *arguments):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(name)
        return real(self, name, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(CellStore, "write", full)
        with pytest.raises(OSError, match="no space left for .*; 5 of 25 cells are finished and stay"):
            run_sweep(grid, tmp_path, progress=False)
    assert Job(tmp_path).status().state == "failed"
    kept = files(tmp_path)
    assert len(kept) == 5
    run_sweep(grid, tmp_path, progress=False)
    assert kept.items() < files(tmp_path).items()


class _Usage:
    free = 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kk": 1}, ValueError, "did you mean 'k'"),
        ({"task": "reviws"}, ValueError, "reviws"),
        ({"model": "./nowhere"}, FileNotFoundError, "nowhere"),
        ({"k": [50]}, ValueError, "k = 50 balanced"),
        ({"queries": 99}, ValueError, "queries = 99"),
    ],
)
def test_errors_come_before_any_work(grid, tmp_path, monkeypatch, changes, error, message):
    monkeypatch.setattr(sweep_module, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    with pytest.raises(error, match=message):
        run_sweep({**grid, **changes}, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="executor is 'dusk'"):
        run_sweep(grid, tmp_path / "new", executor="dusk")


def test_the_estimate_counts_what_is_missing(done, grid, tmp_path):
    plan = plan_sweep(done.grid)
    new = estimate(plan, tmp_path)
    assert (new.cells, new.missing, new.rows) == (25, 25, 100)
    assert new.seconds > 0
    assert new.memory > 0
    # Per seed: one prefix of 2, groups of 3 + 3 + 1, the rest of 4; a prompt of 7. Apart: 4 points of 2 + 4 + 7.
    assert new.encoded_tokens < new.separate_tokens / 2
    assert (estimate(plan, done.folder).missing, estimate(plan, done.folder).seconds) == (0, 0)
    run_sweep({**grid, "k": [0, 2]}, tmp_path, progress=False)
    part = estimate(plan, tmp_path)
    assert 0 < part.missing < 25
    assert "finished cells" in part.basis


def test_a_pool_of_groups_serves_all_seeds(tiny, data, tmp_path, monkeypatch):
    real, encoded = scoring._encode, []
    monkeypatch.setattr(scoring, "_encode", lambda *a: (encoded.append(len(a[2])), real(*a))[1])
    task = load_task(str(data), template="{text}:")
    asked = {"k": [3, 6, 9], "methods": ["structured"], "seeds": 4, "queries": 8, "group_size": 3, "folder": tmp_path}
    curve = icl_curve(tiny, task, **asked, pool_groups=5, progress=False)
    assert encoded == [5]
    assert len(curve.cells) == 12
    assert {cell.cost.groups for cell in curve.cells if cell.k == 9} == {3}
    assert len({cell.scores.tobytes() for cell in curve.cells if cell.k == 6}) > 1
    with pytest.raises(ValueError, match="every k has to be whole groups, at most 15"):
        icl_curve(tiny, task, **{**asked, "k": [4]}, pool_groups=5)


def test_leaving_one_group_out_equals_encoding_the_others_alone(tiny, data, monkeypatch):
    real, encoded = scoring._encode, []
    monkeypatch.setattr(scoring, "_encode", lambda *a: (encoded.append(len(a[2])), real(*a))[1])
    task = load_task(str(data), template="{text}:")
    frame = leave_one_group_out(tiny, task, k=8, queries=8, group_size=3, calibration="raw")
    assert encoded == [3]
    assert list(frame.group) == [0, 1, 2]
    assert list(frame.demonstrations) == [3, 3, 2]
    assert ((frame.low <= frame.gain) & (frame.gain <= frame.high)).all()
    with pytest.raises(ValueError, match="2 groups or more"):
        leave_one_group_out(tiny, task, k=3, queries=8, group_size=3)


def test_questions_in_sql(done, capsys, tmp_path):
    found = query("select method, count(*) as n from cells group by all order by n", [done.folder])
    assert found.to_dict("list") == {"method": [ZERO_SHOT, "sequential", "structured"], "n": [1, 6, 18]}
    table = done.table(["batch"]).set_index("cell").accuracy
    asked = "select cell, avg(correct::int) as accuracy from answers where calibration = 'batch' group by cell"
    pd.testing.assert_series_equal(
        query(asked, [done.folder]).set_index("cell").accuracy.sort_index(), table.sort_index()
    )
    scores = query("select log_probability from scores where query >= 0 and gold = label", [done.folder])
    assert len(scores) == 25 * 8
    command = ["results", "select count(*) as cells from cells", "--folder", str(done.folder), "--format"]
    assert main([*command, "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cells": 25}
    assert main([*command, "cvs"]) == 2
    assert "did you mean 'csv'" in capsys.readouterr().err
    for sql, message in [("select x from cells", "There are these views"), ("selct", "syntax error")]:
        with pytest.raises(ValueError, match=message):
            query(sql, [done.folder])
    with pytest.raises(FileNotFoundError, match="no finished cell"):
        query("select 1", [tmp_path])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        query("select 1", [tmp_path / "none"])


def test_the_command_line(done, grid, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(json.dumps({**grid, "k": [0, 2]}))
    command = ["sweep", str(tmp_path / "grid.yaml"), "--folder", str(tmp_path / "out"), "--quiet"]
    assert main([*command, "--dry-run"]) == 0
    assert "9 cells, 9 to do, 36 rows" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main([*command, "--only-missing"]) == 0
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    assert "table.csv" in capsys.readouterr().out
    assert main(["sweep", str(tmp_path / "out"), "--status"]) == 0
    assert capsys.readouterr().out == "finished: 9 of 9\n"
    (tmp_path / "bad.yaml").write_text("k: 0\nsede: 1\n")
    assert main(["sweep", str(tmp_path / "bad.yaml")]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_sweep_in_the_background_can_be_watched(grid, done, tmp_path):
    job = start_sweep(grid, tmp_path, ["--threads", "1"])
    seen = set()
    end = time.monotonic() + 200
    while (status := job.status()).active and time.monotonic() < end:
        seen.add(status.done)
        time.sleep(0.02)
    assert job.status().state == "finished", job.log()
    assert len(seen) > 1
    assert numbers(Sweep(tmp_path)) == numbers(done)
