"""Many adapters of one shape as stacked tensors: each row has the results of its adapter alone."""

import pytest
import tiny
import torch
from generating import prompts, word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import ROWS, VARIANTS, moved, opened, shaken

import aligner_probe as ap
from aligner_probe.adapters import Aligner, LoRA, OutputBias, PrefixTuning
from aligner_probe.adapters.pool import FIRST_BLOCK, AdapterPool, together
from aligner_probe.adapters.registry import adapter_class
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate_ids
from aligner_probe.evaluation.by_adapter import each_its_adapter
from aligner_probe.models import load_model

POOLED = [name for name, (method, options, _) in ROWS.items() if not adapter_class(method).not_pooled(options)]
WHICH = [2, 0, None, 1, 2]


def of(name, model, n=3):
    return [opened(VARIANTS[name](model, seed), seed=seed, size=0.3) for seed in range(n)]


def alone(model, adapters, which, rows):
    """Logits of each row by itself, under its adapter."""
    for index, row in zip(which, rows, strict=True):
        if index is None:
            yield model(row[None])[0]
        else:
            with adapters[index].attached():
                yield model(row[None])[0]


@pytest.mark.parametrize("name", POOLED)
def test_each_row_has_the_logits_of_its_adapter(name):
    model, ids = tiny.bridge("llama_gqa", torch.float64), tiny.tokens(batch=len(WHICH))
    adapters = [adapter.double() for adapter in of(name, model)]
    pool = AdapterPool(adapters)
    with torch.no_grad():
        with pool.attached(), pool.rows(WHICH):
            logits = model(ids)
        for row, wanted in zip(logits, alone(model, adapters, WHICH, ids), strict=True):
            assert (row - wanted).abs().max() < 1e-10
        assert (logits - model(ids)).abs().amax((1, 2))[[0, 1, 3, 4]].min() > 1e-3
        with pool.attached(), pool.only(1):
            whole = model(ids)
        with adapters[1].attached():
            assert (model(ids) - whole).abs().max() < 1e-10


@pytest.mark.parametrize("family", ["gpt2", "neox", "qwen3", "gemma2"])
def test_families_whose_query_is_come_by_otherwise(family):
    model, ids = tiny.bridge(family, torch.float64), tiny.tokens(batch=len(WHICH))
    for name in ("aligner-5", "lora all linear"):
        adapters = [adapter.double() for adapter in of(name, model)]
        pool = AdapterPool(adapters)
        with torch.no_grad(), pool.attached(), pool.rows(WHICH):
            logits = model(ids)
        with torch.no_grad():
            for row, wanted in zip(logits, alone(model, adapters, WHICH, ids), strict=True):
                assert (row - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("family", ["llama_gqa", "mistral_window"])
def test_thirty_two_in_one_batch_give_the_tokens_of_separate_runs(family):
    model = tiny.bridge(family)
    adapters = [opened(Aligner(model, 1, 1, seed=seed), seed=seed) for seed in range(32)]
    rows = prompts([1 + (5 * i) % 11 for i in range(33)], seed=4)
    which = [*range(31, -1, -1), None]
    options = {"max_new_tokens": 12, "ending": lambda new: len(new) > new[0] % 9}
    with each_its_adapter(model, adapters, which, len(rows)):
        answers = generate_ids(model, rows, **options)
    separate = []
    for index, row in zip(which, rows, strict=True):
        with each_its_adapter(model, [adapters[index]] if index is not None else None, None, 1):
            separate += generate_ids(model, [row], **options)
    assert answers == separate
    assert len({len(answer) for answer in answers}) > 4
    assert answers != generate_ids(model, rows, **options)


def test_thirty_two_on_the_micro_world():
    model = load_model("microworld")
    adapters = [shaken(Aligner(model, 1, 2, seed=seed), seed=seed) for seed in range(32)]
    words = sorted(piece for piece in model.tokenizer.get_vocab() if piece.isalpha())
    asked = [" ".join(words[(7 * i + 3 * j) % len(words)] for j in range(1 + (5 * i) % 9)) for i in range(32)]
    options = {"max_new_tokens": 16, "stop": ["\n"]}
    answers = ap.generate(model, asked, adapters=adapters, **options)
    separate = []
    for adapter, one in zip(adapters, asked, strict=True):
        with adapter.attached():
            separate += ap.generate(model, one, **options)
    assert answers == separate
    assert len({len(text.split()) for text in answers}) > 3
    assert answers != ap.generate(model, asked, **options)
    pool = AdapterPool(adapters)
    assert ap.generate(model, asked, adapters=pool, which=range(32), batch_size=5, **options) == separate
    drawn = {"adapters": pool, "which": range(32), "temperature": 0.9, **options}
    first = ap.generate(model, asked, seed=1, **drawn)
    assert ap.generate(model, asked, seed=1, batch_size=3, **drawn) == first
    assert ap.generate(model, asked, seed=2, **drawn) != first


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 14), st.sampled_from([0, 1, 2, None])), min_size=1, max_size=8),
    st.integers(1, 5),
    st.sampled_from(["aligner-5", "lora", "output bias"]),
)
def test_rows_keep_their_adapters_in_any_batch(drawn, batch_size, name):
    model = tiny.frozen("llama_gqa")
    adapters, rows = of(name, model), prompts([length for length, _ in drawn], seed=7)
    which = [index for _, index in drawn]
    options = {"max_new_tokens": 6, "ending": lambda new: len(new) > new[0] % 5, "batch_size": batch_size}
    answers = []
    for shared in (AdapterPool(adapters), SideBySide(adapters)):
        with shared.attached(), shared.rows(which):
            answers.append(generate_ids(model, rows, **options))
    assert answers[0] == answers[1]


