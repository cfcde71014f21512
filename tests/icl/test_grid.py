"""Grids: what they take, and what they say of everything else."""

import pytest

from lmops_lab.icl.grid import Grid


def test_single_values_stand_for_lists_and_the_rest_has_defaults():
    grid = Grid.of({"k": 8, "task": "questions", "own_weight": [1, "2groups"], "balanced": False})
    assert (grid.k, grid.task, grid.own_weight, grid.balanced) == ((8,), ("questions",), (1, "2groups"), (False,))
    assert grid.method == ("structured", "sequential")
    assert Grid.of(grid.to_dict()) == grid


def test_a_shuffles_seed_matters_to_shuffles_alone():
    grid = Grid.of({"k": 8, "order": ["drawn", "shuffled"], "order_seed": [1, 2], "corruption": [0, 0.5]})
    assert len(grid.draws()) == 2 * (1 + 2)


def test_settings_of_a_choice_matter_to_that_choice_alone():
    grid = Grid.of({"k": 8, "selection": ["none", "bm25", "mixed"], "tail": [2, 4], "candidates": [64, 128]})
    assert len(grid.selections()) == 1 + 2 + 2 * 2
    assert Grid.of(grid.to_dict()) == grid


def test_without_in_domain_texts_there_is_no_calibration_by_them():
    grid = Grid.of({"k": 8, "domain": 0})
    assert "domain" not in grid.calibration
    assert {"raw", "contextual", "batch", "pmi"} < set(grid.calibration)
    assert Grid.of(grid.to_dict()) == grid


def test_calibrations_multiply_the_table_alone():
    grid = Grid.of({"k": [0, 8], "seed": [1, 2], "calibration": ["raw", "batch"]})
    assert grid.combinations == 2 * 2 * 2 * 2
    assert "calibration" not in {name for name in grid.to_dict() if name in ("queries", "dtype", "device")}


def test_a_grid_from_a_file(tmp_path):
    (tmp_path / "grid.yaml").write_text("k: [0, 8]\ntask:\n- {name: some.csv, template: '{text}:'}\nseed: 4\n")
    grid = Grid.load(tmp_path / "grid.yaml")
    assert grid.task == ({"name": "some.csv", "template": "{text}:"},)
    assert grid.seed == (4,)
    (tmp_path / "grid.json").write_text('{"k": [0]}')
    assert Grid.load(tmp_path / "grid.json").k == (0,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": [0], "seeed": 1}, "no setting 'seeed'; did you mean 'seed'"),
        ({"k": [0], "own_wieght": 1}, "did you mean 'own_weight'"),
        ({"k": [0], "methods": ["structured"]}, "did you mean 'method'"),
        ({"k": [0], "method": "structred"}, "method 'structred' is unknown; did you mean 'structured'"),
        ({"k": [0], "calibration": ["batsch"]}, "did you mean 'batch'"),
        ({"k": [0], "bos": "grup"}, "did you mean 'group'"),
        ({"seed": 1}, "k is missing"),
        ({"k": []}, "k has no values"),
        ({"k": ["8"]}, "k has '8', a str; it takes int"),
        ({"k": [True]}, "k has True, a bool"),
        ({"k": [0], "balanced": 1}, "balanced has 1, a int; it takes bool"),
        ({"k": [0], "order": "sort"}, "order 'sort' is unknown; did you mean 'sorted'"),
        ({"k": [0], "corruption": 25}, r"corruption is 25; .*0.25 is 25 %"),
        ({"k": [8, 8]}, "k has a value twice"),
        ({"k": [-1]}, r"k is \[-1\]; it starts at 0"),
        ({"k": [0], "group_size": 0}, "group_size is"),
        ({"k": [0], "own_weight": "grups"}, "own_weight is 'grups'"),
        ({"k": [0], "own_weight": 0}, "own_weight is 0"),
        ({"k": [0], "queries": 0}, "queries is 0"),
        ({"k": [0], "dtype": 32}, "dtype is 32"),
        ({"k": [0], "selection": "bm52"}, "selection 'bm52' is unknown; did you mean 'bm25'"),
        ({"k": [0], "similarity": "embeding"}, "did you mean 'embedding'"),
        ({"k": [0], "candidates": 0}, r"candidates is \[0\]; it starts at 1"),
        ({"k": [0], "tail": 0}, r"tail is \[0\]; it starts at 1"),
        ({"k": [0], "domain": -1}, "domain is -1; give a whole number from 0"),
        ({"k": [0], "domain": 0, "calibration": ["raw", "domain"]}, "domain is 0, but calibration 'domain' needs"),
        ({"k": [0], "task": {"template": "{text}"}}, "has no name"),
        ({"k": [0], "task": {"name": "a", "templat": "{text}"}}, "did you mean 'template'"),
    ],
)
def test_bad_grids(values, message):
    with pytest.raises(ValueError, match=message):
        Grid.of(values)


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n- 2\n", "holds a list"), ("k: [", "is not YAML"), ("\xff", "is not UTF-8 text")]
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "grid.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        Grid.load(tmp_path / "grid.yaml")
    with pytest.raises(FileNotFoundError, match="there is no grid"):
        Grid.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["{0}", "?", "{k: [0], 1: 2}"])
def test_settings_are_named_by_words(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match="has a setting named"):
        Grid.load(tmp_path / "grid.yaml")
