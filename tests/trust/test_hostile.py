"""Input that means harm: code in files, paths that climb, markup in names, lines that are forged."""

import ast
import html.parser
import json
import pickle
import re
from pathlib import Path

import nbformat
import papermill.translators
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lmops_lab import ImageGenerator, load_model, load_task, outside
from lmops_lab.cli import main
from lmops_lab.digests import write_record
from lmops_lab.generation.pictures import ImageGrid
from lmops_lab.icl.figure import figure_as_svg
from lmops_lab.icl.grid import Grid
from lmops_lab.icl.results import FORMAT, read_manifest
from lmops_lab.rewards.aesthetic import AestheticHead
from lmops_lab.rewriting.loading import load_causal
from lmops_lab.runs.grid import Job, Outcome
from lmops_lab.runs.jobs import LOG, STATUS, Reporter, read_status
from lmops_lab.runs.notebook import Run, export_html, find_notebook
from lmops_lab.runs.regression import Comparison, Expected, Metric, Regression
from lmops_lab.runs.report import write_report
from tests.icl.synthetic import synthetic_curve
from tests.tiny import tiny_config
from tests.widgets import fallbacks
from tests.widgets.samples import HOSTILE

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("lmops_lab", "widgets", "benchmarks", "docs") for p in (ROOT / folder).rglob("*.py"))

# --- files that run code ---


class Bomb:
    """Unpickled, it makes a file: proof that code ran."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path):
    """A path that exists only once a pickle's code has run."""
    path = tmp_path / "code-ran"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()  # the bomb works where it is let off
    path.unlink()
    return path