def parameters_of(adapter):
    return {name: tensor.clone() for name, tensor in adapter.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.just("add"), st.integers(0, 99)), max_size=3 * FIRST_BLOCK))
def test_adapters_come_and_go_and_the_others_stay(steps):
    """A dictionary says what the pool holds; a number takes out one of those that are there."""
    model = tiny.frozen("llama_gqa")
    start = [opened(Aligner(model, 1, 1), seed=seed) for seed in range(2)]
    pool = AdapterPool(start)
    held = {index: parameters_of(one) for index, one in enumerate(start)}
    first = pool.tensors()["prefix"].data_ptr()
    for number, step in enumerate(steps):
        if step == "add":
            new = opened(Aligner(model, 1, 1), seed=100 + number)
            index = pool.add(new)
            assert index not in held
            held[index] = parameters_of(new)
        elif held:
            index = sorted(held)[step % len(held)]
            pool.remove(index)
            del held[index]
    assert len(pool) == len(held)
    assert {index for index in range(pool.n_indices) if index in pool} == set(held)
    assert all(same(parameters_of(pool.adapter(index)), its) for index, its in held.items())
    assert pool._blocks[0].tensors["prefix"].data_ptr() == first


def test_a_saved_pool_is_mapped_and_the_file_stays_as_it_is(tmp_path):
    model = tiny.frozen("llama_gqa")
    adapters = of("aligner-5", model, n=4)
    pool = AdapterPool(adapters)
    pool.remove(2)
    ap.save_pool(pool, tmp_path / "pool")
    content = (tmp_path / "pool" / "pool.safetensors").read_bytes()
    again = ap.open_pool(tmp_path / "pool", model)
    assert [again.n_indices, again.removed, len(again)] == [4, (2,), 3]
    assert all(same(parameters_of(again.adapter(i)), parameters_of(adapters[i])) for i in (0, 1, 3))
    new = opened(VARIANTS["aligner-5"](model, 9), seed=9)
    assert again.add(new) == 2
    assert again.add(new) == 4
    assert same(parameters_of(again.adapter(2)), parameters_of(new))
    assert (tmp_path / "pool" / "pool.safetensors").read_bytes() == content
    ap.save_pool(again, tmp_path / "more")
    more = ap.open_pool(tmp_path / "more", model)
    assert len(more) == 5
    assert same(parameters_of(more.adapter(3)), parameters_of(adapters[3]))
    with pytest.raises(AlignerProbeError, match="exists already"):
        ap.save_pool(again, tmp_path / "more")
    with pytest.raises(AlignerProbeError, match=r"saved|trained on another base"):
        ap.open_pool(tmp_path / "pool", tiny.frozen("llama"))
    with pytest.raises(AlignerProbeError, match="cannot be read"):
        ap.open_pool(tmp_path / "nowhere", model)
    record = (tmp_path / "more" / "pool.json").read_text()
    for old, new, says in (
        ('"indices": 5', '"indices": 4', "expected"),
        ('"n_tokens": 5', '"n_tokens": 4', "expected"),
        ('"method": "aligner"', '"method": "alinger"', "did you mean aligner"),
        ('"dtype": "float32"', '"dtype": "int8"', "wrong dtype"),
        ('"removed": []', '"removed": [99]', "wrong removed"),
        ('"format_version": 1', '"format_version": 2', "no pool that this version reads"),
    ):
        assert old in record
        (tmp_path / "more" / "pool.json").write_text(record.replace(old, new))
        with pytest.raises(AlignerProbeError, match=says) as error:
            ap.open_pool(tmp_path / "more", model)
        assert "\n" not in str(error.value)


