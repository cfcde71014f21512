import json
import re

import pytest

from lmops_lab.rewriting.content import split_prompt
from lmops_lab.rewriting.corpus import Corpus, Pair, build_corpus, emoji_corpus, engineered_prompts, read_prompts
from lmops_lab.rewriting.loading import Card, Loaded
from lmops_lab.rewriting.rephrase import Rephraser

PROMPTS = [
    "a rabbit in space, digital art, 8k, sharp focus",
    "a castle by greg rutkowski, cinematic lighting",
    "A Castle  by Greg Rutkowski, Cinematic Lighting",  # repeats the one before
    "a dog",  # no modifier
    "8k, trending on artstation",  # shows nothing
    "a cat Rephrase: a dog, 8k",
    "a fox, " + ", ".join(["8k"] * 80),
]


def shout(texts):
    return [text.upper() if "rabbit" in text else "" for text in texts]


def test_four_kinds_of_pairs():
    corpus = build_corpus(PROMPTS, rephrase=shout)
    rabbit = {pair.kind: pair for pair in corpus.pairs if pair.subject == "a rabbit in space"}
    assert set(rabbit) == {"content", "shuffled", "rephrased content", "rephrased whole"}
    assert {pair.target for pair in rabbit.values()} == {PROMPTS[0]}
    assert rabbit["content"].source == "a rabbit in space"
    parts = split_prompt(rabbit["shuffled"].source)
    assert parts.content == "a rabbit in space"
    assert 1 <= len(parts.modifiers) <= 3
    assert set(parts.modifiers) <= {"digital art", "8k", "sharp focus"}
    assert rabbit["rephrased content"].source == "A RABBIT IN SPACE"
    assert rabbit["rephrased whole"].source == PROMPTS[0].upper()
    assert dict(corpus.left_out) == {
        "repeated": 1,
        "no modifier": 1,
        "shows nothing": 1,
        "holds the marker": 1,
        "too long": 1,
        "no rephrased content": 1,
        "no rephrased whole": 1,
    }
    assert all(pair.source != pair.target for pair in corpus.pairs)
    assert len({(pair.source, pair.target) for pair in corpus.pairs}) == len(corpus)


def test_statistics_count():
    corpus = build_corpus(PROMPTS, rephrase=shout)
    table = corpus.statistics()
    assert table.loc["all", "pairs"] == len(corpus)
    assert table.loc["all", "targets"] == 2
    assert table.loc["rephrased whole", "pairs"] == 1
    assert table.loc["all", "modifiers"] == 2.5
    assert corpus.modifiers()["8k"] == 1


def test_a_split_leaks_neither_subjects_nor_targets():
    prompts = [
        f"{start} {subject}, {word}"
        for start in ("a", "a photo of a")
        for subject in "abcdefghij"
        for word in ("8k", "4k")
    ]
    train, test = build_corpus(prompts).split(0.3, seed=1)
    assert len(train) + len(test) == len(build_corpus(prompts))
    assert not {pair.subject for pair in train.pairs} & {pair.subject for pair in test.pairs}
    assert not {pair.target for pair in train.pairs} & {pair.target for pair in test.pairs}
    # "a photo of a b" and "a b" show the same, so they are one subject.
    assert len({pair.subject for pair in test.pairs}) == 3
    assert build_corpus(prompts).split(0.3, seed=1) == (train, test)
    assert build_corpus(prompts).split(0.3, seed=2) != (train, test)


def test_a_corpus_of_one_line_cannot_be_split():
    corpus = build_corpus(["a rabbit, 8k"])
    with pytest.raises(ValueError, match=r"1 subject\(s\) in 1 pairs; a split needs at least two"):
        corpus.split()
    with pytest.raises(ValueError, match="held_out is 1.0"):
        corpus.split(1.0)


def test_no_pairs_says_why():
    with pytest.raises(ValueError, match=r"no pair can be made.*'no modifier': 1"):
        build_corpus(["a rabbit"])
    with pytest.raises(ValueError, match="there were none"):
        build_corpus([])
    with pytest.raises(ValueError, match="unknown kind of pair 'magic'"):
        build_corpus(PROMPTS, kinds=["magic"])


