import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from lmops_lab import encode_groups
from lmops_lab.icl.calibration import calibrate
from lmops_lab.icl.channel import channel_demonstrations, channel_parts, score_channel
from lmops_lab.icl.choices import ChoiceScores, score_choices
from lmops_lab.icl.knn import divergences, vote
from lmops_lab.icl.prompts import PromptTokens
from lmops_lab.icl.scores import StoredScores, read_channel, read_neighbours, read_scores, score_task
from lmops_lab.icl.tasks import Example, Task

EXAMPLES = tuple(Example({"text": f"item {i}"}, "pqr"[i % 3]) for i in range(15))
TASK = Task("t", "In: {text}\nOut:", {"p": "one", "q": "three", "r": "no"}, EXAMPLES[:9], EXAMPLES[9:], "\n\n")


def log_probability(lm, before, after):
    """By one plain pass of the untouched model over the whole text."""
    ids = torch.tensor([[*before, *after]])
    with torch.inference_mode():
        logs = lm.model(ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
    return sum(float(logs[len(before) - 1 + i, token]) for i, token in enumerate(after))


@pytest.fixture(scope="module")
def prompts(tiny):
    return PromptTokens.of(tiny, TASK)


@pytest.fixture(scope="module")
def context(tiny, prompts):
    return encode_groups(tiny, prompts.demonstrations(TASK.train[:4]), group_size=2, progress=False)


@pytest.fixture(scope="module")
def stored(tiny, context):
    return score_task(tiny, TASK, context=context, anchors=TASK.train[4:], channel=True, domain=5, progress=False)


def test_everything_is_scored_once_with_the_same_demonstrations(tiny, prompts, context, stored):
    labels = list(prompts.labels)
    for part, rows in (
        ("scores", [prompts.query(e) for e in TASK.test]),
        ("content_free", prompts.content_free()),
        ("domain", prompts.domain(5)),
        ("anchors", [prompts.query(e) for e in TASK.train[4:]]),
    ):
        alone = tiny.score(rows, labels, context=context).numpy()
        assert getattr(stored, part) == pytest.approx(alone, abs=1e-4)
    assert stored.gold.tolist() == [0, 1, 2, 0, 1, 2]
    assert stored.anchor_gold.tolist() == [1, 2, 0, 1, 2]
    assert stored.tokens.tolist() == [4, 6, 3]
    for column, label in enumerate(labels):
        expected = log_probability(tiny, tiny.tokens("Out:"), label)
        assert stored.unconditional[0, column] == pytest.approx(expected, abs=1e-3)


def test_the_store_is_one_file(stored, tmp_path):
    path = stored.save(tmp_path / "t.parquet")
    again = StoredScores.load(path)
    assert again.labels == stored.labels
    for name in ("scores", "gold", "content_free", "domain", "unconditional", "anchors", "anchor_gold", "channel"):
        assert np.array_equal(getattr(again, name), getattr(stored, name))
    assert set(pq.read_table(path)["label"].to_pylist()) == {"p", "q", "r"}
    for length in ("sum", "mean", "pmi"):
        assert np.array_equal(read_scores(again, length, "domain"), read_scores(stored, length, "domain"))
    bare = StoredScores(stored.labels, stored.tokens, stored.scores, stored.gold)
    assert StoredScores.load(bare.save(tmp_path / "bare.parquet")).domain.shape == (0, 3)
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="is no 'lmops-lab scores 2' file"):
        StoredScores.load(tmp_path / "x.parquet")


def test_lengths_and_calibrations_are_formulas_of_the_store(stored):
    logs = log_softmax(stored.scores / stored.tokens, axis=-1)
    assert read_scores(stored, "mean") == pytest.approx(logs)
    assert read_scores(stored, "pmi") == pytest.approx(log_softmax(stored.scores - stored.unconditional, axis=-1))
    bias = np.exp(log_softmax(stored.domain, axis=-1)).mean(0)
    assert read_scores(stored, "sum", "domain") == pytest.approx(log_softmax(stored.scores, axis=-1) - np.log(bias))
    for name in ("contextual", "batch"):
        assert np.array_equal(read_scores(stored, "sum", name), calibrate(name, stored.scores, stored.content_free))


