"""All writers share one helper: the source is searched for writes that go round it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Calls that create or change a file, by the last part of their name.
WRITES = {
    *("write_text", "write_bytes", "to_parquet", "to_csv", "to_json", "to_pickle", "to_excel"),
    *("save_file", "savefig", "save_pretrained", "touch", "copyfile", "copytree", "copy2", "symlink_to", "hardlink_to"),
}
# ... and these only where they belong to the named modules; `x.save(...)` elsewhere is a method of this package.
OF_MODULES = {
    "write_table": {"pq"},
    "save": {"np", "torch", "image", "sheet", "numpy"},
    "dump": {"json", "yaml", "pickle"},
    "savez": {"np"},
}

# (file, function) -> why it may write without the helper.
ALLOWED = {
    ("lmops_lab/digests.py", "seal_zip"): "fills the seal in of a file that its caller made with atomic_file",
    ("lmops_lab/runs/jobs.py", "log"): "a log is appended to, line by line",
    ("lmops_lab/runs/jobs.py", "start_job"): "the child's output goes to the log",
    ("lmops_lab/runs/notebook.py", "_logged"): "a log",
    ("lmops_lab/runs/notebook.py", "run_notebook"): "papermill writes the executed notebook after every cell; the run "
    "counts once its record is there, which holds the notebook's hash",
    ("widgets/vote_file.py", "append"): "votes are appended and flushed, each with a check of all lines before it",
    ("lmops_lab/runs/hygiene.py", "fresh_cache"): "a link in a folder that is thrown away",
    ("lmops_lab/runs/regression.py", "_fresh_cache"): "a link in a folder that is thrown away",
    ("lmops_lab/emojiworld/export.py", "*"): "writes into the folder that its caller made with atomic_folder",
    ("lmops_lab/emojiworld/tokens.py", "_from_files"): "a temporary folder",
}
# Names of variables that hold what atomic_file and atomic_folder gave, or a stream in memory.
_SAFE = {"temporary", "stream", "target"}


def _functions(tree):
    """Every call with the name of the function that it stands in, and that function's safe names."""

    def walk(node, name):
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef) else name
            if isinstance(child, ast.Call):
                yield child, inner
            yield from walk(child, inner)

    yield from walk(tree, "")


def _opens_to_write(call):
    given = (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode"))
    modes = [set(one.value) for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(mode <= set("rwaxbt+") and mode & set("wax+") for mode in modes)


def _names(node):
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


def writes(source: str) -> list[tuple[int, str, str]]:
    """(line, call, function) of every write that does not go to a path from the helper or to a stream."""
    found = []
    for call, function in _functions(ast.parse(source)):
        target = call.func
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        owner = getattr(target.value, "id", "") if isinstance(target, ast.Attribute) else ""
        plain = isinstance(target, ast.Name)  # write_text(path, ...) is the helper's; path.write_text(...) is not
        suspect = (
            (name == "open" and _opens_to_write(call))
            or (name in WRITES and not (plain and name == "write_text"))
            or (name in OF_MODULES and owner in OF_MODULES[name])
        )
        given = [target.value] if isinstance(target, ast.Attribute) else []
        where = [*given, *call.args, *(keyword.value for keyword in call.keywords)]
        to_string = name in ("to_csv", "to_json") and not call.args
        if suspect and not to_string and not any(_names(part) & _SAFE for part in where):
            found.append((call.lineno, name, function))
    return found


def _sources():
    return sorted(path for room in ("lmops_lab", "widgets") for path in (ROOT / room).rglob("*.py"))


def test_no_writer_goes_round_the_helper():
    stray = []
    for path in _sources():
        file = str(path.relative_to(ROOT))
        for line, call, function in writes(path.read_text(encoding="utf-8")):
            if (file, function) not in ALLOWED and (file, "*") not in ALLOWED:
                stray.append(f"{file}:{line} {call} in {function}")
    assert not stray, "write through lmops_lab.files.atomic_file or atomic_folder:\n" + "\n".join(stray)


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')",
        "path.open('w')",
        "open(path, 'ab')",
        "open(path, mode='x')",
        "frame.to_parquet(path)",
        "np.save(path, array)",
        "torch.save(state, path)",
        "json.dump(x, file)",
        "figure.savefig(path)",
        "save_file(tensors, path)",
        "model.save_pretrained(str(out))",
        "frame.to_csv(path, index=False)",
    ],
)
def test_the_search_finds_writers(line):
    assert writes(f"def f():\n    {line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "with atomic_file(path) as temporary: temporary.write_text('x')",
        "write_text(path, 'x')",
        "path.open('rb')",
        "open(path)",
        "frame.to_csv(index=False)",
        "np.save(temporary / 'a.npy', array)",
        "curve.save(folder)",
    ],
)
def test_the_search_lets_the_helper_pass(line):
    assert not writes(f"def f():\n    {line}\n")


def test_every_exception_is_still_needed():
    """An entry for code that no longer writes is taken out of the list."""
    found = {(str(p.relative_to(ROOT)), f) for p in _sources() for _, _, f in writes(p.read_text(encoding="utf-8"))}
    files = {file for file, _ in found}
    # What libraries write (a logging handler, papermill) does not show as a call.
    hidden = {("lmops_lab/runs/notebook.py", "_logged"), ("lmops_lab/runs/notebook.py", "run_notebook")}
    unused = [e for e in ALLOWED if e not in found and not (e[1] == "*" and e[0] in files) and e not in hidden]
    assert not unused
