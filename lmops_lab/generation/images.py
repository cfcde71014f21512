"""Text-to-image pipelines by name, and pictures that depend on their prompt and seed alone.

Every picture has its own torch.Generator, seeded on the CPU: its first noise and the noise of stochastic schedulers are
the same in any batch and on any device. All prompts get the same seeds (common random numbers), so that differences
between prompts are paired.
"""

import inspect
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from lmops_lab import machine
from lmops_lab.generation import memory, recipe, sources
from lmops_lab.generation.pictures import Axis, ImageGrid, Picture
from lmops_lab.generation.recipe import Number, Recipe
from lmops_lab.generation.sampling import GenerationCancelledError, can_end_guidance, load_pipeline, run_pipeline
from lmops_lab.generation.schedulers import scheduler_class
from lmops_lab.generation.seeds import Seeds, seed_axis
from lmops_lab.generation.store import ImageStore
from lmops_lab.generation.tokens import prompt_warnings

_SMALL = 400 * 2**20  # bytes of weights up to which float32 costs nothing that anyone would notice
_DEFAULT_STEPS, _DEFAULT_GUIDANCE = 20, 7.5


class PromptCutWarning(UserWarning):
    """A pipeline does not read all of a prompt."""


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """A diffusers text-to-image pipeline with its origin, and the store of what it has drawn.

    Attributes:
        name: the name it was loaded by.
        pipeline: the diffusers pipeline.
        revision: commit of a Hub pipeline, content hash of a local one.
        number_format: dtype and the reason for it.
        store: where finished pictures are kept and found again; None keeps nothing.
        recommended: settings that the pipeline's folder names ("steps", "guidance", "guidance_end", "scheduler").
    """

    name: str
    pipeline: Any = field(repr=False)
    revision: str
    number_format: machine.NumberFormat
    store: ImageStore | None
    recommended: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        name: str = sources.EMBEDDED,
        *,
        dtype: str = "auto",
        device: str = "auto",
        store: ImageStore | str | None = "default",
    ) -> "ImageGenerator":
        """Load a text-to-image pipeline.

        Args:
            name: "emoji" (embedded, no network), a Hub id ("CompVis/stable-diffusion-v1-4", optionally "id@revision")
                or a local folder that save_pretrained wrote. Only safetensors are read, and no code of a repository.
            dtype: "auto" (float32 for small pipelines, which makes pictures independent of their batch to rounding;
                otherwise what the machine is fast at) or "float32", "bfloat16", "float16".
            device: "auto", "cpu", "cuda", ...
            store: "default" (the user's cache folder), an `ImageStore`, or None.

        Raises:
            FileNotFoundError: no such pipeline, or a folder that is none.
            ValueError: an unknown dtype, device or store, or a pipeline that does not draw from text.
        """
        if isinstance(store, str):
            if store != "default":
                raise ValueError(f"store is {store!r}; give 'default', ImageStore(folder) or None")
            store = ImageStore()
        where = machine.choose_device(device)
        source = sources.locate_pipeline(name)
        if dtype == "auto" and source.weight_bytes is not None and source.weight_bytes <= _SMALL:
            number_format = machine.NumberFormat(torch.float32, "a small pipeline")
        else:
            number_format = machine.choose_dtype(dtype, where)
        machine.keep_freed_memory()
        pipeline = load_pipeline(name, source, number_format.dtype).to(where)
        pipeline.set_progress_bar_config(disable=True)
        return cls(name, pipeline, source.revision, number_format, store, source.recommended)

    @property
    def has_safety_checker(self) -> bool:
        """Whether the pipeline judges its own pictures (it is left on, and flagged pictures are black)."""
        return getattr(self.pipeline, "safety_checker", None) is not None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height that the pipeline was trained for, in pixels."""
        part = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        sample: Any = getattr(getattr(part, "config", None), "sample_size", None)
        if sample is None:
            sample = getattr(self.pipeline, "default_sample_size", 64)
        height, width = (sample, sample) if isinstance(sample, int) else sample
        scale = int(getattr(self.pipeline, "vae_scale_factor", 1))
        return int(width) * scale, int(height) * scale

    def __repr__(self) -> str:
        dtype = str(self.number_format.dtype).removeprefix("torch.")
        parts = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        return (
            f"ImageGenerator {self.name!r}, revision {self.revision}\n"
            f"  {type(self.pipeline).__name__}, {count / 1e6:.1f} M parameters, {self.size[0]} x {self.size[1]} "
            f"pixels, safety checker {'on' if self.has_safety_checker else 'none'}\n"
            f"  {dtype} on {self.pipeline.device} ({self.number_format.reason})"
        )

    def generate(
        self,
        prompts: str | Sequence[str],
        seeds: Seeds = 1,
        steps: int | None = None,
        guidance: Number | None = None,
        negative_prompt: str = "",
        scheduler: str | None = None,
        size: int | tuple[int, int] | None = None,
        *,
        guidance_end: Number | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        cancel: threading.Event | None = None,
    ) -> ImageGrid:
        """Draw every prompt with every seed.

        Each picture is stored when its batch is done: stop with Ctrl-C, call again, and only what is missing is drawn.

        Args:
            seeds: how many (1, 2, ...), or the seeds themselves, the same for all prompts; or one list per prompt.
            steps: denoising steps; default what the pipeline recommends, else 20.
            guidance: scale of classifier-free guidance; default what the pipeline recommends.
            guidance_end: share of the steps, from the first, that are guided; the others take one pass instead of two.
                Default what the pipeline recommends, else all. Late steps hardly need guidance (Kynkäänniemi et al.
                2024, arXiv 2404.07724).
            negative_prompt: what the pictures are steered away from.
            scheduler: a name of `lmops_lab.generation.schedulers`; default the pipeline's own.
            size: pixels, one number or (width, height); default what the pipeline was trained for.
            batch_size: pictures computed at once; default what fits into half of the free memory, at most 16.
            cancel: set it from another thread to stop after the current step.

        Returns:
            A grid over prompt and seed (or draw, where every prompt has its own seeds).

        Raises:
            ValueError: anything that cannot be drawn, before any slow work; the message names the value.
            GenerationCancelledError: `cancel` was set. Finished pictures are kept.
            StoreFullError: the disk is full. Finished pictures are kept.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise ValueError("prompts is empty; give at least one text")
        for number, text in enumerate(texts):
            recipe.check_prompt(text, f"prompt {number}" if len(texts) > 1 else "the prompt")
        axis, rows = seed_axis(seeds, len(texts))
        wanted = [
            self.recipe(
                text,
                seed,
                steps=steps,
                guidance=guidance,
                guidance_end=guidance_end,
                negative_prompt=negative_prompt,
                scheduler=scheduler,
                size=size,
            )
            for text, row in zip(texts, rows, strict=True)
            for seed in row
        ]
        pictures: list[Picture | None] = [None] * len(wanted)
        for place, picture in self.stream(wanted, batch_size=batch_size, progress=progress, cancel=cancel):
            pictures[place] = picture
        return ImageGrid(
            (Axis("prompt", tuple(texts)), axis), tuple(picture for picture in pictures if picture is not None)
        )

    def recipe(
        self,
        prompt: str,
        seed: int,
        *,
        steps: int | None = None,
        guidance: Number | None = None,
        guidance_end: Number | None = None,
        negative_prompt: str = "",
        scheduler: str | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> Recipe:
        """The recipe of one picture, checked; arguments as for `generate`.

        Raises:
            ValueError: a value that cannot be drawn.
        """
        recipe.check_prompt(prompt, "the prompt")
        recipe.check_text(negative_prompt, "the negative prompt")
        accepted = inspect.signature(self.pipeline.__call__).parameters
        if negative_prompt and "negative_prompt" not in accepted:
            raise ValueError(
                f"{type(self.pipeline).__name__} takes no negative prompt, but it is {negative_prompt!r}; leave it out"
            )
        end = recipe.check_guidance_end(
            self.recommended.get("guidance_end", 1.0) if guidance_end is None else guidance_end
        )
        if end < 1 and not can_end_guidance(self.pipeline):
            raise ValueError(
                f"guidance_end is {end}, but {type(self.pipeline).__name__} guides all its steps or none; leave it out"
            )
        own = accepted["guidance_scale"].default if "guidance_scale" in accepted else None
        own = own if isinstance(own, int | float) else _DEFAULT_GUIDANCE
        chosen = scheduler_class(self.pipeline, scheduler or self.recommended.get("scheduler")).__name__
        trained = int(self.pipeline.scheduler.config.get("num_train_timesteps", 1000))
        multiple = max(8, int(getattr(self.pipeline, "vae_scale_factor", 8)))
        width, height = recipe.check_size(self.size if size is None else size, multiple)
        return Recipe(
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=recipe.check_seed(seed),
            pipeline=self.name,
            revision=self.revision,
            scheduler=chosen,
            steps=recipe.check_steps(
                self.recommended.get("steps", _DEFAULT_STEPS) if steps is None else steps, trained
            ),
            guidance=recipe.check_guidance(self.recommended.get("guidance", own) if guidance is None else guidance),
            width=width,
            height=height,
            dtype=str(self.number_format.dtype).removeprefix("torch."),
            versions=recipe.library_versions(),
            guidance_end=end,
        )

    def stream(
        self,
        recipes: Sequence[Recipe],
        *,
        batch_size: int | None = None,
        progress: bool = True,
        cancel: threading.Event | None = None,
    ) -> Iterator[tuple[int, Picture]]:
        """Yield (place in `recipes`, picture) as soon as each exists: stored ones first, then batch by batch.

        Equal recipes are drawn once.

        Raises:
            ValueError, GenerationCancelledError, StoreFullError: see `generate`.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a batch holds at least 1 picture")
        places: dict[str, list[int]] = {}
        for place, one in enumerate(recipes):
            places.setdefault(one.key, []).append(place)
        missing: list[Recipe] = []
        distinct = [recipes[at[0]] for at in places.values()]
        self._warn(distinct)
        for one, found in zip(distinct, self._stored(distinct), strict=True):
            if found is None:
                missing.append(one)
            else:
                yield from ((place, found) for place in places[one.key])
        if not missing:
            return
        if self.store:
            self.store.prepare()
        done = len(places) - len(missing)
        with tqdm(
            total=len(places), initial=done, desc=Path(self.name).name, unit="picture", disable=not progress
        ) as bar:
            try:
                for picture in self._drawn(missing, batch_size, set(places), cancel, bar):
                    done += 1
                    bar.update()
                    yield from ((place, picture) for place in places[picture.recipe.key])
            except (KeyboardInterrupt, GenerationCancelledError) as stop:
                where = f"kept in {self.store.folder}; call again to continue" if self.store else "not stored"
                stop.add_note(f"{done} of {len(places)} finished pictures are {where}")
                raise

    def _stored(self, recipes: Sequence[Recipe]) -> list[Picture | None]:
        """What the store has of every recipe; PNGs are decoded side by side."""
        if self.store is None:
            return [None] * len(recipes)
        with ThreadPoolExecutor(max_workers=4) as threads:
            return list(threads.map(self.store.read, recipes))

    def _warn(self, recipes: Sequence[Recipe]) -> None:
        """Say what the text encoders will not read, once a text."""
        texts = dict.fromkeys(text for one in recipes for text in (one.prompt, one.negative_prompt) if text)
        for text in texts:
            for message in prompt_warnings(self.pipeline, text):
                warnings.warn(message, PromptCutWarning, stacklevel=4)

    def _drawn(
        self,
        recipes: Sequence[Recipe],
        batch_size: int | None,
        wanted: set[str],
        cancel: threading.Event | None,
        bar: "tqdm[Any]",
    ) -> Iterator[Picture]:
        """Draw and store all, batch by batch; a batch that does not fit into memory is halved."""
        kinds: dict[tuple[Any, ...], list[Recipe]] = {}
        for one in recipes:
            kinds.setdefault(
                (one.scheduler, one.steps, one.guidance, one.guided_steps, one.width, one.height), []
            ).append(one)
        for (_, _, guidance, _, width, height), alike in kinds.items():
            fits = memory.batch_that_fits(self.pipeline, self.pipeline.device, width, height, guidance)
            size, at = batch_size or fits, 0
            while at < len(alike):
                batch = alike[at : at + size]
                try:
                    pixels, flags = run_pipeline(self.pipeline, batch, cancel, bar)
                except (RuntimeError, MemoryError) as error:
                    if not memory.is_out_of_memory(error):
                        raise
                    if len(batch) == 1:
                        raise MemoryError(
                            f"one picture of {width} x {height} pixels does not fit into memory; choose a smaller size"
                        ) from error
                    size = len(batch) // 2
                    continue
                at += len(batch)
                if self.store:
                    self.store.trim(wanted, room_for=pixels.size)
                for one, values, flag in zip(batch, pixels, flags, strict=True):
                    image = Image.fromarray(np.round(values * 255).astype(np.uint8))
                    yield self.store.write(one, image, flag) if self.store else Picture(one, image, flag)
