"""What was tried against the workbench, and how often nothing was lost: kills, damage, broken input, mutants, load.

    python benchmarks/trust.py --quick   # minutes
    python benchmarks/trust.py           # hours: every count as in the nightly tests

The last line is one JSON object. Run it in the root of the project with the test extra installed.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' package, which is not installed

PARTS = ("kills", "corruptions", "fuzz", "mutants", "load")
# Kills of each job, changed bytes of each stored file, inputs to the parsers, and the part of the sizes under load.
QUICK = {"kills": 3, "bytes": 40, "inputs": 4000, "part": 10}
FULL = {"kills": 40, "bytes": 2000, "inputs": 100_000, "part": 1}


def show(title: str, rows: Sequence[Sequence[str]], start: float) -> None:
    """Print a table, its first row a header."""
    print(f"\n{title} ({time.monotonic() - start:.0f} s)")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def kills(amount: dict[str, int], seed: int, *, quick: bool) -> dict[str, Any]:
    from tests.trust.faults import kill_all, table

    start = time.monotonic()
    rows = kill_all(amount["kills"], seed, slow=not quick)
    show("Jobs killed at random moments, restarted, compared with an undisturbed run", table(rows), start)
    return {"kills_survived": sum(r.survived for r in rows), "kills_tried": sum(r.tried for r in rows)}


def corruptions(amount: dict[str, int], seed: int, **_: Any) -> dict[str, Any]:
    from tests.trust.corruption import corrupt_all, table

    start = time.monotonic()
    rows = corrupt_all(amount["bytes"], seed)
    show("Stored files damaged: a byte changed, cut in half, emptied, all zeros", table(rows), start)
    print("harmless: the damaged file still says exactly what was written; neither detected nor tried counts it")
    return {
        "corruptions_detected": sum(r.detected for r in rows),
        "corruptions_tried": sum(r.tried for r in rows),
        "corruptions_harmless": sum(r.harmless for r in rows),
    }


def fuzz(amount: dict[str, int], seed: int, **_: Any) -> dict[str, Any]:
    start = time.monotonic()
    found = importlib.import_module("tests.trust.fuzzing").run(count=amount["inputs"], seed=seed)
    rows = [["inputs", "unexpected"], [f"{found.inputs:,}", str(len(found.unexpected))]]
    show("Broken input to every parser of outside files", rows, start)
    for what in found.unexpected[:10]:
        print(f"  {str(what)[:300]}")
    return {"fuzz_inputs": found.inputs, "unexpected": len(found.unexpected)}


def mutants(_: dict[str, int], __: int, *, quick: bool) -> dict[str, Any]:
    start = time.monotonic()
    module = importlib.import_module("tests.trust.mutants")
    found = module.run(progress=True, chosen=module.mutants()[::10] if quick else None)
    rows = [["bug made by hand", "killed"], *([one.name, "yes" if one.killed else "NO"] for one in found)]
    show("Bugs made by hand against the default tests", rows, start)
    return {"mutants_killed": sum(one.killed for one in found), "mutants": len(found)}


def load(amount: dict[str, int], _: int, **__: Any) -> dict[str, Any]:
    from tests.trust.load import LOADS, grow, table

    start = time.monotonic()
    rows = [grow(one, amount["part"]) for one in LOADS]
    show("Large amounts: time and memory at a quarter and in full", table(rows), start)
    return {"load_super_linear": [row.name for row in rows if not row.linear]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="minutes instead of hours; every tenth mutant")
    options.add_argument("--only", nargs="+", choices=PARTS, help="some of the parts")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    parts = chosen.only or PARTS
    figures: dict[str, Any] = {}
    for part in parts:
        figures |= globals()[part](QUICK if chosen.quick else FULL, chosen.seed, quick=chosen.quick)
    print()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
