"""The stages: each learns, each continues exactly, each waits for what it needs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lmops_lab.emojiworld import aesthetic, autoencoder, contrastive, diffusion, recogniser
from lmops_lab.emojiworld.evaluate import accuracy, draw_prompts, measure, psnr, save_curves, sheet
from lmops_lab.emojiworld.recipe import SMOKE, STAGES, with_steps
from lmops_lab.emojiworld.recogniser import Reading, recognise
from lmops_lab.emojiworld.subjects import SUBJECTS
from lmops_lab.emojiworld.tokens import encode, train_tokenizer
from lmops_lab.emojiworld.train import UnfinishedError, Workshop, train_world


@pytest.mark.parametrize("stage", ["recogniser", "autoencoder", "contrastive", "diffusion"])
def test_every_stage_lowers_its_loss_within_seconds(workshop, stage):
    losses = workshop.status()[stage].losses
    half = len(losses) // 2
    assert np.mean(losses[half:]) < np.mean(losses[:half])


def test_stages_continue_exactly(workshop, tmp_path):
    parts = Workshop(tmp_path, workshop.recipe, progress=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(3):
        parts.train("autoencoder", minutes=1e-9)
    assert parts.status()["autoencoder"].step == 3
    done = parts.train("autoencoder")
    torch.set_num_threads(before)
    assert done.losses == workshop.status()["autoencoder"].losses
    whole, pieces = workshop.autoencoder().state_dict(), parts.autoencoder().state_dict()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_a_stage_waits_for_its_foundations(tmp_path):
    empty = Workshop(tmp_path, SMOKE, progress=False)
    with pytest.raises(UnfinishedError, match="diffusion needs stage autoencoder, which is at step 0 of 16"):
        empty.train("diffusion")
    assert train_world(empty, ["aesthetic"])["aesthetic"].step == 0
    with pytest.raises(ValueError, match="no stage 'paint'.*autoencoder"):
        train_world(empty, ["paint"])


def test_a_stage_trained_on_other_foundations_is_not_used(copied):
    longer = Workshop(
        copied.folder, replace(copied.recipe, autoencoder=with_steps(SMOKE, 1.1).autoencoder), progress=False
    )
    longer.train("autoencoder")
    with pytest.raises(ValueError, match=r"diffusion\.pt was trained with settings or on models"):
        longer.train("diffusion")


def test_normalised_latents_have_unit_spread_and_change_no_picture(workshop):
    plain = autoencoder.build_autoencoder(workshop.recipe).eval()
    images = workshop.scenes.images[:16]
    before = autoencoder.restore(plain, images).astype(int)
    autoencoder.normalise_latents(plain, workshop.scenes)
    latents = autoencoder.encode_all(plain, workshop.scenes.images, progress=False).astype(float)
    assert np.abs(latents.mean((0, 2, 3))).max() < 0.02
    assert np.abs(latents.std((0, 2, 3)) - 1).max() < 0.02
    assert np.abs(autoencoder.restore(plain, images) - before).max() <= 1
    assert latents.shape == (96, workshop.recipe.latent_channels, 16, 16)


def test_the_picture_distance_sees_blur_that_pixels_forgive():
    sharp = torch.zeros(1, 3, 16, 16)
    sharp[..., ::2] = 1.0
    flat = torch.full_like(sharp, 0.5)
    assert autoencoder.picture_distance(sharp, sharp) == 0
    assert autoencoder.picture_distance(sharp, flat) > 1.3 * (sharp - flat).abs().mean()


def test_equal_captions_are_equally_right(workshop):
    clip = workshop.clip()
    one = replace(workshop.scenes, images=workshop.scenes.images[:1].repeat(8, 0))
    tokens = encode(workshop.tokenizer, ["a cat in space"] * 8).reshape(8, 1, 77)
    captions = contrastive.Captions(tokens, tokens, workshop.tokenizer.eos_token_id)
    loss = contrastive.contrastive_loss(clip, one, captions, 8, torch.Generator().manual_seed(0))
    # Eight equal pairs: every answer is right, so nothing is left to learn beyond choosing evenly among eight.
    assert float(loss) == pytest.approx(np.log(8), abs=1e-4)


def test_half_of_the_captions_lose_their_added_words(workshop):
    scenes = workshop.scenes
    bare = contrastive.bare_captions(scenes)
    for kind, wordings, texts in zip(scenes.kinds, scenes.captions, bare, strict=True):
        assert kind == "dragged" or not any("," in text for text in texts)
        assert kind != "dragged" or texts == list(wordings)
    with_words, without = np.full((96, 1, 77), 3, np.uint16), np.full((96, 1, 77), 4, np.uint16)
    with_words[..., 9:] = without[..., 9:] = workshop.tokenizer.eos_token_id
    captions = contrastive.Captions(with_words, without, workshop.tokenizer.eos_token_id)
    drawn = [contrastive.draw_captions(captions, 50, torch.Generator().manual_seed(step))[1] for step in range(20)]
    assert torch.stack([(ids[:, 0] == 4).float().mean() for ids in drawn]).mean() == pytest.approx(0.5, abs=0.05)
    assert {ids.shape for ids in drawn} == {(50, 10)}  # padding is cut after the first end token


def test_cosines_have_the_size_of_the_published_models(workshop):
    clip = contrastive.build_clip(workshop.recipe, workshop.tokenizer)
    assert float(clip.logit_scale.exp()) == pytest.approx(100)
    assert not clip.logit_scale.requires_grad


def test_times_are_drawn_around_the_noise_that_hides_shapes():
    alphas = diffusion.build_scheduler().alphas_cumprod
    shares = diffusion.time_shares(alphas)
    log_snr = torch.log(alphas / (1 - alphas))
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
    mean = float((shares * log_snr).sum())
    assert mean == pytest.approx(-0.5, abs=0.1)
    assert float((shares * (log_snr - mean) ** 2).sum() ** 0.5) == pytest.approx(2, abs=0.1)


def test_praised_scenes_are_drawn_three_times_as_often(workshop):
    shares = diffusion.scene_shares(workshop.scenes)
    assert len(shares) == len(workshop.scenes)
    of = {kind: {round(float(s), 6) for s, k in zip(shares, workshop.scenes.kinds, strict=True) if k == kind}
          for kind in set(workshop.scenes.kinds)}  # fmt: skip
    (praised,), (plain,) = of["praised"], of["plain"]
    assert praised == pytest.approx(3 * plain, rel=1e-3)


def test_padding_is_cut_without_changing_the_features(workshop):
    clip = workshop.clip()
    ids = torch.from_numpy(encode(workshop.tokenizer, ["a cat", "an owl at sunset, masterpiece"]).astype(np.int64))
    end = contrastive.longest(ids, workshop.tokenizer.eos_token_id)
    assert end < 20
    whole = clip.get_text_features(input_ids=ids).pooler_output
    cut = clip.get_text_features(input_ids=ids[:, :end]).pooler_output
    assert torch.allclose(whole, cut, atol=1e-5)


def test_pixels_are_prepared_as_the_stock_processor_does(workshop):
    from PIL import Image

    images = workshop.scenes.images[:3]
    stock = contrastive.image_processor()([Image.fromarray(i) for i in images], return_tensors="pt").pixel_values
    assert torch.allclose(contrastive.clip_pixels(images), stock, atol=1e-5)


def test_ranking_counts_own_captions_that_come_first():
    features = normalize(torch.eye(30), dim=-1)
    assert contrastive.ranking_accuracy(features, features) == 1.0
    assert contrastive.ranking_accuracy(features, features.roll(1, 0)) < 0.5
    with pytest.raises(ValueError, match="19 scenes are too few to choose among 20"):
        contrastive.ranking_accuracy(features[:19], features[:19])


def test_the_head_has_the_layout_of_the_real_file(real_data):
    (path,) = (real_data / "laion_aesthetic").glob("*.pth")
    real = torch.load(path, weights_only=True, map_location="cpu")
    head = aesthetic.AestheticHead(768).eval()
    head.load_state_dict(real)
    features = normalize(torch.randn(4, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    by_hand = features
    for layer in (0, 2, 4, 6, 7):
        by_hand = by_hand @ real[f"layers.{layer}.weight"].T + real[f"layers.{layer}.bias"]
    assert torch.allclose(head(features), by_hand.squeeze(-1), atol=1e-5)


def test_ratings_follow_the_latent_quality():
    qualities = np.linspace(0, 1, 500, dtype=np.float32)
    ratings = aesthetic.simulated_ratings(qualities, 0)
    assert np.corrcoef(ratings, qualities)[0, 1] > 0.95
    assert ratings.min() >= 1
    assert ratings.max() <= 10
    assert np.array_equal(ratings, aesthetic.simulated_ratings(qualities, 0))


def test_the_ratings_teach_head_and_image_encoder_and_leave_the_text_side(workshop):
    clip, head = workshop.clip(), aesthetic.build_head(workshop.recipe.width, 0)
    vision = aesthetic.RatedVision(clip, head).requires_grad_(True)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    scenes = workshop.scenes
    captions = contrastive.Captions(workshop.tokens, workshop.tokens, workshop.tokenizer.eos_token_id)
    brightness = torch.from_numpy(scenes.images.mean((1, 2, 3)))  # what a model as small as this one can see
    ratings = (5.5 + 2 * (brightness - brightness.mean()) / brightness.std()).float()
    optimiser = torch.optim.AdamW(vision.parameters(), lr=3e-3)
    for step in range(80):
        optimiser.zero_grad()
        generator = torch.Generator().manual_seed(step)
        aesthetic.aesthetic_loss(clip, head, scenes, captions, ratings, 48, generator).backward()
        optimiser.step()
    changed = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in changed)
    with torch.no_grad():
        scores = head(contrastive.image_features(clip, scenes.images))
    assert np.corrcoef(scores.numpy(), ratings.numpy())[0, 1] > 0.8


def test_the_aesthetic_loss_is_matching_and_a_tenth_of_the_squared_error(workshop):
    clip, head = workshop.clip(), aesthetic.build_head(workshop.recipe.width, 0)
    captions = contrastive.Captions(workshop.tokens, workshop.tokens, workshop.tokenizer.eos_token_id)
    ratings = torch.linspace(1, 10, len(workshop.scenes))

    def draw():
        return torch.Generator().manual_seed(7)

    whole = aesthetic.aesthetic_loss(clip, head, workshop.scenes, captions, ratings, 24, draw())
    rows, ids = contrastive.draw_captions(captions, 24, draw())
    seen = contrastive.image_features(clip, workshop.scenes.images[rows])
    matched = contrastive.contrastive_loss(clip, workshop.scenes, captions, 24, draw())
    off = (head(seen) - ratings[rows]).square().mean()
    assert whole.item() == pytest.approx((matched + 0.1 * off).item(), abs=1e-4)
    assert ids.shape[0] == 24


def test_a_perfect_model_of_the_velocity_has_no_loss(workshop):
    latents, alphas = workshop.latents, diffusion.build_scheduler().alphas_cumprod
    tokens, nothing = workshop.tokens, encode(workshop.tokenizer, [""])[0]
    shares = diffusion.scene_shares(workshop.scenes)
    seen = []

    class Oracle:
        """Knows the clean latents of its batch, and so the velocity."""

        def __call__(self, noisy, times, ids):
            generator = torch.Generator().manual_seed(4)
            rows = torch.multinomial(shares, 8, replacement=True, generator=generator).numpy()
            clean = torch.from_numpy(latents[rows].astype(np.float32))
            share = alphas[times].view(-1, 1, 1, 1)
            noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
            seen.append(ids)
            return share.sqrt() * noise - (1 - share).sqrt() * clean

    generator = torch.Generator().manual_seed(4)
    assert float(diffusion.diffusion_loss(Oracle(), latents, tokens, nothing, alphas, shares, 8, generator)) < 1e-5
    assert seen[0].shape == (8, 77)


def test_one_caption_in_ten_is_dropped(workshop):
    nothing, empty = encode(workshop.tokenizer, [""])[0], []

    def model(noisy, times, ids):
        empty.append((ids == torch.from_numpy(nothing.astype(np.int64))).all(-1).float().mean())
        return noisy

    alphas = diffusion.build_scheduler().alphas_cumprod
    for step in range(40):
        generator, shares = torch.Generator().manual_seed(step), diffusion.scene_shares(workshop.scenes)
        diffusion.diffusion_loss(model, workshop.latents, workshop.tokens, nothing, alphas, shares, 50, generator)
    assert np.mean(empty) == pytest.approx(0.1, abs=0.02)


def test_the_text_encoder_begins_with_what_clip_knows(workshop):
    clip = workshop.clip()
    model = diffusion.TextToLatents(workshop.recipe, clip)
    ids = torch.from_numpy(encode(workshop.tokenizer, ["a fox at dusk"]).astype(np.int64))
    assert torch.allclose(model.text(input_ids=ids).pooler_output, clip.text_model(input_ids=ids).pooler_output)


def test_the_tokenizer_reads_everything_and_pads_like_clip():
    tokenizer = train_tokenizer(700)
    assert len(tokenizer) <= 700
    assert tokenizer.model_max_length == 77
    rows = encode(tokenizer, ["", "ein Bär 🐻 в лесу", "cat " * 500])
    assert rows.shape == (3, 77)
    assert list(rows[0, :3]) == [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.eos_token_id]
    assert rows[2, -1] == tokenizer.eos_token_id
    text = tokenizer.decode(rows[1], skip_special_tokens=True)
    assert text.strip().replace(" ", "") == "einbär🐻влесу"
    with pytest.raises(ValueError, match="vocabulary of 400 does not hold the 514"):
        train_tokenizer(400)


def test_readings_are_names_and_any_picture_size_is_read(workshop):
    from PIL import Image

    model = workshop.recogniser()
    images = workshop.scenes.images[:3]
    readings = recognise(model, images)
    assert [r.subject in SUBJECTS for r in readings] == [True] * 3
    large = [Image.fromarray(image).resize((128, 128), Image.Resampling.NEAREST) for image in images]
    assert len(recognise(model, large)) == 3
    assert recognise(model, []) == []
    with pytest.raises(ValueError, match=r"\(3, 32, 32, 3\)"):
        recognise(model, images[:, ::2, ::2])
    with pytest.raises(FileNotFoundError, match="no recogniser in"):
        recogniser.load_recogniser(workshop.folder)


def test_accuracy_is_the_share_read_right():
    readings = [Reading("cat", "space", 1.0, 1.0), Reading("dog", "snow", 1.0, 1.0)]
    assert accuracy(readings, [("cat", "snow"), ("dog", "snow")]) == (1.0, 0.5)
    with pytest.raises(ValueError, match="2 readings do not go with 1 true"):
        accuracy(readings, [("cat", "snow")])


def test_prompts_of_one_seed_are_pairs():
    plain, truth = draw_prompts(70, 3)
    praised, same = draw_prompts(70, 3, praise=4)
    assert truth == same
    assert all(
        long.startswith(short + ", ") and long.count(",") == 4 for short, long in zip(plain, praised, strict=True)
    )
    assert {subject for subject, _ in truth[:60]} == set(SUBJECTS)
    with pytest.raises(ValueError, match="99 words"):
        draw_prompts(1, 0, praise=99)


def test_figures_and_curves_of_a_finished_training(workshop, tmp_path):
    figures = measure(workshop)
    assert set(figures) >= {"recogniser_subject", "autoencoder_psnr", "clip_top1_of_20", "aesthetic_correlation"}
    assert 0 <= figures["clip_top1_of_20"] <= 1
    save_curves(workshop, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    assert len(STAGES) == 5


def test_sheets_and_noise_ratios():
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    picture = sheet(images, columns=2, zoom=1)
    assert picture.size == (8, 8)
    assert np.array_equal(np.asarray(picture)[:4, 4:], images[1])
    assert psnr(images, images) == np.inf
    assert psnr(np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)) == 0
