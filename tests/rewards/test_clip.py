"""CLIP features are those of plain transformers, and relevance is their cosine."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel

from lmops_lab.rewards import clip, embedded
from lmops_lab.rewards.clip import ClipEncoder, TextCutWarning, projected
from lmops_lab.rewards.preference import Preference
from lmops_lab.rewards.relevance import Relevance
from tests.tiny import tiny_tokenizer_folder

TEXTS = ["a cat", "the dog in the grass", "a rocket in space", "кот", "🦊", "a cat"]


@pytest.fixture(scope="module")
def forward(clip_folder, noise):
    """CLIPModel's own forward pass: logits per image [images, texts], logit scale included."""
    model = CLIPModel.from_pretrained(clip_folder)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(TEXTS, padding=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(clip_folder, backend="pil")(images=noise, return_tensors="pt")
    with torch.inference_mode():
        answer = model(**tokens, **pixels)
    return answer, model.logit_scale.exp().item()


def test_features_are_those_of_the_models_own_forward_pass(encoder, noise, forward):
    answer, _ = forward
    torch.testing.assert_close(encoder.image_features(noise), answer.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.text_features(TEXTS), answer.text_embeds, atol=1e-5, rtol=1e-4)
    assert encoder.image_features(noise).shape == (6, 768)
    assert encoder.dim == 768


def test_relevance_is_the_cosine_without_logit_scale_and_never_negative(encoder, noise, forward):
    answer, scale = forward
    cosines = (answer.logits_per_image / scale).diagonal().double().numpy()
    relevance = Relevance(encoder)
    np.testing.assert_allclose(relevance.cosines(noise, TEXTS), cosines, atol=1e-5)
    np.testing.assert_allclose(relevance(noise, TEXTS), np.maximum(0, cosines), atol=1e-5)
    assert (cosines < 0).any()
    assert (cosines > 0).any()


def test_preference_is_pickscores_formula(encoder, noise, forward):
    answer, _ = forward
    logits = answer.logits_per_image.double().numpy()
    preference = Preference(encoder)
    np.testing.assert_allclose(preference(noise, TEXTS), logits.diagonal(), rtol=1e-4, atol=1e-4)
    chances = preference.probabilities(noise, TEXTS[0])
    np.testing.assert_allclose(chances, torch.tensor(logits[:, 0]).softmax(0).numpy(), rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="no pictures to choose among"):
        preference.probabilities([], "a cat")


def test_preference_loads_a_model_and_its_processor_from_two_places(clip_folder, noise, tmp_path, encoder):
    alone = tmp_path / "alone"
    CLIPModel.from_pretrained(clip_folder).save_pretrained(alone)
    loaded = Preference.load(str(alone), processor=str(clip_folder), device="cpu")
    np.testing.assert_allclose(loaded(noise, TEXTS), Preference(encoder)(noise, TEXTS), rtol=1e-5, atol=1e-5)
    with pytest.raises(FileNotFoundError, match="tokenizer and preprocessor_config.json"):
        Preference.load(str(alone), processor=None)


def test_both_kinds_of_answers_of_transformers_are_read():
    features = torch.ones(2, 3)
    assert projected(features) is features

    class Answer:
        pooler_output = features

    assert projected(Answer()) is features


def test_features_do_not_depend_on_the_batch_and_are_remembered(clip_folder, noise, encoder, monkeypatch):
    small = ClipEncoder.load(str(clip_folder), device="cpu", batch_size=2)
    torch.testing.assert_close(small.image_features(noise), encoder.image_features(noise), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(small.text_features(TEXTS), encoder.text_features(TEXTS), atol=1e-5, rtol=1e-4)
    first = small.image_features(noise[:2])
    monkeypatch.setattr(small.model, "get_image_features", lambda **_: pytest.fail("encoded again"))
    torch.testing.assert_close(small.image_features([noise[1].copy(), noise[0].copy()]), first.flip(0))


def test_what_is_remembered_is_bounded(clip_folder, noise, monkeypatch):
    monkeypatch.setattr(clip, "_REMEMBERED", 3)
    small = ClipEncoder.load(str(clip_folder), device="cpu")
    assert small.image_features(noise).shape == (6, 768)
    assert len(small._known) == 3


def test_a_long_text_warns_and_is_scored_by_its_beginning(encoder):
    with pytest.warns(TextCutWarning, match=r"has 202 tokens, but CLIP reads 77"):
        long = encoder.text_features(["the cat " * 100])
    with pytest.warns(TextCutWarning):
        same = encoder.text_features(["the cat " * 99])
    torch.testing.assert_close(long, same)


def test_an_empty_text_is_refused(encoder):
    with pytest.raises(ValueError, match="text 1 is ' ', an empty text"):
        encoder.text_features(["a cat", " "])


def test_fingerprints_tell_models_apart(encoder, tmp_path):
    from tests.tiny_pictures import tiny_clip_folder

    other = ClipEncoder.load(str(tiny_clip_folder(tmp_path, side=28, seed=1)), device="cpu")
    assert other.fingerprint.rpartition("@")[2] != encoder.fingerprint.rpartition("@")[2]
    assert Relevance(encoder).fingerprint != Preference(encoder).fingerprint


def test_what_is_no_clip(tmp_path, monkeypatch, clip_folder):
    with pytest.raises(ValueError, match="is a model of type 'llama', not a CLIPModel"):
        ClipEncoder.load(str(tiny_tokenizer_folder(tmp_path, "llama")))
    with pytest.raises(FileNotFoundError, match="there is no CLIP model at"):
        ClipEncoder.load(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="there is no CLIP model at 'nobody/nothing'"):
        ClipEncoder.load("nobody/nothing")
    with pytest.raises(ValueError, match="name is empty"):
        ClipEncoder.load("")
    with pytest.raises(ValueError, match="batch_size is 0"):
        ClipEncoder.load(str(clip_folder), batch_size=0)
    monkeypatch.setattr(clip, "CLIP", tmp_path / "clip")
    with pytest.raises(FileNotFoundError, match="train it with: lmops-lab train-emoji-world"):
        ClipEncoder.load("emoji")
    assert embedded.CLIP.parts[-3:] == ("weights", "pictures", "clip")


def test_the_tiny_model_has_clip_ls_window_pictures_and_projection(clip_folder):
    config = CLIPConfig.from_pretrained(clip_folder)
    assert (config.projection_dim, config.text_config.max_position_embeddings) == (768, 77)
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 14)
