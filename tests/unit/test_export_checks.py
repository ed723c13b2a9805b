"""The three checks of an export, on logits written by hand: what passes, which check fails first, and what it says."""

import pytest
import torch

from aligner_probe.checkpoints.checking import BASE, CONTROL, Behaviour, Expected, check, difference
from aligner_probe.errors import AlignerProbeError

ZERO = torch.linspace(-5, 5, 60).reshape(2, 3, 10)
#: A direction of which one unit changes the largest logit difference by one.
STEP = torch.zeros_like(ZERO)
STEP[0, 0, 0] = 1.0


def behaviour(distance, continuation=(0, 1, 2, 3), text=None):
    return Behaviour(ZERO + distance * STEP, torch.tensor(continuation), None, text)


def checked(there, *, own=2.0, base=0.0, base_there=0.0, others=(("another", -2.0),), dtype=torch.float32):
    expected = Expected(
        behaviour(own), behaviour(base), {name: behaviour(at) for name, at in others}, "LlamaForCausalLM", dtype
    )
    return check(expected, behaviour(base_there), behaviour(there), consumer="PEFT")


def test_the_three_numbers():
    report = checked(2.0001, others=(("near", 1.0), (CONTROL, -3.0)))
    assert report.base_difference == pytest.approx(2.0001, abs=1e-5)
    assert (report.nearest, report.nearest_difference) == ("near", pytest.approx(1.0001, abs=1e-5))
    assert report.max_logit_difference == pytest.approx(1e-4, abs=1e-5)
    assert report.tolerance == pytest.approx(5e-4)
    assert (report.same_greedy_tokens, report.greedy_tokens, report.n_text_tokens) == (4, 4, 0)
    said = " ".join(report.notes())
    for text in ("base's by 2,", "(near) by 1", "adapter's by 9.99e-05", "at most 0.0005"):
        assert text in said


@pytest.mark.parametrize(
    ("there", "failed"),
    [
        (0.0, "check 'applied' failed: in PEFT the logits differ from the base's by 0, where the adapter changes .* 2"),
        (1e-7, "check 'applied' failed"),
        (-2.0, "check 'right' failed: in PEFT the logits differ from those of another by 0 and from this adapter's"),
        (-1.5, "check 'right' failed: .* another by 0.5"),
        (0.9, f"check 'right' failed: .* {BASE} by 0.9"),
        (1.9, "check 'equal' failed: .* by 0.1 on logits of up to 5"),
        (float("nan"), "check 'applied' failed"),
    ],
)
def test_which_check_fails(there, failed):
    with pytest.raises(AlignerProbeError, match=failed) as caught:
        checked(there)
    assert "nothing was written" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_base_is_not_called_a_wrong_export():
    for base_there in (0.5, float("nan")):
        with pytest.raises(AlignerProbeError, match="Is the plain model the adapter's base"):
            checked(2.0, base_there=base_there)


def test_another_adapter_that_is_this_one():
    with pytest.raises(AlignerProbeError, match=r"check 'right' failed: .* twin by 0 .*is that the same adapter"):
        checked(2.0, others=(("twin", 2.0),))


def test_an_adapter_that_does_nothing_is_not_decided():
    report = checked(0.0, own=0.0)
    assert not report.is_decided
    assert any("not decided" in note and "trained" in note for note in report.notes())
    with pytest.raises(AlignerProbeError, match="check 'equal' failed"):
        checked(0.5, own=0.0)
    # an effect below what the base itself differs by, here and there, cannot be told from rounding
    assert not checked(0.2, own=0.2, base_there=0.3, dtype=torch.bfloat16).is_decided


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_difference_in_16_bits_suggests_float32(dtype):
    with pytest.raises(AlignerProbeError, match=r"try --dtype float32 \(dtype=torch\.float32\)"):
        checked(3.5, dtype=dtype)
    with pytest.raises(AlignerProbeError, match=r"'right' failed.*--dtype float32 .* tells them apart better"):
        checked(-2.0, dtype=dtype)
    with pytest.raises(AlignerProbeError, match=r"try --dtype float32.*the plain model is not the adapter's base"):
        checked(2.0, base_there=1.0, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_difference_in_full_precision_does_not(dtype):
    with pytest.raises(AlignerProbeError, match="check 'equal' failed") as caught:
        checked(3.5, dtype=dtype)
    assert "--dtype" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.05), (torch.bfloat16, 0.2), (torch.float32, 1e-5)])
def test_rounding_passes(dtype, error):
    assert checked(2.0 + error, dtype=dtype).max_logit_difference == pytest.approx(error, rel=0.1)


def test_the_text_counts_too():
    text = torch.zeros(4, 10)
    assert difference(behaviour(0.0, text=text), behaviour(0.0, text=text + 3)) == 3
    assert difference(behaviour(0.0, text=text), behaviour(0.0)) == 0
