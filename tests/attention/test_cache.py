import os

import pytest
import torch

from lmops_lab import encode_groups
from lmops_lab.attention import cache as cache_module
from lmops_lab.attention.cache import GroupCache

TEXTS = [f"the number {i} comes before the number {i + 1}\n" for i in range(12)]


def encode(lm, cache, **options):
    return encode_groups(lm, TEXTS, group_size=3, cache=cache, progress=False, **options)


@pytest.mark.parametrize("bos", ["none", "group", "shared"])
def test_a_second_encoding_reads_everything_and_is_identical(tiny, tmp_path, bos):
    first = encode(tiny, GroupCache(tmp_path), bos=bos)
    again = GroupCache(tmp_path)
    second = encode(tiny, again, bos=bos)
    assert (again.hits, again.misses) == (4, 0)
    for one, other in zip((*first.keys, *first.values), (*second.keys, *second.values), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_only_what_changed_is_encoded(tiny, tmp_path):
    encode(tiny, GroupCache(tmp_path), end=200)
    cache = GroupCache(tmp_path)
    encode_groups(tiny, [*TEXTS, "one more\n"], group_size=3, cache=cache, end=200, progress=False)
    assert (cache.hits, cache.misses) == (4, 1)
    moved = GroupCache(tmp_path)
    encode(tiny, moved, end=201)  # other positions, other keys
    assert moved.hits == 0


def test_another_version_of_a_library_encodes_again(tiny, tmp_path, monkeypatch):
    encode(tiny, GroupCache(tmp_path))
    for changed in ("lmops-lab", "torch", "transformers"):
        real = cache_module.version
        with monkeypatch.context() as patched:
            patched.setattr(cache_module, "version", lambda name, c=changed, r=real: "9.9" if name == c else r(name))
            cache_module.computing_versions.cache_clear()
            other = GroupCache(tmp_path)
            encode(tiny, other)
        cache_module.computing_versions.cache_clear()
        assert (other.hits, other.misses) == (0, 4), changed
    same = GroupCache(tmp_path)
    encode(tiny, same)
    assert same.misses == 0


def test_damaged_files_are_encoded_again(tiny, tmp_path):
    expected = encode(tiny, GroupCache(tmp_path))
    damaged = sorted(tmp_path.glob("*.safetensors"))
    damaged[0].write_bytes(b"")
    damaged[1].write_bytes(damaged[1].read_bytes()[: damaged[1].stat().st_size // 2])
    cache = GroupCache(tmp_path)
    context = encode(tiny, cache)
    assert (cache.hits, cache.misses) == (2, 2)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(context.keys, expected.keys, strict=True))
    healed = GroupCache(tmp_path)
    encode(tiny, healed)
    assert healed.misses == 0


def test_the_least_recently_used_groups_go_first(tiny, tmp_path):
    encode(tiny, GroupCache(tmp_path))
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda p: p.name)
    for age, path in enumerate(files):
        os.utime(path, (1000 + age, 1000 + age))
    size = files[0].stat().st_size
    GroupCache(tmp_path, limit=int(2.5 * size)).trim()
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(files[2:])


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tiny, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    context = encode(tiny, GroupCache(blocked / "groups"))
    assert context.groups == 4
