"""Our kernel for contexts on processors with AMX: against the formula in float64, and what happens without it."""

import platform
import shutil

import pytest
import torch

from lmops_lab.attention import amx, partial
from lmops_lab.attention.native import compiled
from lmops_lab.attention.partial import attend_plainly, attend_shared, backend_of, merge_parts
from tests.attention.missing import MISSING, take_away

# Nats; torch's kernel is within 5e-5.
LSE = 2e-5


@pytest.fixture
def anew():
    """Forget what was found out about this machine, before and after."""

    def forget():
        amx.kernel.cache_clear()
        partial._amx_that_works.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def kernel():
    found = amx.kernel()
    if found is None:
        pytest.skip("this processor has no AMX, or there is no C compiler")
    return found


def inputs(generator, heads, rows, keys, dim, factor=1.0):
    shapes = ((1, heads, rows, dim), (heads, keys, dim), (heads, keys, dim))
    query, key, value = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes)
    return query * factor, key, value


def exact(query, key, value, scale):
    copied = [part.double().expand(len(query), *part.shape) for part in (key, value)]
    return attend_plainly(query.double(), *copied, scale=scale)


@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize(("heads", "rows", "keys"), [(1, 1, 1), (3, 50, 33), (2, 33, 255), (1, 64, 257), (2, 97, 1030)])
def test_it_is_the_formula(kernel, generator, heads, rows, keys, dim):
    """Outputs to bfloat16's rounding (2^-8 of values below 4), log-sum-exps to 2e-5 nats."""
    query, key, value = inputs(generator, heads, rows, keys, dim)
    (out, lse), (right, right_lse) = kernel.attend(query, key, value, dim**-0.5), exact(query, key, value, dim**-0.5)
    assert (out.double() - right).abs().max() <= 2**-6
    assert (out.double() - right).square().mean().sqrt() <= 3e-3
    assert (lse.double() - right_lse).abs().max() <= LSE


@pytest.mark.parametrize("factor", [0.0, 8.0, 60.0])
def test_flat_and_very_sharp_scores(kernel, generator, factor):
    """Scores of hundreds of nats, whose maximum moves from block to block of keys."""
    query, key, value = inputs(generator, 2, 70, 900, 64, factor)
    key = key * torch.linspace(0.1, 2, 900).to(torch.bfloat16)[:, None]
    (out, lse), (right, right_lse) = kernel.attend(query, key, value, 0.125), exact(query, key, value, 0.125)
    assert torch.isfinite(lse).all()
    assert (out.double() - right).abs().max() <= 2**-5
    assert torch.allclose(lse.double(), right_lse, atol=LSE, rtol=1e-5)


@pytest.mark.parametrize("rise", [-300.0, -9.0, 4.0, 9.0, 30.0, 300.0, 20_000.0])
def test_scores_that_rise_or_fall_along_the_keys(kernel, generator, rise):
    """By less and by more than what makes the kernel raise the reference of its exponentials; every second row not."""
    query, key, value = inputs(generator, 2, 66, 1000, 64)
    query[..., 0] = torch.tensor([8.0, 0.0]).repeat(33)
    key[..., 0] = torch.linspace(0, rise, 1000)
    (out, lse), (right, right_lse) = kernel.attend(query, key, value, 0.125), exact(query, key, value, 0.125)
    assert (out.double() - right).abs().max() <= 2**-6
    assert torch.allclose(lse.double(), right_lse, atol=LSE, rtol=1e-6)


