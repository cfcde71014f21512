import pytest

from lmops_lab.outside import YAML_BYTES, parse_json, read_text, read_yaml


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "settings.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_plain_values_with_and_without_a_byte_order_mark(write):
    assert read_yaml(write("\ufeffk: [0, 8]\nname: 'a'\n")) == {"k": [0, 8], "name": "a"}
    assert read_text(write("\ufeffabc")) == "abc"
    assert parse_json('{"a": [1]}', "here") == {"a": [1]}
    assert read_yaml(write("")) is None


LAUGHS = "a: &a [x, x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, r"settings.yaml has the alias \*a in line 2; write the value out"),
        ("a: &a [*a]", r"the alias \*a"),
        ("[" * 200_000, "nests more than 100 levels"),
        ("- " * 200_000, "nests more than 100 levels"),
        ("a: [", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("when: 2024-99-99", "holds a value that is none .month must be in 1..12"),
        (b"a: \xff", "is not UTF-8 text"),
        ("\x00", "is not YAML"),
        ("a" * (YAML_BYTES + 1), "settings in YAML take at most 1,048,576"),
    ],
)
def test_what_is_no_settings_file_gets_one_error_with_its_name(write, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(write(content))
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith("settings.yaml")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff", "nul"])
def test_what_is_no_json_gets_one_error_with_its_place(text):
    with pytest.raises(ValueError, match="^line 3 is not JSON ") as caught:
        parse_json(text, "line 3")
    assert type(caught.value) is ValueError