def bomb(path, proof, *, zipped):
    """A checkpoint that is a pickle, plain or in torch's zip."""
    if zipped:
        torch.save(Bomb(proof), path)
    else:
        path.write_bytes(pickle.dumps(Bomb(proof)))
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
@pytest.mark.parametrize("load", [load_model, load_causal], ids=["load_model", "rewriter"])
def test_a_model_folder_with_a_pickle_is_refused(tmp_path, proof, load, name, zipped):
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_config("llama").save_pretrained(folder)
    bomb(folder / name, proof, zipped=zipped)
    with pytest.raises((FileNotFoundError, ValueError), match="safetensors"):
        load(str(folder))
    with pytest.raises((FileNotFoundError, ValueError)):
        load(str(folder / name))
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_other_pickles_are_refused(tmp_path, proof, zipped):
    for name in ("head.pth", "head.safetensors"):
        with pytest.raises(ValueError, match="is no aesthetic head"):
            AestheticHead.load(bomb(tmp_path / name, proof, zipped=zipped))
    pipeline = tmp_path / "pipeline"
    (pipeline / "unet").mkdir(parents=True)
    (pipeline / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"]}')
    bomb(pipeline / "unet" / "diffusion_pytorch_model.bin", proof, zipped=zipped)
    with pytest.raises(FileNotFoundError, match="can run code when loaded and are refused"):
        ImageGenerator.load(str(pipeline))
    for name in ("rows.pkl", "rows.pt"):
        with pytest.raises(ValueError, match="suffix"):
            load_task(str(bomb(tmp_path / name, proof, zipped=zipped)))
    assert not proof.exists()


def test_yaml_makes_no_objects(tmp_path, proof):
    text = f"k: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{proof}']]\n"
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match="could not determine a constructor"):
        Grid.load(tmp_path / "grid.yaml")
    assert issubclass(outside._Loader, yaml.SafeLoader | getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert not proof.exists()


# --- what the source never does ---


def calls():
    """(place, dotted name, call) of every call in the source."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), node


def keyword(call, name):
    return next((k.value for k in call.keywords if k.arg == name), None)


def test_the_scan_reads_the_source():
    found = {name for _, name, _ in calls()}
    assert len(SOURCES) > 80
    assert {"torch.load", "subprocess.run", "AutoTokenizer.from_pretrained"} <= found


def test_no_code_of_a_repository_is_ever_trusted():
    for where, name, call in calls():
        value = keyword(call, "trust_remote_code")
        assert value is None or (isinstance(value, ast.Constant) and value.value is False), where
        # Without the word, transformers would ask the user whether to run the code, in the middle of a notebook.
        if re.fullmatch(r"Auto(Config|Tokenizer|Model\w*|ImageProcessor|Processor)\.from_pretrained", name):
            assert value is not None, f"{where}: say trust_remote_code=False"
    for path in SOURCES:
        assert not re.search(r"[\"']trust_remote_code[\"']\s*:\s*True", path.read_text(encoding="utf-8")), path


def test_no_pickle_no_shell_no_evaluated_text():
    forbidden = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pd.read_pickle", "dill.load"}
    forbidden |= {"yaml.full_load", "yaml.unsafe_load", "subprocess.getoutput", "joblib.load", "shelve.open"}
    for where, name, call in calls():
        assert name not in forbidden, f"{where}: {name}"
        if name.startswith("subprocess."):
            assert keyword(call, "shell") is None, where
        if name == "torch.load":
            assert ast.unparse(keyword(call, "weights_only")) == "True", where
        if name == "np.load":
            assert keyword(call, "allow_pickle") is None, where
        if name in ("yaml.load", "yaml.load_all"):
            assert where.startswith("lmops_lab/outside.py"), where


# --- paths that climb ---


@pytest.mark.parametrize("name", ["../01", "../../etc/passwd", "/etc/passwd", "..", ".", "", "01/../../x", "*", "\x00"])
def test_a_notebook_s_name_finds_nothing_outside_its_folder(tmp_path, name):
    (tmp_path / "notebooks").mkdir()
    for at in (tmp_path / "notebooks" / "02_b.ipynb", tmp_path / "notebooks" / "03_c.ipynb", tmp_path / "01_a.ipynb"):
        nbformat.write(new_notebook(cells=[]), at)
    with pytest.raises((FileNotFoundError, ValueError)):
        find_notebook(name, tmp_path / "notebooks")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "....//etc", "~root/x.yaml", "a\x00b", "../x.jsonl"]
)
def test_a_task_s_name_reads_no_other_file(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        load_task(name)
    assert "root:" not in str(caught.value)  # nothing of a file that is no data is shown


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "pictures/../../x.png", "\ud800"])
def test_a_grid_of_pictures_reads_nothing_outside_its_folder(tmp_path, name):
    folder = tmp_path / "grid"
    write_record(folder / "grid.json", {"axes": [], "pictures": [name]})
    with pytest.raises(ValueError, match="which is outside that folder|lists no grid"):
        ImageGrid.load(folder)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "a/b", "a\\b", ""])
def test_a_sweep_reads_no_cell_outside_its_folder(tmp_path, name):
    about = {"format": FORMAT, "versions": [], "cell_format": "", "grid": {}, "labels": {}}
    write_record(tmp_path / "sweep.json", {**about, "cells": {"a1": {}}})
    assert read_manifest(tmp_path)["cells"] == {"a1": {}}
    write_record(tmp_path / "sweep.json", {**about, "cells": {name: {}}})
    with pytest.raises(ValueError, match="which is no cell's name"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["../x=1", "a.b=1", "a b=1", "__import__('os')=1", "=1", "a;b=1", "a\n=1", "k[0]=1", "é-=1"]
)
def test_a_parameter_s_name_is_a_name(text, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    cell = new_code_cell("k = 1", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "notebooks" / "01_a.ipynb")
    assert main(["run", "01", "-p", text]) == 2
    assert "is not of the form NAME=VALUE" in capsys.readouterr().err
    assert main(["run", "01", "-p", "output=1"]) == 2
    assert "has no parameter 'output'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


VALUES = [
    '"; import os; os.system("x") #',
    "'''\nimport os\n'''",
    "\\",
    "\\'",
    "{k}",
    "\n",
    "\u2028import os",
    "\x00",
    *HOSTILE[:2],
]


def test_a_parameter_s_value_stays_a_value_in_the_notebook():
    given = {f"p{i}": value for i, value in enumerate(VALUES)}
    given |= {"nested": [{"a": VALUES}], "numbers": [float("nan"), float("inf"), -1, True, None]}
    code = papermill.translators.PythonTranslator.codify(given)
    for statement in ast.parse(code).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        names = {n.func.id for n in ast.walk(statement.value) if isinstance(n, ast.Call)}
        assert names <= {"float"}  # float('nan')
    for statement in ast.parse(code).body[: len(VALUES)]:
        assert ast.literal_eval(statement.value) == given[statement.targets[0].id]


# --- markup in names ---


class Page(html.parser.HTMLParser):
    """What a browser would run: scripts, handlers, addresses that are code; and the texts it would show."""

    def __init__(self):
        super().__init__()
        self.live = []
        self.tags = set()
        self.texts = []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("script", "iframe", "object", "embed", "base", "form") or (
            tag == "meta" and dict(attributes).get("http-equiv") == "refresh"
        ):
            self.live.append(tag)
        for name, value in attributes:
            if name.startswith("on") or re.match(r"\s*(javascript|vbscript|data:text)", value or "", re.IGNORECASE):
                self.live.append(f"{tag} {name}={value}")

    def handle_data(self, text):
        self.texts.append(text)


def read(page):
    parser = Page()
    parser.feed(page)
    parser.close()
    return parser


def test_the_reader_of_pages_finds_what_is_live():
    assert read("<b onclick=x>").live == ["b onclick=x"]
    assert read("<svg><script>1</script></svg><a href=' javascript:x'>").live == ["script", "a href= javascript:x"]


@pytest.mark.parametrize("name", fallbacks.WIDGETS)
def test_widgets_show_hostile_texts_as_texts(tmp_path, name):
    fallbacks.end_a_job(tmp_path)
    widget = fallbacks.WIDGETS[name](tmp_path)
    for page in (widget.fallback(), widget.to_html(tmp_path / "w.html").read_text(encoding="utf-8")):
        found = read(page)
        assert found.live == []
        assert any("<script>" in text for text in found.texts), "the hostile text is not even shown"


def test_a_regression_report_shows_hostile_texts_as_texts(tmp_path):
    evil = HOSTILE[0]
    (tmp_path / "base" / "01").mkdir(parents=True)
    for name in ("<img src=x onerror=alert(1)>.svg", "a.svg"):
        (tmp_path / "base" / "01" / name).write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{evil}</svg>")
    line = Comparison(evil, f"{evil}'\"", Expected(Metric(1.0)), Metric(2.0))
    at = Path("01.ipynb")
    job = Job(at, {}, tmp_path)
    done = Regression(at, Outcome(job, Run(tmp_path, at, at, 1.0)), (line,))
    failed = Regression(Path(f"{evil.replace('/', '')}.ipynb"), Outcome(job, None, evil, evil), ())
    found = read(write_report([done, failed], tmp_path / "r.html", tmp_path / "base").read_text(encoding="utf-8"))
    assert found.live == []
    assert any("<script>" in text for text in found.texts)


def test_figures_show_hostile_names_as_text():
    evil = "</text><script>alert(1)</script><text onload='x'>"
    curve = synthetic_curve(evil, labels=(evil, "b"), ks=(8,), seeds=2, queries=20)
    assert (
        read(figure_as_svg(curve.plot(title=evil) if "title" in curve.plot.__annotations__ else curve.plot())).live
        == []
    )


def test_a_notebook_s_page_runs_nothing_of_its_markdown_or_errors(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>[x](javascript:alert(1))"
    error = {"output_type": "error", "ename": evil, "evalue": evil, "traceback": [evil]}
    text = {"output_type": "stream", "name": "stdout", "text": evil}
    result = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/plain": evil}}
    cells = [new_code_cell(f"# {evil}", outputs=[nbformat.from_dict(o) for o in (error, text, result)])]
    plain = tmp_path / "plain.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("1")]), plain)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), *cells]), tmp_path / "evil.ipynb")
    before, after = (read(export_html(p).read_text(encoding="utf-8")) for p in (plain, tmp_path / "evil.ipynb"))
    assert after.live == before.live  # nothing beyond what the page's own template brings
    assert any("<script>" in shown for shown in after.texts)


# --- forged lines ---


def test_a_name_cannot_forge_a_line_of_the_log(tmp_path):
    evil = "task\n2026-01-01 00:00:00 finished: 9 of 9\r\x1b[2Jx\u2028y\x85z\x0bw"
    with Reporter(tmp_path, total=2) as report:
        report.finished_one(evil)
    lines = (tmp_path / LOG).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3  # start, done, finished
    assert r"\n2026-01-01 00:00:00 finished: 9 of 9\r\x1b[2Jx\u2028y\x85z\x0bw" in lines[1]


@pytest.mark.parametrize(
    "changed", [{"process": "../../x"}, {"state": None}, {"done": "1"}, {"seconds_left": []}, {"host": 1}]
)
def test_a_status_of_other_types_is_none(tmp_path, changed):
    with Reporter(tmp_path, total=1):
        pass
    about = json.loads((tmp_path / STATUS).read_text())
    about.pop("digest")
    assert read_status(tmp_path).state == "finished"
    write_record(tmp_path / STATUS, about | changed)
    assert read_status(tmp_path) is None
