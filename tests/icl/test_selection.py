import math

import numpy as np
import pytest
import torch

from lmops_lab import encode_groups
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.selection import (
    bm25_similarity,
    cosine_similarity,
    mean_hidden_states,
    nearest_examples,
    nearest_groups,
    random_groups,
    score_with_groups,
    tail_queries,
)
from lmops_lab.icl.tasks import Example, Task

POOL = ["the cat sat", "the dog sat on the cat", "a bird", "sat"]


def test_bm25_is_lucene_s_formula():
    scores = bm25_similarity(["Cat sat", "zebra"], POOL)
    texts = [text.split() for text in POOL]
    mean = sum(map(len, texts)) / len(texts)
    for column, text in enumerate(texts):
        expected = 0.0
        for word in ("cat", "sat"):
            holding = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            count = text.count(word)
            expected += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
        assert scores[0, column] == pytest.approx(expected, rel=1e-5)
    assert not scores[1].any()  # no word in common


def test_bm25_of_texts_without_words():
    assert not bm25_similarity(["?", ""], ["...", "!"]).any()
    assert bm25_similarity(["?"], POOL).shape == (1, 4)
    with pytest.raises(ValueError, match="pool of demonstrations is empty"):
        bm25_similarity(["a"], [])


def test_embeddings_are_the_mean_of_the_model_s_own_hidden_states(tiny):
    texts = ["a", "a longer text", "word " * 40, "x y"]
    found = mean_hidden_states(tiny, texts, progress=False)
    for row, text in zip(found, texts, strict=True):
        ids = torch.tensor([tiny.tokens(text)])
        with torch.inference_mode():
            states = tiny.model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states[-1]
        assert row == pytest.approx(states[0].mean(0).numpy(), abs=1e-4)


def test_embeddings_of_impossible_texts(tiny):
    for texts, message in (([], "no texts to embed"), (["a", ""], "text 1 has 0 tokens"), (["a" * 600], "1 to 512")):
        with pytest.raises(ValueError, match=message):
            mean_hidden_states(tiny, texts, progress=False)


def test_cosine_ignores_the_common_direction_and_length():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(50, 8))
    queries = 3 * (pool[:5] - pool.mean(0)) + pool.mean(0) + 0.01 * rng.normal(size=(5, 8))
    shift = 100 * np.ones(8)
    similarity = cosine_similarity(queries + shift, pool + shift)
    assert similarity.argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert similarity[0, 0] == pytest.approx(1, abs=0.01)
    assert np.abs(similarity).max() <= 1 + 1e-9


def test_nearest_examples_stand_next_to_the_query():
    similarity = np.array([[0.1, 0.9, 0.5, 0.7], [4.0, 3.0, 2.0, 1.0]])
    assert nearest_examples(similarity, 2).tolist() == [[3, 1], [1, 0]]
    assert nearest_examples(similarity, 2, exclude=[1, 0]).tolist() == [[2, 3], [3, 2]]
    assert nearest_examples(similarity, 0).shape == (2, 0)
    assert similarity[0, 1] == 0.9  # untouched
    with pytest.raises(ValueError, match=r"k = 3 of 2 examples \(4 less 2 excluded\)"):
        nearest_examples(similarity, 3, exclude=[1, 0, 1])


def test_nearest_groups():
    similarity = np.array([[9.0, 0, 0, 4, 4, 4, 1, 1], [0, 0, 0, 0, 0, 0, 5, 5]])
    members = [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert nearest_groups(similarity, members, 2, top=1).tolist() == [[0, 1], [0, 2]]
    assert nearest_groups(similarity, members, 1, top=3).tolist() == [[1], [2]]
    assert nearest_groups(similarity, members, 3).tolist() == [[0, 1, 2]] * 2
    with pytest.raises(ValueError, match="4 groups of 3"):
        nearest_groups(similarity, members, 4)
    with pytest.raises(ValueError, match="none empty"):
        nearest_groups(similarity, [[], [1]], 1)


def test_random_groups():
    drawn = {tuple(random_groups(6, 2, 3, seed)[0]) for seed in range(20)}
    assert len(drawn) > 5
    assert all(a < b for a, b in drawn)
    assert len(set(map(tuple, random_groups(6, 2, 3, 0).tolist()))) == 1
    with pytest.raises(ValueError, match="7 groups of 6"):
        random_groups(6, 7, 3, 0)


@pytest.fixture(scope="module")
def task():
    examples = tuple(Example({"text": f"item {i} {'good' if i % 2 else 'bad'}"}, "pq"[i % 2]) for i in range(12))
    return Task("t", "{text}:", {"p": "one", "q": "two"}, examples[:8], examples[8:], "\n")


def test_retrieved_groups_are_those_that_were_encoded_once(tiny, task):
    """Each query's scores are those of its own subset, and encoding is not needed again."""
    prompts = PromptTokens.of(tiny, task)
    context = encode_groups(tiny, prompts.demonstrations(task.train), group_size=2, progress=False)
    queries = [prompts.query(example) for example in task.test]
    chosen = np.array([[0, 2], [1, 3], [0, 2], [0, 1]])
    scores = score_with_groups(tiny, queries, prompts.labels, context, chosen, progress=False)
    for row, groups in enumerate(chosen.tolist()):
        alone = tiny.score([queries[row]], list(prompts.labels), context=context.subset(groups))
        assert scores[row] == pytest.approx(alone[0].numpy(), abs=1e-4)
    assert np.abs(scores[0] - score_with_groups(tiny, queries, prompts.labels, context, chosen[::-1])[0]).max() > 1e-3
    with pytest.raises(ValueError, match="1 choices of groups for 4 queries"):
        score_with_groups(tiny, queries, prompts.labels, context, chosen[:1])


def test_a_similar_tail_with_cached_random_groups(tiny, task):
    """The tail stands between the cached groups and the query, never among the cached examples."""
    prompts = PromptTokens.of(tiny, task)
    context = encode_groups(tiny, prompts.demonstrations(task.train[:4]), group_size=2, progress=False)
    similarity = bm25_similarity([e.fields["text"] for e in task.test], [e.fields["text"] for e in task.train])
    chosen = nearest_examples(similarity, 2, exclude=range(4))
    assert chosen.min() >= 4
    rows = tail_queries(prompts, task.test, task.train, chosen)
    shown = "".join(task.demonstration(task.train[i]) for i in chosen[0])
    assert tiny.tokenizer.decode(rows[0]) == shown + task.query(task.test[0].fields)
    assert all(task.train[tail[-1]].label == e.label for tail, e in zip(chosen, task.test, strict=True))
    scores = tiny.score(rows, list(prompts.labels), context=context)
    alone = tiny.score([tiny.tokens(shown + task.query(task.test[0].fields))], list(prompts.labels), context=context)
    assert scores[0].tolist() == pytest.approx(alone[0].tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="with its 40 demonstrations has .* tokens, the model 512 positions"):
        tail_queries(prompts, task.test, task.train * 8, np.zeros((4, 40), np.int64))
