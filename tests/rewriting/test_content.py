import pytest

from lmops_lab.rewriting.content import is_modifier, phrases, split_prompt, subject_of

CASES = [
    (
        "A rabbit is wearing a space suit, digital Art, Greg rutkowski, Trending cinematographic artstation",
        "A rabbit is wearing a space suit",
        3,
    ),
    ("a castle by greg rutkowski, 8 k", "a castle", 2),
    ("a house by the lake, oil on canvas", "a house by the lake", 1),
    ("a cat sitting by water", "a cat sitting by water", 0),
    ("portrait of a woman with red hair, in a garden, by artgerm and mucha, sharp focus", None, 2),
    (
        "masterpiece, best quality, 1girl, sitting on a bench, (smile:1.2), <lora:foo:0.8>",
        "1girl, sitting on a bench",
        3,
    ),
    ("a girl holding a lens", "a girl holding a lens", 0),
    ("a city with many details, highly detailed", "a city with many details", 1),
    ("the dark forest, with fog, cinematic lighting; vivid colors", "the dark forest, with fog", 2),
    ("an astronaut riding a horse in the style of Van Gogh, --ar 16:9 --v 5", "an astronaut riding a horse", 1),
    ("cyberpunk city street at night | neon | rain | 4k", "cyberpunk city street at night", 3),
    ("a photo of a dog", "a photo of a dog", 0),
    ("🐰 in space, 8k", "🐰 in space", 1),
    ("a knight painting by van gogh", "a knight", 1),
    ("highly detailed, a fox, holding a lantern", "a fox, holding a lantern", 1),
    ("a dog on the beach. Sharp focus. unreal engine 5", "a dog on the beach", 2),
]


@pytest.mark.parametrize(("prompt", "content", "modifiers"), CASES)
def test_main_content_is_separated_from_modifiers(prompt, content, modifiers):
    parts = split_prompt(prompt)
    assert parts.content == (content or "portrait of a woman with red hair, in a garden")
    assert len(parts.modifiers) == modifiers


def test_every_word_of_the_emoji_world_is_told_apart():
    captions = pytest.importorskip("lmops_lab.emojiworld.captions")
    settings = pytest.importorskip("lmops_lab.emojiworld.settings")
    words = [*captions.PRAISE, *captions.DAMNATION, *captions.USELESS, *captions.DRAGGING]
    assert [word for word in words if not is_modifier(word)] == []
    for setting in settings.SETTINGS.values():
        for phrase in setting.phrases:
            content = f"a rabbit {phrase}"
            assert split_prompt(f"{content}, {', '.join(words)}").content == content


@pytest.mark.parametrize("prompt", ["", " , ,, ", "8k, highly detailed", "trending on artstation"])
def test_prompts_that_show_nothing(prompt):
    with pytest.raises(ValueError, match="names nothing to show"):
        split_prompt(prompt)


def test_weights_may_be_nested_and_parameters_vanish():
    assert phrases("((a [red:1.2] fox)), 8k --seed 3") == ["a red fox", "8k"]


def test_subjects_are_compared_without_their_medium():
    assert subject_of("A photo of a Cat") == subject_of("a cat")
    assert subject_of("a cat") != subject_of("a dog")
