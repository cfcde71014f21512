"""Pictures depend on prompt and seed alone, and everything that cannot be drawn is refused early."""

import shutil
import threading
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, StableDiffusionPipeline, UNet2DModel
from transformers import CLIPModel

from lmops_lab.generation import images, memory
from lmops_lab.generation.images import ImageGenerator, PromptCutWarning
from lmops_lab.generation.png import provenance
from lmops_lab.generation.sampling import GenerationCancelledError, run_pipeline
from lmops_lab.generation.schedulers import SHORT_NAMES, make_scheduler
from lmops_lab.generation.store import ImageStore
from lmops_lab.rewards import embedded
from lmops_lab.rewards.clip import ClipEncoder
from lmops_lab.rewards.relevance import Relevance
from tests.tiny_pictures import tiny_clip_folder, tiny_pipeline_folder

PROMPTS = ["a cat", "the dog in the grass, highly detailed"]


def _draw(generator, recipes):
    return run_pipeline(generator.pipeline, recipes)[0]


@pytest.mark.parametrize("scheduler", ["pndm", "dpm++", "euler-a", "ddpm", "lcm"])
def test_a_picture_is_the_same_whatever_its_batch(loaded, scheduler):
    recipes = [
        loaded.recipe(prompt, seed, steps=3, scheduler=scheduler, negative_prompt=negative)
        for prompt, seed, negative in (("a cat", 1, ""), ("a cat", 2, "blurry"), (PROMPTS[1], 1, ""))
    ]
    together = _draw(loaded, recipes)
    for at, recipe in enumerate(recipes):
        np.testing.assert_allclose(_draw(loaded, [recipe])[0], together[at], atol=1e-4)
    backwards = _draw(loaded, recipes[::-1])[::-1]
    np.testing.assert_allclose(backwards, together, atol=1e-4)
    spread = [np.abs(together[0] - other).max() for other in together[1:]]
    assert min(spread) > 0.01  # the equality above is not that of blank pictures


def test_the_step_noise_of_an_ancestral_scheduler_is_there_and_is_the_pictures_own(loaded):
    def run(generator_for):
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1, 1)
        from lmops_lab.generation.schedulers import make_scheduler

        loaded.pipeline.scheduler, own = make_scheduler(loaded.pipeline, "euler-a"), loaded.pipeline.scheduler
        made = loaded.pipeline(
            ["a cat", "a cat"],
            latents=latents,
            generator=[generator_for(0), generator_for(1)],
            num_inference_steps=4,
            output_type="np",
        )
        loaded.pipeline.scheduler = own
        return made.images

    first, second = run(lambda i: torch.Generator().manual_seed(i))
    assert np.abs(first - second).max() > 0.01  # same prompt, same first noise: only the steps' noise differs
    first, second = run(lambda _: torch.Generator().manual_seed(0))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_all_prompts_get_the_same_seeds_and_seed_means_torch_generator(loaded):
    grid = loaded.generate(PROMPTS, seeds=[5, 6], steps=2, progress=False)
    assert grid.seeds.tolist() == [[5, 6], [5, 6]]
    alone = StableDiffusionPipeline(**loaded.pipeline.components, requires_safety_checker=False)
    alone.set_progress_bar_config(disable=True)
    plain = alone(
        PROMPTS[0], num_inference_steps=2, generator=torch.Generator().manual_seed(6), output_type="np"
    ).images[0]
    ours = np.asarray(grid.picture(prompt=PROMPTS[0], seed=6).image) / 255
    assert np.abs(plain - ours).max() <= 0.5 / 255 + 1e-4  # the stock pipeline's picture, rounded to 8 bits


def test_every_scheduler_name_draws(loaded):
    drawn = [_draw(loaded, [loaded.recipe("a cat", 1, steps=3, scheduler=name)])[0] for name in SHORT_NAMES]
    assert all(np.isfinite(picture).all() for picture in drawn)
    assert loaded.recipe("a cat", 1, scheduler="euler-a").scheduler == "EulerAncestralDiscreteScheduler"
    assert loaded.recipe("a cat", 1, scheduler="DDIMScheduler") == loaded.recipe("a cat", 1, scheduler="ddim")
    assert loaded.recipe("a cat", 1).scheduler == "PNDMScheduler"


