"""The aesthetic head: LAION's architecture, LAION's file, one affine map of the unit embedding."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lmops_lab.rewards import aesthetic, embedded
from lmops_lab.rewards.aesthetic import HEAD_FILE, Aesthetic, AestheticHead
from tests.rewards.test_interface import counted


@pytest.fixture
def laion_file(real_data):
    """LAION's own file."""
    file = real_data / "laion_aesthetic" / HEAD_FILE
    if not file.is_file():
        pytest.skip(f"{HEAD_FILE} is not in the folder of real data")
    return file


def _unit_vectors():
    """Three axes, the diagonal and eight fixed random directions: [12, 768], float64."""
    random = np.random.default_rng(20240607).standard_normal((8, 768))
    rows = np.vstack([np.eye(768)[[0, 1, 767]], np.ones((1, 768)), random])
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _matrix_product(state, vectors):
    """The head as plain linear algebra in float64."""
    for layer in ("0", "2", "4", "6", "7"):
        vectors = vectors @ state[f"layers.{layer}.weight"].double().T + state[f"layers.{layer}.bias"].double()
    return vectors[:, 0]


def test_laions_file_gives_the_plain_matrix_product_on_unit_vectors(laion_file):
    state = torch.load(laion_file, weights_only=True, map_location="cpu")
    vectors = _unit_vectors()
    expected = _matrix_product(state, vectors)
    ratings = AestheticHead.load(laion_file)(vectors.float()).double()
    torch.testing.assert_close(ratings, expected, atol=1e-4, rtol=1e-5)
    assert expected.std() > 0.1  # the vectors are told apart
    assert ((expected > 0) & (expected < 11)).all()


# The float64 matrix product of LAION's file with `_unit_vectors`.
PINNED = [
    *(4.545052, 4.679652, 5.451654, 4.883285, 4.774526, 5.271523),
    *(5.371950, 5.940457, 5.948439, 4.940271, 4.540252, 3.756146),
]


def test_laions_file_is_pinned(laion_file):
    ratings = AestheticHead.load(laion_file)(_unit_vectors().float())
    torch.testing.assert_close(ratings, torch.tensor(PINNED), atol=1e-4, rtol=0)


def test_embeddings_are_brought_to_unit_length_first(laion_file):
    head, vectors = AestheticHead.load(laion_file), _unit_vectors().float()
    torch.testing.assert_close(head(vectors * 13.7), head(vectors), atol=1e-4, rtol=1e-5)
    bias_only = head(torch.zeros(1, 768))
    assert torch.isfinite(bias_only).all()


def test_laions_file_rates_pictures_of_a_clip_of_its_width(laion_file, encoder, noise):
    rate = Aesthetic.load(encoder, laion_file)
    ratings = rate(noise)
    features = encoder.image_features(noise).double()
    state = torch.load(laion_file, weights_only=True, map_location="cpu")
    np.testing.assert_allclose(ratings, _matrix_product(state, features).numpy(), atol=1e-4)
    np.testing.assert_array_equal(rate(noise, ["a cat"] * 6), ratings)


def test_the_architecture_is_laions():
    layers = AestheticHead(768).layers
    assert [type(layer) for layer in layers] == [
        *(nn.Linear, nn.Dropout) * 3,
        nn.Linear,
        nn.Linear,
    ]
    assert [layers[i].p for i in (1, 3, 5)] == [0.2, 0.2, 0.1]
    assert [layers[i].out_features for i in (0, 2, 4, 6, 7)] == [1024, 128, 64, 16, 1]
    assert AestheticHead(768).dim == 768


@pytest.fixture
def small_head(tmp_path):
    """A random head for embeddings of 32, in both file formats."""
    torch.manual_seed(0)
    head = AestheticHead(32)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    torch.save(head.state_dict(), tmp_path / "head.pth")
    return head.eval(), tmp_path


def test_both_file_formats_and_any_width(small_head, generator):
    head, folder = small_head
    features = torch.randn(5, 32, generator=generator)
    expected = head(features)
    assert not torch.equal(expected, head.train()(features))  # dropout is there
    for name in ("head.pth", "head.safetensors"):
        loaded = AestheticHead.load(folder / name)
        assert loaded.dim == 32
        assert not loaded.training
        torch.testing.assert_close(loaded(features), expected)
    assert set(load_file(folder / "head.safetensors")) == {
        f"layers.{i}.{part}" for i in (0, 2, 4, 6, 7) for part in ("weight", "bias")
    }


def test_a_head_of_another_width_is_refused(small_head, encoder):
    with pytest.raises(ValueError, match="reads embeddings of 32, but .* makes 768"):
        Aesthetic.load(encoder, small_head[1] / "head.pth")


class _Evil:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def test_files_that_are_no_head(tmp_path, monkeypatch):
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    torch.save({"layers.0.weight": torch.ones(1024, 8)}, tmp_path / "part.pth")
    torch.save(_Evil(), tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("other.pth", "part.pth", "evil.pth", "text.pth", "text.safetensors"):
        with pytest.raises(ValueError, match=f"{name}' is no aesthetic head in LAION's format"):
            AestheticHead.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no aesthetic head at"):
        AestheticHead.load(tmp_path / "absent.pth")
    monkeypatch.setattr(aesthetic, "AESTHETIC", tmp_path / "aesthetic.safetensors")
    with pytest.raises(FileNotFoundError, match="train it with: lmops-lab train-emoji-world"):
        AestheticHead.load("emoji")
    assert embedded.AESTHETIC.parts[-3:] == ("weights", "pictures", "aesthetic.safetensors")


def test_ratings_are_cached_by_picture_and_head(encoder, noise, tmp_path):
    from lmops_lab.rewards.cache import RewardCache
    from lmops_lab.rewards.interface import score_images

    torch.manual_seed(1)
    rates = [Aesthetic(encoder, AestheticHead(768).eval().requires_grad_(False)) for _ in range(2)]
    assert rates[0].fingerprint != rates[1].fingerprint
    cache, seen = RewardCache(tmp_path / "scores.sqlite"), []
    first = score_images(counted(rates[0], seen), noise, ["a"] * 6, cache=cache)
    again = score_images(counted(rates[0], seen), noise, ["b"] * 6, cache=cache)  # prompts are not read
    np.testing.assert_array_equal(first, again)
    assert seen == [6]
    assert not np.allclose(score_images(rates[1], noise, ["a"] * 6, cache=cache), first)
