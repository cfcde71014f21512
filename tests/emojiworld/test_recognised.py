import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lmops_lab.emojiworld.captions import draw_content
from lmops_lab.emojiworld.recognised import Recognised, subject_named
from lmops_lab.emojiworld.recogniser import CONFIG, WEIGHTS, Recogniser
from lmops_lab.files import write_text


def always(subject):
    """A recogniser that answers one subject, whatever it is shown."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Recogniser(8)
    with torch.no_grad():
        model.subject_head.weight.zero_()
        model.subject_head.bias.zero_()
        model.subject_head.bias[list(model.subjects).index(subject)] = 9.0
    return model.eval().requires_grad_(False)


def test_it_is_one_where_the_subject_is_the_one_asked_for():
    pictures = [Image.new("RGB", (64, 64), "white")] * 3
    asked = ["a kitten in space, masterpiece", "a rabbit at dusk", "a cat"]
    assert Recognised(always("cat"))(pictures, asked).tolist() == [1.0, 0.0, 1.0]


def test_the_subject_is_found_in_every_caption_of_the_world():
    random = np.random.default_rng(3)
    for _ in range(300):
        content = draw_content(random)
        assert subject_named(content.captions[0]) == content.named[0], content.captions[0]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("an ice cream cone on the beach", "ice cream"),
        ("a birthday cake", "birthday cake"),
        ("A RABBIT chasing a cat", "rabbit"),
        ("two dogs", "dog"),
    ],
)
def test_the_first_and_longest_name_counts(prompt, subject):
    assert subject_named(prompt) == subject


def test_a_prompt_without_a_subject_is_refused():
    with pytest.raises(ValueError, match=r"'a trombone' names no subject .* it knows"):
        subject_named("a trombone")


def test_it_loads_from_a_folder_and_says_what_its_scores_depend_on(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recogniser"):
        Recognised.load(str(tmp_path))
    model = always("cat")
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    config = f'{{"width": 8, "subjects": {list(model.subjects)}, "settings": {list(model.settings)}}}'
    write_text(tmp_path / CONFIG, config.replace("'", '"'))
    loaded = Recognised.load(str(tmp_path))
    assert loaded([Image.new("RGB", (64, 64))], ["a cat"]).tolist() == [1.0]
    assert loaded.fingerprint == f"recognised 1 {loaded.revision}"
    assert len(loaded.revision) == 16
