import pytest

pytestmark = pytest.mark.browser

START = """
import subprocess, sys
from pathlib import Path
Path("worker.py").write_text('''
import sys, time
from pathlib import Path
import numpy as np
from lmops_lab.icl.cells import Cell, CellStore, Cost
from lmops_lab.icl.results import CELLS
from lmops_lab.runs.jobs import Reporter, one_writer, stop_on_signals
stop_on_signals()
folder, gold = Path(sys.argv[1]), np.arange(200) % 2
with one_writer(folder), Reporter(folder, total=600) as report:
    for i in range(600):
        method, k, seed = ("structured", "sequential")[i % 2], (0, 4, 16, 64)[i // 2 % 4], i // 8
        report.doing(f"scoring {method}, k = {k}, seed {seed}")
        rng = np.random.default_rng(i)
        scores = rng.normal(size=(200, 2)).astype(np.float32)
        scores[np.arange(200), gold] += 0.1 + 0.2 * np.log2(k + 1) / (1 + i % 2)
        cell = Cell(method, k, seed, scores, scores[:0], gold, np.arange(200), Cost(0.0, 0.0, 0, 0, 0))
        CellStore(folder / CELLS).write(f"cell{i}", cell, {})
        report.finished_one(f"{method} k={k} seed={seed}")
        if i == 5:
            report.log("warning: sequential, k = 1024 does not fit into 2,048 positions")
        time.sleep(0.3)
''')
child = subprocess.Popen([sys.executable, "worker.py", "runs/sweep-1"])
"""
WATCH = """
from pathlib import Path
from widgets import SweepMonitor
w = SweepMonitor("sweep-1", every=0.3)
def keep(_):
    Path("sweep.txt").write_text(w.status.get("state", ""))
w.observe(keep, names="status")
w
"""


def test_a_sweep_is_watched_again_from_another_notebook_and_cancelled(open_notebook):
    first = open_notebook("sweep_first", START + WATCH).page
    first.wait_for_function("() => document.querySelectorAll('.ll-sweep circle').length >= 8")
    first.close()
    opened = open_notebook("sweep_second", WATCH)
    page = opened.page
    page.wait_for_selector(".ll-sweep circle")
    before = int(page.locator(".ll-count").inner_text().split()[0])
    assert before >= 8
    opened.both_themes("sweep_monitor")
    page.wait_for_function(f"() => parseInt(document.querySelector('.ll-count').textContent) > {before}")
    assert "does not fit" in page.locator(".ll-errors").inner_text()
    page.locator(".ll-cancel").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.ll-cancel')?.textContent === 'Really cancel?'")
    page.keyboard.press("Enter")
    opened.kernel_wrote("sweep.txt", "stopped")
    page.wait_for_function("() => document.querySelector('.ll-state').textContent === 'stopped'")
