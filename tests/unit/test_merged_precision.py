"""A merged model in 16 bits that differs from its adapter: the line says which precision to try."""

import pytest
import torch

from aligner_probe.checkpoints.merged import Behaviour, compare
from aligner_probe.errors import AlignerProbeError


def behaviours(difference):
    logits = torch.linspace(-5, 5, 60).reshape(2, 3, 10)
    ids = torch.arange(4)
    return Behaviour(logits, ids), Behaviour(logits + difference, ids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_difference_in_16_bits_suggests_float32(dtype):
    with pytest.raises(AlignerProbeError, match=r"try --dtype float32 \(dtype=torch\.float32\)") as caught:
        compare(*behaviours(1.5), architecture="LlamaForCausalLM", dtype=dtype, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_difference_in_full_precision_does_not(dtype):
    with pytest.raises(AlignerProbeError, match="Is the plain model the adapter's base") as caught:
        compare(*behaviours(1.5), architecture="LlamaForCausalLM", dtype=dtype, seed=0)
    assert "--dtype" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "difference"), [(torch.float16, 0.05), (torch.bfloat16, 0.2), (torch.float32, 1e-5)])
def test_rounding_passes(dtype, difference):
    found = compare(*behaviours(difference), architecture="LlamaForCausalLM", dtype=dtype, seed=0)
    assert found.max_logit_difference == pytest.approx(difference, rel=0.1)
