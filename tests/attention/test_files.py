import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lmops_lab import encode_groups
from lmops_lab.attention import files
from lmops_lab.attention.files import load_context, save_context


@pytest.fixture
def context(tiny):
    return encode_groups(tiny, ["one\n", "two\n", "three\n"], group_size=2, bos="shared", progress=False)


def test_a_saved_context_scores_as_before(tiny, context, tmp_path):
    loaded = tiny.load_context(context.subset([1]).save(tmp_path / "c.safetensors"))
    scores = [tiny.score(["x"], ["a", "bc"], context=c) for c in (context.subset([1]), loaded)]
    assert torch.equal(*scores)
    assert repr(loaded) == repr(context.subset([1]))


def test_another_model_is_refused(context, tmp_path):
    path = save_context(context, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="was encoded by .*llama.* not by other@1/float32"):
        load_context(path, "other@1/float32")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_files_are_refused(tiny, context, tmp_path, keep):
    path = save_context(context, tmp_path / "c.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="no whole context file"):
        load_context(path, tiny.fingerprint)


def test_other_files_and_newer_formats_are_refused(tiny, context, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no whole context file"):
        load_context(tmp_path / "other.safetensors", tiny.fingerprint)
    with pytest.raises(FileNotFoundError, match="no saved context at"):
        load_context(tmp_path / "nowhere", tiny.fingerprint)
    path = save_context(context, tmp_path / "c.safetensors")
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()["lmops_lab"]) | {"format": 99}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"lmops_lab": json.dumps(about)})
    with pytest.raises(ValueError, match="format 99, this version reads up to 3; upgrade"):
        load_context(path, tiny.fingerprint)


def test_one_flipped_bit_is_noticed(tiny, context, tmp_path):
    path = save_context(context, tmp_path / "c.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="wrong hash"):
        load_context(path, tiny.fingerprint)


def test_an_older_format_is_refused_with_the_way_out(tiny, context, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FORMAT", 1)
    path = save_context(context, tmp_path / "c.safetensors")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="older format 1; encode the demonstrations again"):
        load_context(path, tiny.fingerprint)


def test_an_int8_context_survives_the_file(tiny, context, tmp_path):
    small = context.quantized()
    assert small.nbytes < 0.6 * context.nbytes
    read = load_context(save_context(small, tmp_path / "c.safetensors"), tiny.fingerprint)
    for layer in range(3):
        assert all(torch.equal(a, b) for a, b in zip(read.layer(layer), small.layer(layer), strict=True))
    assert read.example_tokens == context.example_tokens


def test_a_failed_save_keeps_the_old_file(tiny, context, tmp_path, monkeypatch):
    path = save_context(context, tmp_path / "c.safetensors")
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_context(context, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
