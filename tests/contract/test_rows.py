"""Each row of a batch under its own adapter while answers are generated: the tokens of separate runs, exactly."""

import pytest
import tiny
import torch
from generating import prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import moved

from aligner_probe.adapters import Aligner, LoRA, PrefixTuning, PromptTuning
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate, generate_ids
from aligner_probe.models import load_model


def ends_early(new):
    """Rows finish at different moments: it hangs on what they say."""
    return len(new) > new[0] % 7


def separately(model, adapters, which, rows, **options):
    """The rows of each adapter by themselves, and put together again."""
    found = [None] * len(rows)
    for place in set(which):
        its = [row for row, its_place in enumerate(which) if its_place == place]
        if place is None:
            said = generate_ids(model, [rows[i] for i in its], **options)
        else:
            with adapters[place].attached():
                said = generate_ids(model, [rows[i] for i in its], **options)
        for row, one in zip(its, said, strict=True):
            found[row] = one
    return found


@pytest.fixture(scope="module")
def tiny_adapters():
    model = tiny.bridge("llama_gqa")
    return model, [moved(Aligner(model, 3, 1, seed=1)), moved(LoRA(model, 2, seed=2)), moved(Aligner(model, 1, 1))]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 14), st.sampled_from([0, 1, 2, None])), min_size=1, max_size=10),
    st.integers(1, 7),
    st.integers(0, 99),
)
def test_tokens_are_those_of_separate_runs(tiny_adapters, drawn, batch_size, seed):
    model, adapters = tiny_adapters
    rows, which = prompts([length for length, _ in drawn], seed), [place for _, place in drawn]
    options = {"max_new_tokens": 9, "ending": ends_early, "batch_size": batch_size}
    together = SideBySide(adapters)
    with together.attached(), together.rows(which):
        found = generate_ids(model, rows, **options)
    assert found == separately(model, adapters, which, rows, **options)


@pytest.mark.parametrize("family", ["gpt2", "neox", "mistral_window", "gemma2"])
def test_families_whose_query_is_come_by_otherwise(family):
    model, rows = tiny.bridge(family), prompts([7, 2, 5, 2, 9, 1])
    adapters = [moved(Aligner(model, 3, 1, seed=1)), moved(PrefixTuning(model, 2, seed=2)), moved(LoRA(model, 2))]
    which = [2, 0, 1, 0, None, 2]
    options = {"max_new_tokens": 8, "ending": ends_early}
    together = SideBySide(adapters)
    with together.attached(), together.rows(which):
        found = generate_ids(model, rows, **options)
    assert found == separately(model, adapters, which, rows, **options)
    assert len({len(row) for row in found}) > 1


def test_on_counts_rows_in_the_order_of_the_prompts_on_the_micro_world():
    """Three adapters with prompts of many lengths, and answers that end at different moments."""
    model = load_model("microworld")
    generator = torch.Generator().manual_seed(1)
    adapters = [Aligner(model, 1, 2), Aligner(model, 10, 2, seed=1), LoRA(model, 4, seed=2)]
    with torch.no_grad():
        for adapter in adapters:
            for p in adapter.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    vocabulary = sorted(piece for piece in model.tokenizer.get_vocab() if piece.isalpha())
    asked = [" ".join(vocabulary[(7 * i + 3 * j) % len(vocabulary)] for j in range(1 + (5 * i) % 9)) for i in range(12)]
    options = {"max_new_tokens": 24, "stop": ["\n"]}
    wanted = []
    for place, adapter in enumerate(adapters):
        with adapter.attached():
            wanted += generate(model, asked[4 * place : 4 * place + 4], **options)
    together = SideBySide(adapters)
    with together.attached(), together.on([4, 4, 4]):
        assert generate(model, asked, batch_size=7, **options) == wanted
        assert generate(model, asked, **options) == wanted
    assert len({len(text.split()) for text in wanted}) > 3
    assert wanted != generate(model, asked, **options)


def test_where_rows_and_prompts_disagree_nothing_is_computed(tiny_adapters):
    model, adapters = tiny_adapters
    together = SideBySide(adapters)
    with together.attached():
        with together.on([2, 1, 1]), pytest.raises(AlignerProbeError, match=r"3 prompts, .* for 4; expected one row"):
            generate_ids(model, prompts([3, 3, 3]), max_new_tokens=2)
        with together.on([1, 1, 1]), pytest.raises(AlignerProbeError, match=r"a batch of 2 rows.* for 3 rows"):
            model(torch.tensor([[1, 2], [3, 4]]))
        with together.on([1, 1, 1]), pytest.raises(AlignerProbeError, match=r"a batch of 1 rows.* for 3 rows"):
            model(torch.tensor([[1, 2]]))
        with pytest.raises(AlignerProbeError, match=r"adapter 3, and there are 3 side by side; expected 0 to 2"):
            together.rows([0, 3]).__enter__()
        with together.only(1):
            found = generate_ids(model, prompts([4, 2]), max_new_tokens=3)
    with adapters[1].attached():
        assert generate_ids(model, prompts([4, 2]), max_new_tokens=3) == found


def test_one_adapter_is_at_work_on_all_rows_as_ever():
    model = tiny.bridge("llama_gqa")
    adapter = PromptTuning(model, 2)
    assert adapter.n_rows is None
    with adapter.attached(), adapter.selected([1, 0]):
        assert adapter.n_rows is None
