"""Our kernel for causal attention in float32: against the formula in float64, and what happens without it."""

import platform
import shutil

import pytest
import torch

from lmops_lab.attention import causal, partial
from lmops_lab.attention.native import FLOAT32, FLOAT32_FLAGS, compiled, float32_library
from lmops_lab.attention.partial import attend, attend_plainly, backend_of
from tests.attention.missing import MISSING, take_away

needs_compiler = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux" or shutil.which("cc") is None,
    reason="needs Linux, an x86 processor and a C compiler",
)


@pytest.fixture
def anew():
    """Forget what was found out about this machine, before and after."""

    def forget():
        for found in (float32_library, causal.kernel, partial._causal_that_works):
            found.cache_clear()

    forget()
    yield
    forget()


def inputs(generator, batch, heads, kv_heads, tokens, dim):
    """As a layer hands them over: heads side by side, turned."""
    return (
        torch.randn(batch, tokens, n, dim, generator=generator).transpose(1, 2) for n in (heads, kv_heads, kv_heads)
    )


def exact(query, key, value, scale):
    return attend_plainly(query.double(), key.double(), value.double(), scale=scale, causal=True)


@needs_compiler
@pytest.mark.parametrize("dim", [8, 20, 64, 80, 128, 256])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "tokens"),
    [(1, 1, 1, 1), (2, 4, 2, 11), (1, 3, 3, 12), (3, 2, 1, 31), (1, 6, 2, 97), (2, 9, 3, 200), (1, 2, 2, 2048)],
)
def test_it_is_the_formula(generator, batch, heads, kv_heads, tokens, dim):
    """Outputs and log-sum-exps within 5e-6: float32's rounding of sums of up to 2,048 numbers."""
    query, key, value = inputs(generator, batch, heads, kv_heads, tokens, dim)
    out, lse = causal.kernel()(query, key, value, dim**-0.5)
    right, right_lse = exact(query, key, value, dim**-0.5)
    assert out.shape == right.shape
    assert (out - right).abs().max() <= 5e-6
    assert (lse - right_lse).abs().max() <= 5e-6


@needs_compiler
@pytest.mark.parametrize("factor", [0.0, 30.0, 1000.0])
def test_flat_and_very_sharp_scores(generator, factor):
    query, key, value = inputs(generator, 1, 2, 1, 130, 32)
    out, lse = causal.kernel()(query * factor, key, value, 0.25)
    right, right_lse = exact(query * factor, key, value, 0.25)
    assert torch.allclose(out.double(), right, atol=1e-3)
    assert torch.allclose(lse.double(), right_lse, rtol=1e-6, atol=1e-5)


@needs_compiler
def test_other_layouts_and_a_number_that_is_none(generator):
    """Turned, sliced and reversed steps; a later token's NaN reaches no block before it."""
    query, key, value = inputs(generator, 2, 2, 2, 60, 32)
    wide = torch.randn(2, 2, 60, 40, generator=generator)
    wide[..., 4:36] = key
    turned = value.transpose(2, 3).contiguous().transpose(2, 3)
    out, _ = causal.kernel()(query.contiguous(), wide[..., 4:36], turned, 0.2)
    assert (out - exact(query, key, value, 0.2)[0]).abs().max() <= 5e-6
    value[:, :, 48:] = torch.nan
    out, _ = causal.kernel()(query, key, value, 0.2)
    assert torch.isfinite(out[:, :, :48]).all()
    assert torch.isnan(out[:, :, 48:]).all()


@needs_compiler
@pytest.mark.parametrize(
    ("tokens", "keys", "dim", "value_dim", "dtype"),
    [
        (95, 95, 64, 64, torch.float32),
        (2049, 2049, 64, 64, torch.float32),
        (96, 97, 64, 64, torch.float32),
        (96, 96, 260, 260, torch.float32),
        (96, 96, 64, 32, torch.float32),
        (96, 96, 64, 64, torch.bfloat16),
        (96, 96, 64, 64, torch.float64),
    ],
)
def test_what_it_does_not_take(tokens, keys, dim, value_dim, dtype):
    shapes = ((1, 2, tokens, dim), (1, 2, keys, dim), (1, 2, keys, value_dim))
    query, key, value = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    assert not causal.fits(query, key, value)


