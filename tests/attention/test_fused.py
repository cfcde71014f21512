"""The compiled elementwise steps: against the formulas in float64, and in which modules they stand in when."""

import copy

import pytest
import torch
from torch import nn

from lmops_lab.attention import fused
from lmops_lab.attention.call import AttentionCall, active
from lmops_lab.attention.forward import hidden_at
from lmops_lab.attention.hook import install
from tests.attention.test_causal import needs_compiler
from tests.tiny import tiny_model

pytestmark = needs_compiler

# float32's rounding of a handful of operations on numbers of a few units.
TOLERANCE = 2e-6


@pytest.fixture
def counted(monkeypatch):
    """How often each step ran."""
    real, counts = fused.steps(), dict.fromkeys(fused.Steps._fields, 0)

    def counting(name):
        def run(*given):
            counts[name] += 1
            return getattr(real, name)(*given)

        return run

    monkeypatch.setattr(fused, "steps", lambda: fused.Steps(*map(counting, fused.Steps._fields)))
    return counts


def install_and_forget(model, counts):
    """Without the runs of the comparison beforehand."""
    assert install(model)
    counts.update(dict.fromkeys(counts, 0))


@pytest.mark.parametrize("width", [1, 7, 16, 33, 576])
def test_rms_norm_is_its_formula(generator, width):
    x, weight = torch.randn(3, 5, width, generator=generator), torch.randn(width, generator=generator)
    a, w = x.double(), weight.double()
    right = w * a / (a.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert (fused.steps().rms_norm(x, weight, 1e-3) - right).abs().max() <= TOLERANCE
    turned = x.transpose(0, 1)
    assert (fused.steps().rms_norm(turned, weight, 1e-3) - right.transpose(0, 1)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("dim", [2, 6, 64, 80])
def test_rotation_is_its_formula(generator, rows, dim):
    """For positions of each row and for one set of all rows; of heads side by side, as a layer hands them over."""
    x = torch.randn(2, 9, 3, dim, generator=generator).transpose(1, 2)
    cosine, sine = (torch.randn(rows, 9, dim, generator=generator) for _ in range(2))
    a, half = x.double(), dim // 2
    turned = torch.cat([-a[..., half:], a[..., :half]], -1)
    right = a * cosine[:, None].double() + turned * sine[:, None].double()
    for given in (x, x.contiguous(), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert (fused.steps().rotate(given, cosine, sine) - right).abs().max() <= TOLERANCE


def test_the_gate_is_its_formula(generator):
    gate, up = torch.randn(1000, generator=generator) * 30, torch.randn(1000, generator=generator)
    gate[:6] = torch.tensor([0.0, -0.0, 100.0, -100.0, 1e30, -1e30])
    right = nn.functional.silu(gate.double()) * up.double()
    assert torch.allclose(fused.steps().swiglu(gate, up).double(), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 15, 17, 40])
def test_a_number_gets_the_same_wherever_it_stands(generator, count):
    """Encoding a group alone and among others must give the same bits; vectors and what fills none do."""
    gate, up = (torch.randn(64, generator=generator) * 5 for _ in range(2))
    every = fused.steps().swiglu(gate, up)
    assert torch.equal(fused.steps().swiglu(gate[-count:], up[-count:]), every[-count:])


def test_infinite_numbers_and_none_stay(generator):
    x = torch.randn(4, 40, generator=generator)
    x[1, 3], x[2, 39] = torch.nan, torch.inf
    stock = nn.functional.silu(x) * x
    assert torch.equal(torch.isfinite(fused.steps().swiglu(x, x)), torch.isfinite(stock))
    found = fused.steps().rms_norm(x, torch.ones(40), 1e-6)
    assert torch.isfinite(found).all(1).tolist() == [True, False, False, True]


# Which steps each architecture's layers use; the others have another formula (a mean taken off, GELU, half the head).
USED = {
    "llama": {"rms_norm", "rotate", "swiglu"},
    "qwen2": {"rms_norm", "rotate", "swiglu"},
    "qwen3": {"rms_norm", "rotate", "swiglu"},
    "mistral": {"rms_norm", "rotate", "swiglu"},
    "olmo2": {"rms_norm", "rotate", "swiglu"},
    "granite": {"rms_norm", "rotate", "swiglu"},
    "smollm3": {"rms_norm", "rotate", "swiglu"},
    "mixtral": {"rms_norm", "rotate"},
    "gemma2": {"rotate"},
    "cohere": {"swiglu"},
    "gpt2": set(),
}


@pytest.mark.parametrize("kind", USED)
def test_each_architecture_uses_those_that_are_its_own(counted, kind):
    """And hidden states stay within 3e-5 of the untouched model's."""
    model = tiny_model(kind).float()
    ids = torch.arange(40).reshape(2, 20) % model.config.vocab_size
    positions = torch.arange(20).expand(2, 20)
    with torch.inference_mode():
        right = model.get_decoder()(input_ids=ids, position_ids=positions).last_hidden_state
    install_and_forget(model, counted)
    found = hidden_at(model, ids, positions, AttentionCall())
    assert (found - right).abs().max() <= 3e-5
    assert {name for name, count in counted.items() if count} == USED[kind]


def test_outside_a_call_and_with_gradients_modules_are_their_own(counted):
    model = tiny_model("llama").float().requires_grad_()
    install_and_forget(model, counted)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        model(ids)
    assert not any(counted.values())
    with active(AttentionCall()):
        model(ids).logits.sum().backward()
    assert not any(counted.values())
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_stay_as_they_are(counted, dtype):
    model = tiny_model("llama").to(dtype)
    install_and_forget(model, counted)
    hidden_at(model, torch.tensor([[1, 2, 3]]), torch.arange(3)[None], AttentionCall())
    assert not any(counted.values())
    floating = tiny_model("llama").float()
    install_and_forget(floating, counted)
    hidden_at(floating.to(dtype), torch.tensor([[1, 2, 3]]), torch.arange(3)[None], AttentionCall())
    assert not any(counted.values())


def test_a_copy_computes_with_its_own_weights():
    model = tiny_model("llama").float()
    install(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.zero_()
    ids, positions = torch.tensor([[1, 2, 3]]), torch.arange(3)[None]
    assert hidden_at(other, ids, positions, AttentionCall()).abs().max() == 0
    assert hidden_at(model, ids, positions, AttentionCall()).abs().max() > 0


def test_somebody_elses_forward_is_left_alone(counted):
    model = tiny_model("llama").float()
    model.model.norm.forward = lambda states: states * 0
    install_and_forget(model, counted)
    states = hidden_at(model, torch.tensor([[1, 2, 3]]), torch.arange(3)[None], AttentionCall())
    assert states.abs().max() == 0
    assert counted["swiglu"] == model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("query", "key", "cosine"),
    [
        ((2, 4, 5, 8), (2, 2, 5, 8), (2, 1, 8)),  # one position for all tokens
        ((2, 4, 5, 8), (2, 2, 5, 8), (2, 5, 4)),  # half the head
        ((2, 4, 5, 8), (2, 2, 5, 6), (2, 5, 8)),
        ((2, 4, 5, 8), (1, 2, 5, 8), (1, 5, 8)),
        ((2, 4, 5, 7), (2, 2, 5, 7), (2, 5, 7)),
        ((4, 5, 8), (2, 5, 8), (2, 5, 8)),
        ((2, 4, 5, 8), (2, 2, 5, 8), (1, 2, 5, 8)),
    ],
)
def test_other_shapes_are_not_rotated_by_ours(query, key, cosine):
    """They would be read past their end."""
    table = torch.zeros(cosine)
    assert not fused._can_rotate(torch.zeros(query), torch.zeros(key), table, table)


def test_a_norm_and_a_gate_of_other_shapes_stay_their_own(counted):
    """A weight, or a gate, that torch would repeat along the others."""
    model = tiny_model("llama").float()
    install_and_forget(model, counted)
    norm, gated = model.model.norm, model.model.layers[0].mlp
    x = torch.ones(1, 2, model.config.hidden_size)
    with torch.inference_mode(), active(AttentionCall()):
        norm.weight.data = torch.full((1,), 2.0)
        assert torch.allclose(norm(x), torch.full_like(x, 2.0), atol=1e-4)
        gated.up_proj.forward = lambda _: torch.ones(1)
        assert torch.equal(gated(x), gated.down_proj(nn.functional.silu(gated.gate_proj(x))))
    assert not any(counted.values())


def test_functions_and_modules_of_other_signatures_are_not_touched(counted):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.variance_epsilon = 1e-6
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, _states, residual):
            raise KeyError(residual)

    assert not fused._forward_agrees(Other(), fused._norm_forward, 8)
    assert not fused._rotation_agrees(lambda x, _sine: x)
    assert not fused._rotation_agrees(lambda q, *_: q)
    assert not fused._rotation_agrees(lambda q, k, *_: (q, k))


def test_without_a_compiled_library_nothing_changes(monkeypatch):
    monkeypatch.setattr(fused, "steps", lambda: None)
    model = tiny_model("llama").float()
    install(model)
    assert not any("forward" in vars(module) for module in model.modules())
