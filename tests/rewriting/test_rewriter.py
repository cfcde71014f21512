import json

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from lmops_lab.rewriting import loading, rewriter
from lmops_lab.rewriting.budget import ClipBudget
from lmops_lab.rewriting.decoding import Decoding
from lmops_lab.rewriting.loading import Card, join_adapters, load_causal
from lmops_lab.rewriting.rewriter import Rewriter, clean_text, prompt_tokens
from tests.rewriting.tiny_rewriters import GPT2_END, byte_gpt2_folder, gpt2_tokenizer, promptist_cache
from tests.tiny import byte_tokenizer

FAST = Decoding(beams=4, max_new_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return byte_gpt2_folder(tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture(scope="module")
def tiny_rewriter(folder):
    return Rewriter.load(str(folder), decoding=FAST)


@pytest.fixture
def promptist(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return promptist_cache(tmp_path)


def test_the_published_constants():
    assert loading.PROMPTIST_MODEL == "microsoft/Promptist"
    assert loading.PROMPTIST_TOKENIZER == "gpt2"
    assert loading.PROMPTIST_END == 50256
    assert loading.MARKER == " Rephrase:"
    published = loading.PROMPTIST_DECODING
    assert (published.method, published.beams, published.max_new_tokens) == ("beam", 8, 75)
    assert published.length_penalty == -1.0
    assert published.min_new_tokens == 0


def test_promptist_is_the_published_call_of_transformers(promptist):
    """The code of the published demo, written out, against `Rewriter.load("promptist")`."""
    found = Rewriter.load("promptist", dtype="float32").rewrite("  a rabbit in space ")
    tokenizer = gpt2_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    ids = tokenizer("a rabbit in space Rephrase:", return_tensors="pt").input_ids
    out = promptist.generate(
        ids,
        do_sample=False,
        max_new_tokens=75,
        num_beams=8,
        num_return_sequences=8,
        eos_token_id=50256,
        pad_token_id=50256,
        length_penalty=-1.0,
    )
    texts = [
        tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        for row in out
    ]
    assert len(found.candidates) == 8
    assert [candidate.text for candidate in found.candidates] == texts
    assert found.best == texts[0]
    assert any(candidate.finished for candidate in found.candidates)
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True)


def test_promptist_refuses_another_tokenizer(promptist, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "bytes")
    with pytest.raises(ValueError, match="ends rewrites with token 50256"):
        Rewriter.load("promptist", tokenizer=str(tmp_path / "bytes"))


def test_promptists_pickle_cannot_run_code(tmp_path, monkeypatch):
    promptist_cache(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    (weights,) = tmp_path.rglob("pytorch_model.bin")
    torch.save({"transformer.wte.weight": Evil()}, weights)
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported|loaded"):
        Rewriter.load("promptist")


def test_candidates_carry_tokens_scores_and_the_clip_budget(tiny_rewriter):
    found = tiny_rewriter.rewrite("a rabbit", 4)
    prompt = len(b"a rabbit Rephrase:")
    for candidate in found.candidates:
        without_end = candidate.tokens - candidate.finished
        assert candidate.score == pytest.approx(candidate.log_probability * candidate.tokens)
        assert candidate.legacy_score == pytest.approx(candidate.log_probability * (prompt + without_end))
        assert candidate.clip_tokens == len(candidate.text.encode()) + 2  # one token a byte
    assert found.legacy_best == max(found.candidates, key=lambda c: c.legacy_score).text
    assert list(found.to_frame().columns[:3]) == ["text", "score", "legacy_score"]
    assert found.candidates[0].text in str(found)


@pytest.mark.parametrize("text", ["a rabbit", "a rabbit   ", "\n\n  a rabbit\n\n", "a rabbit\n   \n"])
def test_spaces_and_empty_lines_around_do_not_matter(tiny_rewriter, text):
    assert tiny_rewriter.rewrite(text, 4) == tiny_rewriter.rewrite("a rabbit", 4)


def test_lines_become_one_line_and_other_scripts_pass(tiny_rewriter):
    assert clean_text("a rabbit \n\n in space") == "a rabbit in space"
    for text in ("🐰🚀", "ein Häschen im All", "宇宙のうさぎ", "أرنب"):
        assert tiny_rewriter.rewrite(text, 2).user == text


def test_rewrites_are_the_same_alone_and_in_a_batch(tiny_rewriter):
    texts = ["a rabbit", "b", "a castle in the grass at sunset"]
    for search in (FAST, Decoding("sampling", max_new_tokens=8), Decoding("diverse", 4, 8, groups=4)):
        together = tiny_rewriter.rewrite_many(texts, 3, decoding=search)
        assert [r.user for r in together] == texts
        for text, found in zip(texts, together, strict=True):
            alone = tiny_rewriter.rewrite(text, 3, decoding=search)
            assert [c.text for c in alone.candidates] == [c.text for c in found.candidates]
    assert tiny_rewriter(texts) == [found.best for found in tiny_rewriter.rewrite_many(texts, 1)]


def test_more_candidates_widen_the_beam(tiny_rewriter):
    assert len(tiny_rewriter.rewrite("a rabbit", 6).candidates) == 6


def test_long_texts_are_refused_or_cut_at_a_word(tiny_rewriter):
    text = "rabbit " * 1500  # more than 10,000 characters
    with pytest.raises(ValueError, match=r"10499 characters.*on_long='truncate'"):
        tiny_rewriter.rewrite(text)
    with pytest.warns(UserWarning, match="cut from 10499 to"):
        found = tiny_rewriter.rewrite(text, 2, on_long="truncate")
    assert found.truncated
    assert set(found.user.split()) == {"rabbit"}
    used = len(found.user.encode()) + len(loading.MARKER) + FAST.max_new_tokens
    assert 256 - 8 <= used <= 256
    with pytest.warns(UserWarning, match="cut from"):
        emoji = tiny_rewriter.rewrite("🐰" * 3000, 1, on_long="truncate").user
    assert set(emoji) == {"🐰"}


def test_a_window_without_room_for_a_text_is_an_error(tiny_rewriter):
    with pytest.raises(ValueError, match=r"256 positions and is to write 250 .*leaves 6 .*Lower max_new_tokens"):
        tiny_rewriter.rewrite("a rabbit", 1, decoding=FAST.changed(max_new_tokens=250), on_long="truncate")


def test_the_prompt_is_tokenised_as_in_training():
    """A tokenizer that begins every text with a token of its own does so here, too, and ends none."""
    tokenizer = byte_tokenizer()
    plain = tokenizer("a Rephrase:").input_ids
    assert prompt_tokens(tokenizer, "a") == plain
    start, end = ("<|start|>", 300), (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.add_special_tokens({"bos_token": start[0]})
    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", special_tokens=[(start[0], begin), end]
    )
    assert prompt_tokens(tokenizer, "a") == [begin, *plain]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\t ", "is empty"),
        ("a cat Rephrase: a dog", "contains 'Rephrase:'"),
        ("Rephrase: a dog", "contains 'Rephrase:'"),
    ],
)
def test_bad_prompts(tiny_rewriter, text, message):
    with pytest.raises(ValueError, match=message):
        tiny_rewriter.rewrite(text)


def test_one_text_where_a_list_is_meant(tiny_rewriter):
    with pytest.raises(TypeError, match="give a list"):
        tiny_rewriter("a cat")


def test_a_repeated_marker_is_kept_and_reported(tiny_rewriter, monkeypatch):
    """The original cut the rewrite there and scored only the beginning."""
    tokens = tuple(byte_tokenizer()(" a cat Rephrase: junk", add_special_tokens=False).input_ids)
    fixed = [[rewriter.Hypothesis(tokens, finished=True, log_probability=-1.0)]]
    monkeypatch.setattr(rewriter, "decode", lambda *_, **__: fixed)
    (candidate,) = tiny_rewriter.rewrite("a cat", 1).candidates
    assert candidate.text == "a cat Rephrase: junk"
    assert candidate.repeats_marker


def test_clip_reads_77_tokens():
    budget = ClipBudget(byte_tokenizer(), estimated=False)
    assert budget.read("x" * 75).cut == ""
    reading = budget.read("x" * 75 + " sharp")
    assert (reading.tokens, reading.cut) == (83, "sharp")


def test_the_embedded_rewriter_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(rewriter, "EMBEDDED_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="the embedded rewriter 'emoji' is not in"):
        Rewriter.load()


def make_adapter(base_folder, where, seed, *, rank=4, revision=""):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    adapted.save_pretrained(where)
    Card(base=str(base_folder), base_revision=revision, decoding=FAST, trained="sft").write(where)
    return where


def test_an_adapter_is_the_merged_model(folder, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter", 0, revision=load_causal(str(folder)).revision)
    adapted = Rewriter.load(str(adapter), dtype="float32")
    assert adapted.decoding == FAST
    plain = AutoModelForCausalLM.from_pretrained(folder)
    from peft import PeftModel

    merged = PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(adapted.loaded.model(ids).logits, merged(ids).logits)
    assert adapted.revision != load_causal(str(folder)).revision


def test_an_adapter_for_another_base_is_refused(folder, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter", 0, revision="local-of-another")
    with pytest.raises(ValueError, match=r"trained on .* at local-of-another"):
        Rewriter.load(str(adapter))
    other = byte_gpt2_folder(tmp_path / "other", width=32)
    card = json.loads((adapter / "rewriter.json").read_text())
    (adapter / "rewriter.json").write_text(json.dumps({**card, "base": str(other), "base_revision": ""}))
    with pytest.raises(ValueError, match="does not fit the base model"):
        Rewriter.load(str(adapter))
    (adapter / "rewriter.json").write_text("{}")
    with pytest.raises(ValueError, match="no rewriter card"):
        Rewriter.load(str(adapter))


def test_joined_adapters_equal_merging_both_in_turn(folder, tmp_path):
    first = make_adapter(folder, tmp_path / "first", 1)
    middle = load_causal(str(first), dtype="float32")
    middle.model.save_pretrained(tmp_path / "middle")
    byte_tokenizer().save_pretrained(tmp_path / "middle")
    second = make_adapter(tmp_path / "middle", tmp_path / "second", 2, rank=3)
    in_turn = load_causal(str(second), dtype="float32").model
    join_adapters(first, second, tmp_path / "joined", card=Card(base=str(folder), trained="rloo"))
    joined = load_causal(str(tmp_path / "joined"), dtype="float32").model
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(joined(ids).logits, in_turn(ids).logits, atol=2e-5, rtol=1e-5)


def test_unknown_names_say_how_to_name_one():
    with pytest.raises(FileNotFoundError, match="cannot be loaded|no model at"):
        Rewriter.load("/nowhere/at/all")


def test_vocabularies_must_fit(folder, tmp_path):
    gpt2_tokenizer().save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match=f"has {GPT2_END + 1} tokens"):
        Rewriter.load(str(folder), tokenizer=str(tmp_path / "words"))