def test_what_shares_no_pool_is_refused_in_one_line():
    model = tiny.frozen("llama_gqa")
    one = Aligner(model, 1, 1)
    for wrong, says in (
        ([PrefixTuning(model, 2)], "prefix_tuning has no computation"),
        ([VARIANTS["prompt tuning"](model, 0)], "prompt_tuning has no computation"),
        ([OutputBias(model, subspace=3, start_layer=1)], "output_bias in a random subspace"),
        ([one, LoRA(model, 2)], "aligner and lora share no pool"),
        ([one, Aligner(model, 2, 1)], "aligner with n_tokens 1 and with 2 share no pool"),
        ([one, Aligner(model, 1, 2)], "aligner with start_layer 1 and with 2 share no pool"),
        ([one, Aligner(model, 1, 1, dtype=torch.bfloat16)], "one data type"),
        ([one, Aligner(tiny.frozen("llama"), 1, 1)], "different models"),
        ([], "no adapters for a pool"),
        (["one"], "expected adapters of one method"),
    ):
        with pytest.raises(AlignerProbeError, match=says) as error:
            AdapterPool(wrong)
        assert "\n" not in str(error.value)
    AdapterPool([one, Aligner(model, 1, 1, seed=5, train="gates", initial_gate=0.1)])
    other = with_tokenizer()
    with pytest.raises(AlignerProbeError, match="prompt_tuning does not work row by row"):
        ap.generate(other, ["w1"], adapters=[VARIANTS["prompt tuning"](other, 0)])


def with_tokenizer():
    """A model with a tokenizer of whole words."""
    model = tiny.bridge("llama_gqa")
    model.tokenizer = word_tokenizer()
    return model


def test_what_is_said_of_the_rows_has_to_fit():
    model = with_tokenizer()
    one, other, third = moved(Aligner(model, 1, 1)), moved(Aligner(model, 1, 1, seed=1)), moved(LoRA(model, 2))
    asked = ["w1 w2", "w3", "w4 w5 w6"]
    for options, says in (
        ({"which": [0, 0, 0]}, "which names adapters, and there are none"),
        ({"adapters": [one, other]}, "3 prompts and 2 adapters, and it is not said"),
        ({"adapters": AdapterPool([one])}, "3 prompts and a pool, and it is not said"),
        ({"adapters": [one, other], "which": [0, 1]}, "3 prompts, and which has 2 indices"),
        ({"adapters": [one, other], "which": [0, 1, 2]}, "which names adapter 2, and there are 2"),
        ({"adapters": AdapterPool([one]), "which": [0, 1, None]}, "adapter 1, which is not among the 1 of the pool"),
        ({"adapters": [one], "which": ["0", 0, 0]}, "for each prompt the index"),
        ({"adapters": ["out/adapter"]}, r"ap.load_adapter\(PATH, model\)"),
        ({"adapters": [Aligner(tiny.frozen("llama_gqa"), 1, 1)]}, "another model object"),
        ({"temperature": -1.0}, "temperature -1.0; expected 0"),
        ({"top_k": 5}, "give a temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0; expected more than 0"),
        ({"temperature": 1.0, "top_k": 0}, "top_k 0; expected 1 or more"),
        ({"temperature": 1.0, "seed": [1, 2]}, "3 prompts and 2 seeds"),
        ({"temperature": 1.0, "seed": -1}, "a whole number from 0 up"),
    ):
        with pytest.raises(AlignerProbeError, match=says) as error:
            ap.generate(model, asked, max_new_tokens=3, **options)
        assert "\n" not in str(error.value)
    with one.attached(), pytest.raises(AlignerProbeError, match="attached already"):
        ap.generate(model, asked, adapters=[one], max_new_tokens=3)
    mixed = ap.generate(model, asked, adapters=[one, third, one], max_new_tokens=5)
    again = ap.generate(model, asked, adapters=[one, third], which=[0, 1, 0], max_new_tokens=5)
    assert mixed == again
    with third.attached():
        assert mixed[1:2] == ap.generate(model, asked[1:2], max_new_tokens=5)
    assert isinstance(together([one, third]), SideBySide)
    assert isinstance(together([one, other]), AdapterPool)
