"""The merge on a CUDA device against the float64 formulas: the gpu tier's own test. Needs nothing but the device."""

import math

import numpy as np
import pytest
import torch

from lmops_lab.attention.partial import attend, attend_shared, merge_parts
from tests.trust import numerics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device; run on a machine with one"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [1, 2, 31, 64])
def test_merging_on_the_device(dtype, groups):
    rng = np.random.default_rng(groups)
    dim, own, size = 16, 8, 24
    query, keys, values = (
        torch.tensor(rng.normal(size=(n, dim))).to("cuda", dtype) for n in (1, groups * size + own, groups * size + own)
    )
    expected, expected_lse = numerics.attention(
        query[0].tolist(),
        keys.tolist(),
        values.tolist(),
        0.25,
        [0.0] * (groups * size) + [math.log(groups)] * own,
    )
    context = attend_shared(query[None, None], keys[None, :-own], values[None, :-own], scale=0.25)
    rest = attend(query[None, None], keys[None, None, -own:], values[None, None, -own:], scale=0.25)
    output, lse = merge_parts(context, rest, math.log(groups))
    largest = max(1.0, float(values.abs().max()))
    error = np.abs(output.double().flatten().cpu().numpy() - expected).max() / largest
    assert error <= numerics.output_bound(dtype, expected_lse, groups)
    assert abs(float(lse) - expected_lse) <= numerics.BOUNDS[dtype]["log_sum_exp"] * max(1.0, abs(expected_lse))