def test_domain_calibration_removes_a_bias_of_the_domain():
    rng, bias = np.random.default_rng(0), np.array([6.0, 0.0, 0.0])
    gold = rng.integers(3, size=300)
    scores = rng.normal(size=(300, 3)) + 3 * np.eye(3)[gold] + bias
    domain = rng.normal(size=(20, 3)) + bias
    stored = StoredScores(("p", "q", "r"), np.ones(3, np.int64), scores, gold, domain=domain)
    raw, calibrated = (read_scores(stored, "sum", name).argmax(1) == gold for name in ("raw", "domain"))
    assert raw.mean() < 0.5
    assert calibrated.mean() > 0.85


def test_bad_readings(tiny, stored):
    bare = StoredScores(stored.labels, stored.tokens, stored.scores, stored.gold)
    for call, message in (
        (lambda: read_scores(stored, "maen"), "length is 'maen'; .* did you mean 'mean'"),
        (lambda: read_scores(stored, "sum", "domian"), "calibration is 'domian'; .* did you mean 'domain'"),
        (lambda: read_scores(bare, "sum", "domain"), "domain was not scored"),
        (lambda: read_scores(bare, "pmi"), "unconditional was not scored"),
        (lambda: read_channel(bare), "channel was not scored"),
        (lambda: read_channel(stored, "domain"), "the channel has 'raw' and 'batch'"),
        (lambda: read_neighbours(bare), "8 neighbours of 0 anchors"),
        (lambda: score_task(tiny, TASK, queries=[]), "nothing to ask of task 't'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_channel_prompts_put_the_label_first(tiny, prompts):
    assert channel_parts(TASK, TASK.test[0], "q") == ("Out: three\nIn:", " item 9")
    shown = channel_demonstrations(prompts, TASK.train[:1])
    assert tiny.tokenizer.decode(shown[0]) == "Out: one\nIn: item 0\n\n"
    both = Example({"a": "It rained.", "b": "Wet."}, "p")
    pair = Task("pair", "{a} Question: {b} True? Answer:", {"p": "Yes", "q": "No"}, (both,), (both,))
    assert channel_parts(pair, both, "p") == ("True? Answer: Yes", " It rained. Question: Wet.")


def test_the_channel_is_the_text_s_probability_after_each_label(tiny, prompts, stored):
    for row, example in enumerate(TASK.test[:2]):
        for column, label in enumerate(TASK.labels):
            condition, text = channel_parts(TASK, example, label)
            expected = log_probability(tiny, tiny.tokens(condition), tiny.tokens(text))
            assert stored.channel[row, column] == pytest.approx(expected, abs=1e-3)
    assert read_channel(stored) == pytest.approx(log_softmax(stored.channel, axis=-1))


def test_the_channel_with_demonstrations(tiny, prompts):
    """One group is an ordinary prompt."""
    shown = channel_demonstrations(prompts, TASK.train[:3])
    one = encode_groups(tiny, shown, group_size=3, progress=False)
    found = score_channel(prompts, TASK.test[:1], context=one, progress=False)
    condition, text = channel_parts(TASK, TASK.test[0], "r")
    before = [token for demonstration in shown for token in demonstration] + tiny.tokens(condition)
    assert found[0, 2] == pytest.approx(log_probability(tiny, before, tiny.tokens(text)), abs=1e-3)


def test_neighbours_are_the_nearest_in_kl_divergence():
    rng = np.random.default_rng(0)
    queries, anchors = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    found = divergences(queries, anchors)
    for row in range(4):
        for column in range(6):
            expected = entropy(np.exp(queries[row]), np.exp(anchors[column]))  # scipy normalises both
            assert found[row, column] == pytest.approx(expected, abs=1e-12)


def test_votes():
    anchors = np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.25, 0.75], [0.2, 0.8]])
    gold = np.array([1, 1, 0, 0, 0])  # what the model says is not the label: the anchors tell what it means
    queries = np.log([[0.85, 0.15], [0.22, 0.78]])
    assert vote(queries, anchors, gold, 1).argmax(1).tolist() == [1, 0]
    shares = vote(queries, anchors, gold, 5)
    assert shares.argmax(1).tolist() == [0, 0]
    assert shares[0] == pytest.approx([3 / 5, 2 / 5], abs=0.1)
    assert vote(queries, anchors, gold, 4)[0].argmax() == 1  # two votes each: the nearest decides
    with pytest.raises(ValueError, match="6 neighbours of 5 anchors"):
        vote(queries, anchors, gold, 6)