def test_prompts_are_read_from_text_and_json_lines(tmp_path, write_jsonl):
    (tmp_path / "p.txt").write_text("a cat, 8k\n\n a dog, 4k \n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a cat, 8k", "a dog, 4k"]
    assert read_prompts(write_jsonl("p.jsonl", [{"n": 1, "Prompt": "a cat"}, "a dog"])) == ["a cat", "a dog"]
    assert read_prompts(write_jsonl("q.jsonl", [{"mine": "a cat"}]), column="mine") == ["a cat"]
    with pytest.raises(ValueError, match="has no text column prompt or Prompt or text or caption; it has mine"):
        read_prompts(tmp_path / "q.jsonl")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a cat"}\n{"prompt"\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_prompts(tmp_path / "broken.jsonl")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_prompts(tmp_path / "nowhere.txt")


def test_prompts_are_read_from_a_data_set(tmp_path, write_jsonl):
    """A folder that the `datasets` library reads stands for a name on the Hub."""
    write_jsonl("dump/train.jsonl", [{"Prompt": "a cat, 8k"}, {"Prompt": "a dog, 4k"}])
    assert read_prompts(tmp_path / "dump") == ["a cat, 8k", "a dog, 4k"]
    with pytest.raises(FileNotFoundError, match="no_such_owner/no_such_dump.*cannot be loaded"):
        read_prompts("no_such_owner/no_such_dump")


def test_pairs_survive_a_file(tmp_path):
    corpus = build_corpus(PROMPTS, rephrase=shout)
    corpus.save(tmp_path / "pairs.jsonl")
    assert Corpus.load(tmp_path / "pairs.jsonl").pairs == corpus.pairs
    (tmp_path / "pairs.jsonl").write_text(json.dumps(vars(Pair("a", "b", "content", "c"))) + "\n{}\n")
    with pytest.raises(ValueError, match="line 2 is no(t JSON| pair)"):
        Corpus.load(tmp_path / "pairs.jsonl")


def test_engineered_prompts_mix_good_useless_and_harmful_words():
    contents = [f"a thing {i}" for i in range(200)]
    words = {"good": ["g1", "g2", "g3"], "useless": ["u1"], "harmful": ["h1"]}
    prompts = engineered_prompts(contents, 600, **words, seed=3)
    assert len(set(prompts)) == 600
    shares = {word: sum(bool(re.search(rf", {word}\b", p)) for p in prompts) / 600 for word in ("g", "u1", "h1")}
    shares["g"] = sum(", g" in p for p in prompts) / 600
    assert shares["g"] > 0.8
    assert 0.2 < shares["u1"] < 0.45
    assert 0.08 < shares["h1"] < 0.35
    assert prompts == engineered_prompts(contents, 600, good=["g1", "g2", "g3"], useless=["u1"], harmful=["h1"], seed=3)
    with pytest.raises(ValueError, match="only 1 different prompts were found, 5 asked for"):
        engineered_prompts(["a cat"], 5, good=["8k"])


def test_the_emoji_corpus_is_large_and_keeps_its_unknown_contents_out():
    pytest.importorskip("lmops_lab.emojiworld.captions")
    corpus, unknown = emoji_corpus()
    assert len(corpus) >= 20_000
    assert len(unknown) >= 100
    sources = {pair.subject for pair in corpus.pairs}
    assert not sources & {text.lower() for text in unknown}
    kinds = corpus.statistics()
    assert set(kinds.index) == {"content", "shuffled", "all"}
    assert corpus.modifiers()["blurry"] < corpus.modifiers()["masterpiece"] / 3


def test_the_embedded_model_rephrases(embedded):
    rephrase = Rephraser(Loaded(embedded.model, embedded.tokenizer, embedded.revision, Card()))
    texts = ["a cat sleeping on a sofa", "a ship in a storm"]
    answers = rephrase(texts)
    assert len(answers) == 2
    assert any(answers)
    assert all(answer != text and "\n" not in answer for answer, text in zip(answers, texts, strict=True))