@needs_compiler
def test_attend_takes_it_where_it_fits(generator, monkeypatch):
    calls = []
    real = partial._causal_that_works()

    def counted(*given):
        calls.append(given[0].shape[2])
        return real(*given)

    monkeypatch.setattr(partial, "_causal_that_works", lambda: counted)
    for tokens in (32, 96, 300):
        query, key, value = inputs(generator, 1, 4, 2, tokens, 16)
        out, lse = attend(query, key, value, scale=0.25, causal=True)
        right, right_lse = exact(query, key, value, 0.25)
        assert (out - right).abs().max() <= 5e-6
        assert (lse - right_lse).abs().max() <= 5e-6
    attend(query, key, value, scale=0.25)  # which is not causal
    attend(query, key, value, scale=0.25, causal=True, softcap=5.0)
    assert calls == [96, 300]
    assert "our own kernel for long causal rows" in backend_of("cpu", torch.float32)


@needs_compiler
def test_a_gradient_is_not_lost(generator):
    """The kernel has none, so torch's computes where one is asked for."""
    query, key, value = (part.contiguous() for part in inputs(generator, 1, 2, 1, 120, 16))
    query.requires_grad_()
    attend(query, key, value, scale=0.25, causal=True)[0].square().sum().backward()
    right = query.detach().double().requires_grad_()
    exact(right, key, value, 0.25)[0].square().sum().backward()
    assert torch.allclose(query.grad.double(), right.grad, atol=1e-4)
    with torch.no_grad():
        assert causal.fits(query, key, value)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("missing", [*MISSING, "wrong answers"])
def test_torch_does_the_work_where_it_is_missing(generator, monkeypatch, tmp_path, missing):
    if missing == "wrong answers":
        monkeypatch.setattr(causal, "kernel", lambda: lambda q, *_: (torch.zeros_like(q), torch.zeros(q.shape[:3])))
    else:
        take_away(missing, monkeypatch, tmp_path)
    assert partial._causal_that_works() is None
    query, key, value = inputs(generator, 1, 4, 2, 250, 16)
    out, lse = attend(query, key, value, scale=0.25, causal=True)
    right, right_lse = exact(query, key, value, 0.25)
    assert (out - right).abs().max() <= 1e-5
    assert (lse - right_lse).abs().max() <= 1e-5
    assert "our own" not in backend_of("cpu", torch.float32)
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_another_processor_gets_a_library_of_its_own(monkeypatch, tmp_path):
    """A home folder may be shared by machines, and the compiler builds for the one that it runs on."""
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(tmp_path))
    here = compiled(FLOAT32, FLOAT32_FLAGS)
    assert compiled(FLOAT32, FLOAT32_FLAGS) == here
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert compiled(FLOAT32, FLOAT32_FLAGS) != here


@needs_compiler
def test_narrower_vectors_compute_the_same(generator, monkeypatch, tmp_path):
    """The same source as a processor without AVX-512 compiles it: panels of 16, six rows at a time."""
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr("lmops_lab.attention.native.FLOAT32_FLAGS", (*FLOAT32_FLAGS, "-mno-avx512f"))
    float32_library.cache_clear()
    causal.kernel.cache_clear()
    try:
        narrow = causal.kernel()
        assert narrow.args[1] == 16
        query, key, value = inputs(generator, 2, 4, 2, 101, 40)
        out, lse = narrow(query, key, value, 0.2)
    finally:
        float32_library.cache_clear()
        causal.kernel.cache_clear()
    right, right_lse = exact(query, key, value, 0.2)
    assert (out - right).abs().max() <= 5e-6
    assert (lse - right_lse).abs().max() <= 5e-6