def test_keys_that_are_a_view_of_a_longer_context(kernel, generator):
    query, key, value = inputs(generator, 2, 80, 400, 64)
    part = slice(70, 301)
    viewed = kernel.attend(query, key[:, part], value[:, part], 0.125)
    copied = kernel.attend(query, key[:, part].contiguous(), value[:, part].contiguous(), 0.125)
    turned = kernel.attend(query, key[:, part].transpose(1, 2).contiguous().transpose(1, 2), value[:, part], 0.125)
    for one, other, third in zip(viewed, copied, turned, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_the_last_keys_are_not_read_past_their_end(kernel, generator):
    """What lies behind the keys must not matter, be it no number."""
    query, key, value = inputs(generator, 1, 64, 64, 64)
    clean = kernel.attend(query, key[:, :41].clone(), value[:, :41].clone(), 0.125)
    key[:, 41:], value[:, 41:] = float("nan"), float("nan")
    dirty = kernel.attend(query, key[:, :41], value[:, :41], 0.125)
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("laid", ["as rows", "as layers hand it over", "odd begin"])
def test_batches_and_heads_that_share_keys(kernel, generator, laid):
    """Eight rows of 20 tokens, nine heads of which three share their keys, as a model's layer lays them out."""
    query = torch.randn(8, 20, 9, 64, generator=generator).to(torch.bfloat16)
    key, value = (torch.randn(3, 130, 64, generator=generator).to(torch.bfloat16) for _ in range(2))
    if laid == "odd begin":
        query = torch.cat([torch.zeros(1).to(torch.bfloat16), query.flatten()])[1:].view(8, 20, 9, 64)
    query = query.transpose(1, 2)
    query = query.contiguous() if laid == "as rows" else query
    (out, lse), (right, right_lse) = attend_shared(query, key, value, scale=0.125), exact(query, key, value, 0.125)
    assert all(torch.equal(*pair) for pair in zip((out, lse), kernel.attend(query, key, value, 0.125), strict=True))
    assert (out.double() - right).abs().max() <= 2**-6
    assert (lse.double() - right_lse).abs().max() <= LSE
    assert backend_of("cpu", torch.bfloat16).startswith("our AMX kernel for contexts")
    assert "AMX" not in backend_of("cpu", torch.float32)


@pytest.mark.parametrize("lengths", [(20, 1, 7), (20, 20, 20), (3, 19, 5)])
def test_padding_sees_nothing_and_changes_nothing(kernel, generator, lengths):
    query = torch.randn(3, 20, 9, 64, generator=generator).to(torch.bfloat16).transpose(1, 2)
    key, value = (torch.randn(3, 130, 64, generator=generator).to(torch.bfloat16) for _ in range(2))
    out, lse = attend_shared(query, key, value, scale=0.125, lengths=lengths)
    right, right_lse = exact(query, key, value, 0.125)
    for row, length in enumerate(lengths):
        assert (out[row, :, :length].double() - right[row, :, :length]).abs().max() <= 2**-6
        assert (lse[row, :, :length].double() - right_lse[row, :, :length]).abs().max() <= LSE
        assert (out[row, :, length:] == 0).all()
        assert (lse[row, :, length:] == -torch.inf).all()


@pytest.mark.parametrize("log_weight", [0.0, 3.0, -2.5])
@pytest.mark.parametrize("apart", [0.0, 5.0, 200.0, -200.0])
def test_the_merge_is_the_formula(kernel, generator, log_weight, apart):
    left, right = (torch.randn(2, 17, 6, 48, generator=generator).to(torch.bfloat16) for _ in range(2))
    left, right = left.transpose(1, 2), right.transpose(1, 2).contiguous()
    left_lse, right_lse = (torch.randn(2, 6, 17, generator=generator) for _ in range(2))
    right_lse = (right_lse + apart).transpose(1, 2).contiguous().transpose(1, 2)
    out, lse = kernel.merge((left, left_lse), (right, right_lse), log_weight)
    parts = [(left.double(), left_lse.double()), (right.double(), right_lse.double())]
    exact_out, exact_lse = merge_parts(*parts, log_weight)
    assert (out.double() - exact_out).abs().max() <= 2**-8 * exact_out.abs().max()
    assert torch.allclose(lse.double(), exact_lse, rtol=1e-6, atol=1e-6)
    both = merge_parts((left, left_lse), (right, right_lse), log_weight)
    assert all(torch.equal(one, other) for one, other in zip(both, (out, lse), strict=True))


def test_a_part_that_sees_nothing_is_left_out_of_the_merge(kernel, generator):
    out, other = (torch.randn(1, 2, 3, 32, generator=generator).to(torch.bfloat16) for _ in range(2))
    lse, nothing = torch.randn(1, 2, 3, generator=generator), torch.full((1, 2, 3), -torch.inf)
    assert torch.equal(kernel.merge((out, lse), (other, nothing), 1.0)[0], out)
    assert torch.equal(kernel.merge((other, nothing), (out, lse), 0.0)[0], out)


@pytest.mark.parametrize(
    ("rows", "dim", "value_dim", "dtype", "scale"),
    [
        (64, 64, 64, torch.float32, 0.1),
        (64, 64, 32, torch.bfloat16, 0.1),
        (64, 48, 48, torch.bfloat16, 0.1),
        (64, 288, 288, torch.bfloat16, 0.1),
        (63, 64, 64, torch.bfloat16, 0.1),
        (64, 64, 64, torch.bfloat16, -0.1),
    ],
)
def test_what_it_does_not_take(rows, dim, value_dim, dtype, scale):
    shapes = ((1, 2, rows, dim), (2, 9, dim), (2, 9, value_dim))
    query, key, value = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    assert not amx.fits(query, key, value, scale)


def test_what_it_takes():
    query, key = torch.zeros(4, 4, 8, 64, dtype=torch.bfloat16), torch.zeros(2, 9, 64, dtype=torch.bfloat16)
    assert amx.fits(query, key, key, 0.1)
    assert not amx.fits(query, key[:, :0], key[:, :0], 0.1)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("missing", [*MISSING, "wrong answers"])
def test_torch_does_the_work_where_it_is_missing(generator, monkeypatch, tmp_path, missing):
    if missing == "wrong answers":

        def wrong(query, *_):
            return torch.zeros_like(query), torch.zeros(query.shape[:3])

        monkeypatch.setattr(amx, "kernel", lambda: amx.Kernel(wrong, wrong))
    else:
        take_away(missing, monkeypatch, tmp_path)
    assert partial._amx_that_works() is None
    query, key, value = inputs(generator, 2, 64, 90, 64)
    out, lse = attend_shared(query, key, value, scale=0.125)
    right, right_lse = exact(query, key, value, 0.125)
    assert (out.double() - right).abs().max() <= 2**-6
    assert (lse.double() - right_lse).abs().max() <= 1e-3
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.usefixtures("anew")
@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux" or shutil.which("cc") is None,
    reason="needs a C compiler for x86",
)
def test_it_compiles_once_and_again_where_its_file_was_changed(monkeypatch, tmp_path):
    """Also on processors that cannot run it."""
    monkeypatch.setenv("LMOPS_LAB_CACHE", str(tmp_path))
    path = compiled(amx.SOURCE, amx.FLAGS)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert compiled(amx.SOURCE, amx.FLAGS) == path
    assert path.stat().st_mtime_ns == before[1]
    path.write_bytes(before[0][:-1000])
    assert compiled(amx.SOURCE, amx.FLAGS) == path
    assert path.read_bytes() == before[0]
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".sha256", ".so"]