def test_a_grid_says_what_it_is(loaded):
    grid = loaded.generate("a cat", seeds=2, steps=1, progress=False)
    assert repr(grid) == "ImageGrid 1 prompt x 2 seed: 2 pictures, 0 from the store"
    text = repr(loaded)
    assert "StableDiffusionPipeline, 0." in text
    assert "64 x 64 pixels, safety checker none" in text
    assert "float32 on cpu (a small pipeline)" in text


def test_size_and_guidance_reach_the_pipeline(loaded):
    wide = loaded.generate("a cat", steps=1, size=(64, 32), progress=False).pictures[0]
    assert wide.image.size == (64, 32)
    weak, strong = loaded.recipe("a cat", 1, steps=3, guidance=1), loaded.recipe("a cat", 1, steps=3, guidance=9)
    assert np.abs(_draw(loaded, [weak]) - _draw(loaded, [strong])).max() > 0.01
    assert loaded.recipe("a cat", 1).guidance == 7.5  # the stock pipeline's default


def test_guidance_may_end_early(loaded):
    """Against a loop by hand: two steps are guided, the next two follow the prompt alone."""
    recipe = loaded.recipe("a cat", 1, steps=4, guidance=6, guidance_end=0.5, scheduler="ddim")
    pipeline, scheduler = loaded.pipeline, make_scheduler(loaded.pipeline, recipe.scheduler)
    scheduler.set_timesteps(4)
    texts = pipeline.encode_prompt(["a cat"], "cpu", 1, True, [""])
    shape = (1, pipeline.unet.config.in_channels, pipeline.unet.config.sample_size, pipeline.unet.config.sample_size)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    with torch.no_grad():
        for step, time in enumerate(scheduler.timesteps):
            asked, empty = (pipeline.unet(noisy, time, encoder_hidden_states=text).sample for text in texts)
            change = empty + 6 * (asked - empty) if step < 2 else asked
            noisy = scheduler.step(change, time, noisy).prev_sample
        decoded = pipeline.vae.decode(noisy / pipeline.vae.config.scaling_factor).sample
    by_hand = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(_draw(loaded, [recipe]), by_hand, atol=1e-4)
    whole = loaded.recipe("a cat", 1, steps=4, guidance=6, scheduler="ddim")
    assert np.abs(_draw(loaded, [whole]) - by_hand).max() > 1e-3
    assert recipe.guided_steps == 2
    assert recipe.key != whole.key
    nearly = loaded.recipe("a cat", 1, steps=4, guidance=6, guidance_end=0.9, scheduler="ddim")
    assert nearly.key == whole.key  # all four steps are guided either way
    assert loaded.recipe("a cat", 1, steps=4, guidance_end=0.01).guided_steps == 1


@pytest.mark.parametrize("share", [0, 1.2, -0.5, True, float("nan")])
def test_a_share_that_is_none(loaded, share):
    with pytest.raises(ValueError, match="guidance_end is .*give the share of the steps"):
        loaded.recipe("a cat", 1, guidance_end=share)


def test_a_pipeline_that_cannot_end_guidance_says_so(loaded, monkeypatch):
    monkeypatch.setattr(type(loaded.pipeline), "_callback_tensor_inputs", ["latents"])
    with pytest.raises(ValueError, match="guidance_end is 0.5, but StableDiffusionPipeline guides all its steps or"):
        loaded.recipe("a cat", 1, guidance_end=0.5)
    assert loaded.recipe("a cat", 1).guidance_end == 1