def test_neighbours_of_the_store(stored):
    assert np.array_equal(read_neighbours(stored, 3), vote(stored.scores, stored.anchors, stored.anchor_gold, 3))


CHOICES = (
    Example({"text": "Ice is"}, "1", ("hot", "cold", "loud and far")),
    Example({"text": "Fire is"}, "0", ("hot", "hot")),
)


def test_choices_have_the_probability_of_a_plain_pass(tiny):
    task = Task("c", "{text}", {}, CHOICES, CHOICES, "\n", kind="multiple-choice")
    scores = score_choices(tiny, task, CHOICES, progress=False)
    for row, question in enumerate(CHOICES):
        for column, choice in enumerate(question.choices):
            expected = log_probability(tiny, tiny.tokens(question.fields["text"]), tiny.tokens(f" {choice}"))
            alone = log_probability(tiny, [tiny.tokenizer.bos_token_id], tiny.tokens(f" {choice}"))
            assert scores.scores[row, column] == pytest.approx(expected, abs=1e-3)
            assert scores.unconditional[row, column] == pytest.approx(alone, abs=1e-3)
    assert scores.tokens[0].tolist() == [4, 5, 13]
    assert scores.characters[0].tolist() == [3, 4, 12]
    assert scores.read("mean")[0] == pytest.approx(scores.scores[0] / [4, 5, 13])
    assert scores.read("characters")[0] == pytest.approx(scores.scores[0] / [3, 4, 12])
    assert scores.read("pmi")[0] == pytest.approx(scores.scores[0] - scores.unconditional[0])
    assert scores.read()[1, 2] == -np.inf
    assert scores.read()[1, 0] == scores.read()[1, 1]  # equal choices
    assert scores.gold.tolist() == [1, 0]
    assert scores.correct("sum").tolist() == (scores.read().argmax(1) == [1, 0]).tolist()
    with pytest.raises(ValueError, match="length is 'token'"):
        scores.read("token")


def test_choices_are_kept_in_one_file(tiny, tmp_path):
    task = Task("c", "{text}", {}, CHOICES, CHOICES, "\n", kind="multiple-choice")
    scores = score_choices(tiny, task, CHOICES, progress=False)
    path = scores.save(tmp_path / "c.parquet")
    again = ChoiceScores.load(path)
    for length in ("sum", "mean", "characters", "pmi"):
        assert np.array_equal(again.read(length), scores.read(length))
    assert again.gold.tolist() == [1, 0]
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="is no 'lmops-lab choices 2' file"):
        ChoiceScores.load(path)


def test_choices_within_the_prompt(tiny):
    """WinoGrande's way: the choice completes the prompt, and the rest of the sentence is scored."""
    question = Example({"before": "Ann paid Sue since", "after": "owed it."}, "0", ("Ann", "Sue"))
    settings = {"kind": "multiple-choice", "continuation": "{after}"}
    task = Task("w", "{before} {choice}", {}, (question,), (question,), "\n", **settings)
    prompts = PromptTokens.of(tiny, task, "multiple-choice")
    context = encode_groups(tiny, prompts.demonstrations([question]), group_size=1, progress=False)
    scores = score_choices(tiny, task, [question], context=context, progress=False)
    for column, name in enumerate(("Ann", "Sue")):
        before = tiny.tokens(f"Ann paid Sue since Ann owed it.\nAnn paid Sue since {name}")
        expected = log_probability(tiny, before, tiny.tokens(" owed it."))
        assert scores.scores[0, column] == pytest.approx(expected, abs=1e-3)
    assert scores.unconditional[0, 0] == scores.unconditional[0, 1]


def test_choices_of_other_tasks(tiny):
    with pytest.raises(ValueError, match="task 't' is of kind 'classification', not 'multiple-choice'"):
        score_choices(tiny, TASK, TASK.test)
    task = Task("c", "{text}", {}, CHOICES, CHOICES, "\n", kind="multiple-choice")
    with pytest.raises(ValueError, match="nothing to ask of task 'c'"):
        score_choices(tiny, task, [])
