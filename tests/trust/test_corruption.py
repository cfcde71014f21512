"""Damage to every kind of stored file is noticed; what hinders a writer costs neither the older file nor its place."""

import os
import shutil
import subprocess

import pytest

from lmops_lab.files import atomic_file, atomic_folder, sweep_leftovers, write_text
from tests.trust.corruption import check_after_failed_write, corrupt, no_large_files, two_writers, write_in_child
from tests.trust.faults import leftovers
from tests.trust.stored import KINDS, MISSING, Kind
from widgets.vote_file import VoteFile
from widgets.votes import Vote

# Not written by this package's own writers in one step: transformers' files, votes (appended; see below). Training
# needs autograd, whose threads do not survive a fork.
_OTHER = {"vote file", "emoji checkpoint", "trainer checkpoint"}
_OTHER |= {"curve's manifest", "picture grid's list", "executed notebook"}  # written by the same call as another kind
WRITERS = [kind for kind in KINDS if kind.name not in _OTHER]
# What a reader is allowed to see of a hindered write: the system's error, or nothing where a cache does without.
_CLEAR = (
    "",
    "OSError",
    "StoreFullError",
    "OperationalError",
    "NotADirectoryError",
    "FileExistsError",
    "PermissionError",
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_is_noticed(kind):
    found = corrupt(kind, changed_bytes=25, seed=1)
    assert not found.silent
    assert found.detected == found.tried > 0


@pytest.mark.nightly
@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_damage_is_noticed_whichever_byte_it_is(kind):
    found = corrupt(kind, changed_bytes=2000, seed=2)
    assert not found.silent


def _before(kind: Kind, folder):
    folder.mkdir(exist_ok=True)
    kind.write(folder)
    return kind.read(folder)


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_a_disk_without_room_costs_nothing_that_was_there(kind, tmp_path):
    """By a limit on the size of files, which any user can set."""
    expected = _before(kind, tmp_path / "there")
    error = write_in_child(kind, tmp_path / "there", no_large_files)
    assert error.partition(":")[0] in _CLEAR
    assert not check_after_failed_write(kind, tmp_path / "there", expected)
    kind.write(tmp_path / "there")  # with room again
    assert kind.read(tmp_path / "there") == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a file system; the limit on file sizes stands in (the test above)")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.decode().strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_a_full_file_system_costs_nothing_that_was_there(kind, small_disk):
    expected = _before(kind, small_disk / "there")

    def fill():
        with (small_disk / "filler").open("wb", buffering=0) as stream:
            try:
                while stream.write(b"x" * 512):
                    pass
            except OSError:
                return

    error = write_in_child(kind, small_disk / "there", fill)
    assert error.partition(":")[0] in _CLEAR
    assert not check_after_failed_write(kind, small_disk / "there", expected)
    (small_disk / "filler").unlink()
    kind.write(small_disk / "there")
    assert kind.read(small_disk / "there") == expected


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_a_place_that_cannot_be_written_is_an_error_of_the_system(kind, tmp_path):
    """A file where the folder should be: root, too, cannot write there."""
    (tmp_path / "blocked").write_text("in the way")
    error = write_in_child(kind, tmp_path / "blocked", lambda: None)
    assert error.partition(":")[0] in (*_CLEAR, "FileNotFoundError")
    if kind.name != "encoded group":  # a cache that cannot be written costs only the cache
        assert error
    assert [path.name for path in tmp_path.iterdir()] == ["blocked"]
    assert (tmp_path / "blocked").read_text() == "in the way"


def test_a_folder_without_permission_is_an_error_of_the_system(tmp_path):
    if not os.geteuid():
        pytest.skip("root may write everywhere; the file in the way stands in (the test above)")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.json", "{}")
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", WRITERS, ids=lambda kind: kind.name)
def test_two_writers_at_once_leave_one_whole_file(kind, tmp_path):
    times = 1 if kind.name.startswith("curve") else 8  # a curve's figures take a second
    expected = _before(kind, tmp_path / "there")
    assert not two_writers(kind, tmp_path / "there", times)
    assert kind.read(tmp_path / "there") == expected != MISSING


def test_a_vote_that_finds_no_room_leaves_the_others(tmp_path):
    file = VoteFile(tmp_path / "votes.jsonl", "pairs")
    file.add(Vote(0, "left", 1.0))
    size = file.path.stat().st_size

    class Appending:
        def write(self, _):
            file.add(Vote(1, "right", 2.0))

    kind = Kind("vote", Appending().write, "", lambda _: None)
    assert write_in_child(kind, tmp_path, lambda: no_large_files(size)).startswith("OSError")
    assert file.read(9).votes == [Vote(0, "left", 1.0)]
    file.add(Vote(1, "right", 2.0))
    assert file.read(9) == ([Vote(0, "left", 1.0), Vote(1, "right", 2.0)], False, "")


def test_votes_of_the_format_before_are_still_read(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text(
        '{"format": "lmops-lab votes 1", "schedule": "pairs"}\n{"pair": 0, "choice": "left", "seconds": 1.5}\n'
    )
    file = VoteFile(path, "pairs")
    assert file.read(9) == ([Vote(0, "left", 1.5)], False, "")
    file.add(Vote(1, "tie"))
    assert file.read(9).votes == [Vote(0, "left", 1.5), Vote(1, "tie")]


def _dies(folder):
    with (
        atomic_file(folder / "a.txt") as temporary,
        atomic_file(folder / "d.txt", in_folder=True) as within,
        atomic_folder(folder / "b") as inner,
    ):
        temporary.write_text("half")
        (within.parent / ".tmp1").write_text("of a library that writes beside it first")
        (inner / "c.txt").write_text("half")
        os._exit(9)


def test_the_next_writer_removes_what_a_dead_one_left_and_nothing_of_a_living_one(tmp_path):
    child = os.fork()
    if not child:
        _dies(tmp_path)
    os.waitpid(child, 0)
    assert len(leftovers(tmp_path)) == 4
    with atomic_file(tmp_path / "c.txt") as mine:  # the next writer
        assert leftovers(tmp_path) == [mine]
        assert sweep_leftovers(tmp_path) == 0  # a living one's stays
        mine.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["c.txt"]


def test_a_long_name_has_a_temporary_one(tmp_path):
    path = tmp_path / ("ä" * 120 + ".json")  # 245 bytes
    write_text(path, "{}")
    assert path.read_text() == "{}"


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a", replace=True) as temporary:
            (temporary / f"{content}.txt").write_text(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new.txt"]
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a", replace=True):
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new.txt"]
