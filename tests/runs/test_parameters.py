import nbformat
import pytest

from lmops_lab.runs.parameters import Parameter, check_parameters, parse_value, read_parameters, with_lists


def notebook(tmp_path, *cells):
    node = nbformat.v4.new_notebook()
    for source in cells:
        node.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}))
    path = tmp_path / "n.ipynb"
    nbformat.write(node, path)
    return path


def test_parameters_are_read_without_running(tmp_path):
    path = notebook(tmp_path, 'k = [0, 4]  # a == b\nrate: float | None = None\nname = "x=1"')
    expected = {"k": Parameter([0, 4]), "rate": Parameter(None, ("float", "NoneType")), "name": Parameter("x=1")}
    assert read_parameters(path) == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "has 0 cells tagged 'parameters'"),
        (["a = 1", "b = 2"], "has 2 cells"),
        (["import os"], "line 1 of the parameters cell of n.ipynb is no plain assignment: 'import os'"),
        ([f"k: {'-' * 20_000}x"], "the parameters cell of n.ipynb is"),
        ([f"k = 1\nk: int | {'-' * 900}x"], "the parameters cell of n.ipynb is"),
        (["a = open('x')"], "parameter 'a' of n.ipynb is not a literal"),
    ],
)
def test_other_cells_are_refused(tmp_path, cells, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(notebook(tmp_path, *cells))


def test_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "n.ipynb").write_text("nonsense")
    with pytest.raises(ValueError, match="n.ipynb is not a notebook"):
        read_parameters(tmp_path / "n.ipynb")


def test_values():
    texts = ["[0, 16]", "3", "0.5", "None", "reviews", "/data/x.csv", "__import__('os')"]
    expected = [[0, 16], 3, 0.5, None, "reviews", "/data/x.csv", "__import__('os')"]
    assert [parse_value(text) for text in texts] == expected


KNOWN = {
    "k": Parameter([0]),
    "seed": Parameter(1),
    "rate": Parameter(0.5),
    "path": Parameter(None),
    "weight": Parameter("groups", ("float", "str")),
}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sead": 1}, "no parameter 'sead'; did you mean 'seed'"),
        ({"zzz": 1}, "no parameter 'zzz'; it has k, seed, rate, path, weight"),
        ({"k": 3}, r"k = 3 is a int; it takes list, as its default \[0\]"),
        ({"seed": "one"}, "seed = 'one' is a str; it takes int, as its default 1"),
        ({"seed": True}, "seed = True is a bool"),
        ({"weight": [1]}, r"weight = \[1\] is a list; it takes float or str"),
    ],
)
def test_wrong_parameters(given, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(KNOWN, given)


def test_right_parameters():
    check_parameters(KNOWN, {"k": [1], "rate": 1, "path": "x", "weight": 1})
    check_parameters(KNOWN, {"weight": "sqrt_groups", "k": (1, 2)})


def test_annotations_with_brackets_take_their_kind(tmp_path):
    source = "k: list[int] = [0]\nlimits: dict[str, int | None] | None = None\npair: tuple[int, int] = (1, 2)"
    known = read_parameters(notebook(tmp_path, source))
    assert known["k"].types == ("list[int]",)
    assert known["limits"].types == ("dict[str, int | None]", "NoneType")
    for given in ({"k": [1, 2]}, {"k": (1, 2)}, {"limits": {"a": 1}}, {"limits": None}, {"pair": [3, 4]}):
        check_parameters(known, given)
    with pytest.raises(ValueError, match=r"k = 3 is a int; it takes list\[int\]"):
        check_parameters(known, {"k": 3})
    with pytest.raises(ValueError, match="limits = 3 is a int; it takes dict"):
        check_parameters(known, {"limits": 3})


def test_tuples_become_lists_however_deep():
    assert with_lists({"k": parse_value("0,16,256")}) == {"k": [0, 16, 256]}
    assert with_lists({"a": [(1, (2,))], "b": {"c": ()}, "d": "0,1"}) == {"a": [[1, [2]]], "b": {"c": []}, "d": "0,1"}