def test_a_folder_may_recommend_settings(pipeline_folder, tmp_path):
    folder = tmp_path / "recommending"
    shutil.copytree(pipeline_folder, folder)
    (folder / "generation.json").write_text('{"steps": 3, "guidance": 4.0, "guidance_end": 0.7, "scheduler": "ddim"}')
    recipe = ImageGenerator.load(str(folder), store=None).recipe("a cat", 1)
    assert (recipe.steps, recipe.guidance, recipe.scheduler) == (3, 4.0, "DDIMScheduler")
    assert (recipe.guidance_end, recipe.guided_steps) == (0.7, 2)
    for text, message in [
        ('{"eta": 3}', r"recommends \['eta'\]; it may name guidance, guidance_end, scheduler, steps"),
        ('["steps"]', r"recommends \['steps'\]; it may name"),
        ('{"steps": 0}', "steps is 0; give a whole number"),
        ('{"guidance": "4"}', "guidance is '4'; give a number"),
        ('{"guidance_end": 0}', "guidance_end is 0; give the share"),
        ('{"scheduler": 4}', "generation.json': .*scheduler"),
    ]:
        (folder / "generation.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ImageGenerator.load(str(folder), store=None)


@pytest.mark.parametrize("safety", ["fine", "bad"])
def test_the_safety_checker_stays_on_and_its_verdict_is_recorded(tmp_path, safety):
    folder = tiny_pipeline_folder(tmp_path, safety=safety)
    generator = ImageGenerator.load(str(folder), store=ImageStore(tmp_path / "store"))
    assert generator.has_safety_checker
    picture = generator.generate("a cat", steps=1, progress=False).pictures[0]
    assert picture.flagged is (safety == "bad")
    assert provenance(picture.path).flagged is (safety == "bad")
    assert bool(np.asarray(picture.image).max() == 0) is (safety == "bad")


def test_a_prompt_beyond_77_tokens_warns_and_says_where_it_is_cut(loaded):
    long = "the cat " * 60 + "wears a hat"
    with pytest.warns(PromptCutWarning, match=r"has \d+ tokens, but CLIPTokenizer reads 77 .*: cut from 'cat the"):
        loaded.generate(long, steps=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptCutWarning)
        loaded.generate("the cat " * 37, steps=1, progress=False)  # 74 tokens, start and end


def test_five_hundred_words_emoji_and_other_scripts_are_drawn(tiny_generator):
    prompts = ["the cat " * 250, "🦊 in the grass", "кот в космосе", "宇宙にいる猫", "قطة"]
    with pytest.warns(PromptCutWarning, match="reads 77"):
        grid = tiny_generator.generate(prompts, steps=1, progress=False)
    for prompt, picture in zip(prompts, grid.pictures, strict=True):
        assert provenance(picture.path).recipe.prompt == prompt
    with pytest.warns(PromptCutWarning, match="reads 77"):  # a picture from the store is no less cut
        again = tiny_generator.generate(prompts, steps=1, progress=False)
    assert all(picture.reused for picture in again.pictures)


def test_cancel_stops_and_keeps_finished_pictures(tiny_generator, monkeypatch):
    cancel, batches = threading.Event(), []

    def counted(*arguments):
        batches.append(len(arguments[1]))
        if len(batches) == 3:
            cancel.set()
        return run_pipeline(*arguments)

    monkeypatch.setattr(images, "run_pipeline", counted)
    with pytest.raises(GenerationCancelledError) as caught:
        tiny_generator.generate(PROMPTS, seeds=3, steps=1, batch_size=2, progress=False, cancel=cancel)
    assert "4 of 6 finished pictures are kept in" in caught.value.__notes__[0]
    monkeypatch.undo()
    grid = tiny_generator.generate(PROMPTS, seeds=3, steps=1, progress=False)
    assert [picture.reused for picture in grid.pictures] == [True] * 4 + [False] * 2


def test_ctrl_c_within_a_step_keeps_finished_pictures(tiny_generator, monkeypatch):
    calls = []
    forward = tiny_generator.pipeline.unet.forward

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # PNDM's first steps of the second batch
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(tiny_generator.pipeline.unet, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        tiny_generator.generate(PROMPTS, seeds=2, steps=2, batch_size=2, scheduler="ddim", progress=False)
    assert "2 of 4 finished pictures are kept" in caught.value.__notes__[0]
    monkeypatch.undo()
    grid = tiny_generator.generate(PROMPTS, seeds=2, steps=2, scheduler="ddim", progress=False)
    assert sum(picture.reused for picture in grid.pictures) == 2


def test_a_batch_that_does_not_fit_into_memory_is_halved(loaded, monkeypatch):
    sizes = []

    def tight(pipeline, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_pipeline(pipeline, batch, *rest)

    monkeypatch.setattr(images, "run_pipeline", tight)
    grid = loaded.generate(PROMPTS, seeds=3, steps=1, progress=False)
    assert sizes[0] > 2  # as many as the memory that is free is thought to hold
    assert sum(size for size in sizes if size <= 2) == 6
    assert len(grid.pictures) == 6
    assert max(sizes[-2:]) <= 2


def test_batches_follow_the_free_memory(loaded, monkeypatch):
    one = memory.bytes_per_picture(loaded.pipeline, 64, 64, 7.5)
    cpu = torch.device("cpu")
    for free, batch in ((one * 100, 16), (one * 10, 5), (one / 4, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda _device, free=free: int(free))
        assert memory.batch_that_fits(loaded.pipeline, cpu, 64, 64, 7.5) == batch
    assert memory.bytes_per_picture(loaded.pipeline, 512, 512, 7.5) == 64 * one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompts": ""}, "the prompt is '', an empty text"),
        ({"prompts": ["a cat", "  "]}, "prompt 1 is '  ', an empty text"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": "a \ud800 cat"}, "half of a surrogate pair"),
        ({"negative_prompt": "\udc00"}, "the negative prompt holds"),
        ({"seeds": [3, -1]}, "seed is -1; give a whole number from 0"),
        ({"seeds": 0}, "seeds is 0; give how many"),
        ({"seeds": []}, r"seeds are \[\]"),
        ({"seeds": [2, 2]}, r"seeds are \[2, 2\]; give at least one, each once"),
        ({"seeds": [2**63]}, "seed is 9223372036854775808"),
        ({"prompts": PROMPTS, "seeds": [[1, 2], [3]]}, r"unequal lengths, \[2, 1\]"),
        ({"prompts": PROMPTS, "seeds": [[1, 2]]}, "there are 1 lists of seeds for 2 prompts"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 to 1000"),
        ({"steps": 1001}, "steps is 1001; give a whole number from 1 to 1000"),
        ({"guidance": -1.0}, "guidance is -1.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"size": 60}, "60 is not a positive multiple of 8 pixels; the nearest are 56 and 64"),
        ({"size": (64, 0)}, r"size is \(64, 0\), but 0 is not a positive multiple of 8"),
        ({"scheduler": "eulr"}, "scheduler 'eulr' is unknown or does not fit .* choose one of ddim, ddpm"),
        ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "does not fit StableDiffusionPipeline with PNDMScheduler"),
        ({"scheduler": "DPMSolverSDEScheduler"}, "one noise for a whole batch"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_drawing(loaded, monkeypatch, call, message):
    monkeypatch.setattr(images, "run_pipeline", lambda *_: pytest.fail("something was drawn"))
    with pytest.raises(ValueError, match=message):
        loaded.generate(**{"prompts": "a cat", "progress": False, **call})


def test_own_seeds_of_every_prompt_are_a_draw_axis(loaded):
    grid = loaded.generate(PROMPTS, seeds=[[1, 2], [8, 9]], steps=1, progress=False)
    assert [axis.name for axis in grid.axes] == ["prompt", "draw"]
    assert grid.seeds.tolist() == [[1, 2], [8, 9]]


def test_the_embedded_pipeline_says_how_to_train_it_while_it_is_absent(monkeypatch, tmp_path):
    from lmops_lab.generation import sources

    monkeypatch.setattr(sources, "PIPELINE", tmp_path / "pipeline")
    with pytest.raises(FileNotFoundError, match="train it with: lmops-lab train-emoji-world"):
        ImageGenerator.load("emoji")
    assert embedded.PIPELINE.parts[-3:] == ("weights", "pictures", "pipeline")


def test_folders_that_are_no_pipeline(pipeline_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no pipeline: it has no model_index.json; give"):
        ImageGenerator.load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no model_index.json \(it holds a single model\)"):
        ImageGenerator.load(str(tiny_clip_folder(tmp_path, side=28)))
    with pytest.raises(FileNotFoundError, match="there is no pipeline at '.*/nowhere'"):
        ImageGenerator.load(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="is a file"):
        ImageGenerator.load(str(pipeline_folder / "model_index.json"))
    with pytest.raises(ValueError, match="the pipeline's name is empty"):
        ImageGenerator.load(" ")
    with pytest.raises(FileNotFoundError, match="pipeline 'nobody/nothing' cannot be loaded: check the name"):
        ImageGenerator.load("nobody/nothing")
    with pytest.raises(ValueError, match="store is 'here'"):
        ImageGenerator.load(str(pipeline_folder), store="here")


def test_damaged_pipelines(pipeline_folder, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(pipeline_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=r"part 'unet' .* has diffusion_pytorch_model.bin but no \*.safeten"):
        ImageGenerator.load(str(folder))
    weights.write_bytes(b"not safetensors")
    with pytest.raises(FileNotFoundError, match="cannot be loaded"):
        ImageGenerator.load(str(folder))
    shutil.rmtree(folder / "unet")
    with pytest.raises(FileNotFoundError, match="lacks its part 'unet'"):
        ImageGenerator.load(str(folder))
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="describes no pipeline"):
        ImageGenerator.load(str(folder))


def test_a_pipeline_that_does_not_read_text_is_refused(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, norm_num_groups=4, layers_per_block=1, **blocks)
    DDPMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(ValueError, match="does not draw pictures from text"):
        ImageGenerator.load(str(tmp_path / "ddpm"))


def test_the_revision_follows_the_weights_and_not_the_place(pipeline_folder, loaded, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(pipeline_folder, moved)
    (moved / "README.md").write_text("a note")
    same = ImageGenerator.load(str(moved), store=None)
    assert same.revision == loaded.revision
    assert same.recipe("a cat", 1).key == loaded.recipe("a cat", 1).key
    other = ImageGenerator.load(str(tiny_pipeline_folder(tmp_path, seed=1)), store=None)
    assert other.recipe("a cat", 1).key != loaded.recipe("a cat", 1).key


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Put folders into a Hub cache of this test's own, as a download leaves them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, folder, commit):
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / commit)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(commit)

    return put


def test_the_published_models_load_by_their_names_from_the_hubs_cache(hub_cache, tmp_path):
    hub_cache("CompVis/stable-diffusion-v1-4", tiny_pipeline_folder(tmp_path, safety="fine"), "a" * 40)
    hub_cache("openai/clip-vit-large-patch14", tiny_clip_folder(tmp_path), "b" * 40)
    generator = ImageGenerator.load("CompVis/stable-diffusion-v1-4", store=None)
    assert generator.has_safety_checker
    assert generator.revision == "a" * 40
    picture = generator.generate("a cat", steps=1, progress=False).pictures[0]
    assert (picture.recipe.pipeline, picture.recipe.revision) == ("CompVis/stable-diffusion-v1-4", "a" * 40)
    pinned = ImageGenerator.load(f"CompVis/stable-diffusion-v1-4@{'a' * 40}", store=None)
    assert pinned.revision == "a" * 40
    encoder = ClipEncoder.load("openai/clip-vit-large-patch14", device="cpu")
    assert encoder.fingerprint == f"openai/clip-vit-large-patch14@{'b' * 40}/float32"
    assert Relevance(encoder)([picture.image], ["a cat"]).shape == (1,)


def test_the_stock_classes_read_the_same_folders(pipeline_folder, tmp_path):
    assert isinstance(StableDiffusionPipeline.from_pretrained(pipeline_folder), StableDiffusionPipeline)
    assert CLIPModel.from_pretrained(tiny_clip_folder(tmp_path)).config.projection_dim == 768
