"""Files appear whole or not at all: at no moment does a reader see half of one."""

import pytest

from lmops_lab.files import atomic_file, atomic_folder, write_text


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # the same disk, so that taking the place is one step
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")  # a lone surrogate fails after the file was opened
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "weights").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(path) as temporary:
        (temporary / "weights").write_text("whole")
    with atomic_folder(path) as temporary:  # somebody was faster: the first one stays
        (temporary / "weights").write_text("another")
    assert (path / "weights").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
