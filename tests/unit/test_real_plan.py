"""Plans of any base model: the cells, the course of the published learning rate at a smaller scale, and arithmetic."""

import json

import pytest
import real_runs
from conftest import ROOT

from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction.cells import EXPERIMENTS
from aligner_probe.reproduction.costs import ALPACA, PAIRS, cost_of, is_here, n_trained, sizes_named
from aligner_probe.reproduction.real_plan import published_cell, published_recipe, real_cells
from aligner_probe.reproduction.scales import LAPTOP, PAPER, half_width, lacks, scale_named
from aligner_probe.reproduction.source import Stage
from aligner_probe.sizes import LLAMA2_7B, LLAMA2_13B
from aligner_probe.tasks import Example, Task
from aligner_probe.training import recipe


def task(n):
    return Task("t", "sft", tuple(Example(f"q{i}", f" a{i}") for i in range(n)))


@pytest.mark.parametrize("scale", [LAPTOP, PAPER, real_runs.TINY], ids=lambda scale: scale.name)
def test_plan_has_every_experiment_method_recipe_and_seed_once(scale):
    cells = real_cells(scale, EXPERIMENTS, 576)
    assert len({cell.id for cell in cells}) == len(cells)
    assert [cell.experiment for cell in cells if cell.is_base] == list(EXPERIMENTS)
    main = {(c.experiment, c.method, c.seed) for c in cells if c.recipe == "corrected"}
    assert main == {(e, m, s) for e in EXPERIMENTS for m in scale.methods[e] for s in scale.seeds}
    published = {(c.experiment, c.method) for c in cells if c.recipe == "as-published" and c.arm == "main"}
    assert published == {(e, m) for e in EXPERIMENTS for m in scale.published[e]}
    for cell in cells:
        assert set(cell.lr) == (set() if cell.is_base else {"sft", "dpo"} if cell.experiment == "safety" else {"sft"})


def test_the_papers_token_counts_are_in_its_scale():
    assert [m for m in PAPER.methods["math"] if m.startswith("aligner")] == [f"aligner-{n}" for n in (1, 10, 100, 300)]


def test_rates_are_the_published_ones_and_follow_width():
    cell = published_cell("safety", "aligner-1", 1337)
    assert cell.lr == {"sft": 9e-3, "dpo": 1e-4}
    assert published_cell("math", "lora-8", 1337).lr == {"sft": 3e-4}
    assert published_cell("math", "aligner-10", 1337, "tenth-rate").lr == {"sft": 9e-4}
    rates = [
        next(c for c in real_cells(LAPTOP, ("math",), d) if c.method == "lora-8").lr["sft"] for d in (576, 1152, 4096)
    ]
    assert rates[0] == pytest.approx(2 * rates[1], rel=0.05)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("experiment", "peak"), [("instructions", 0.5), ("math", 1.0)])
def test_the_published_rate_takes_the_same_course_at_a_smaller_scale(experiment, peak):
    """Eight epochs of a warm-up that lasts sixteen: half of the rate is reached. MetaMath's warm-up ends in time."""
    cell = published_cell(experiment, "aligner-1", 1337)
    stage = Stage("sft", task(960), task(4))
    short = published_recipe(cell, stage, 48, 16, 256)
    whole = published_recipe(cell, Stage("sft", task(52_002), task(4)), None, None, 256)
    assert short.total_steps(960) == 48
    assert short.accumulation == whole.accumulation == 8
    for how, n in ((short, 960), (whole, 52_002)):
        last = how.total_steps(n)
        assert how.lr_at(last, n) == pytest.approx(peak * 9e-3, rel=0.01)
        assert how.lr_at(last // 4, n) == pytest.approx(
            9e-3 * min(1.0, {"instructions": 1 / 8, "math": 5 / 16}[experiment]), rel=0.05
        )
    assert whole == recipe("as-published", lr=9e-3, epochs=whole.epochs, warmup=whole.warmup, max_length=256, seed=1337)


def test_what_a_scale_cannot_decide_is_said_with_its_numbers():
    said = " ".join(lacks(LAPTOP))
    for words in ("--judge", "One seed", f"60 items of GSM8K: {half_width(60):.2f}", "768", "by their words"):
        assert words in said
    assert "One seed" not in " ".join(lacks(PAPER))
    assert half_width(60) == pytest.approx(0.1265, abs=1e-3)
    with pytest.raises(AlignerProbeError, match="there are laptop, paper"):
        scale_named("phone")


def test_arithmetic_counts_four_operations_a_parameter_and_token():
    sizes = sizes_named("meta-llama/Llama-2-7b-hf")
    assert sizes.shape == LLAMA2_7B
    assert sizes_named("meta-llama/Llama-2-13b-chat-hf").shape == LLAMA2_13B
    [asked, run] = [
        next(c for c in real_cells(PAPER, ("instructions",), 4096) if c.method == method)
        for method in ("base", "aligner-1")
    ]
    trained = cost_of(run, PAPER, sizes).operations - cost_of(asked, PAPER, sizes).operations
    assert trained == pytest.approx(4 * 6_738_415_616 * 3 * ALPACA[0] * ALPACA[1])
    memory = cost_of(run, PAPER, sizes).memory
    assert memory is not None
    assert memory.base == 2 * 6_738_415_616
    assert 13.5e9 < memory.total < 80e9
    assert cost_of(asked, PAPER, sizes).memory is None


@pytest.mark.parametrize(("scale", "trained", "compared"), [(PAPER, 3 * PAIRS[0], PAIRS[0]), (LAPTOP, 24 * 8, 320)])
def test_the_reference_of_dpo_is_computed_once(scale, trained, compared):
    """It was counted in each of three epochs."""
    sizes = sizes_named("meta-llama/Llama-2-7b-hf")
    sft, safety = (
        next(c for c in real_cells(scale, (experiment,), 4096) if c.method == "aligner-1")
        for experiment in ("instructions", "safety")
    )
    asked = {e: cost_of(real_cells(scale, (e,), 4096)[0], scale, sizes).operations for e in ("instructions", "safety")}
    both = cost_of(safety, scale, sizes).operations - asked["safety"]
    dpo = both - (cost_of(sft, scale, sizes).operations - asked["instructions"])
    short = 0 if scale.steps is None else 4 * 16 * (scale.steps["instructions"] - scale.steps["safety"]) * ALPACA[1]
    expected = PAIRS[1] * (4 * trained + 2 * compared) - short
    assert dpo / sizes.shape.n_parameters == pytest.approx(expected, rel=1e-6)


def test_sizes_of_methods_are_those_of_table_1_and_unknown_bases_are_refused(tmp_path):
    assert [n_trained(m, LLAMA2_7B) for m in ("aligner-1", "aligner-300", "llama-adapter-10", "lora-8")] == [
        5_056, 1_229_760, 1_229_760, 4_194_304,
    ]  # fmt: skip
    with pytest.raises(AlignerProbeError, match="expected a folder with config"):
        sizes_named("somebody/something")
    (tmp_path / "config.json").write_text('{"n_embd": 48}')
    with pytest.raises(AlignerProbeError, match="does not state the sizes of a Llama"):
        sizes_named(str(tmp_path))


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_a_base_model_is_here_where_all_its_weights_are(place, tmp_path, monkeypatch):
    """A config.json alone was taken for a base model: a dry run then failed, or it downloaded the weights."""
    model, folder = str(tmp_path / "base"), tmp_path / "base"
    if place == "cache":
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        model, stored = "owner/base", tmp_path / "models--owner--base"
        folder = stored / "snapshots" / "abc"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text("abc")
    folder.mkdir(parents=True)
    assert not is_here(model)
    config = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 16}))
    assert not is_here(model)
    assert sizes_named(model).shape.d_model == 8
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    for number in (1, 2):
        assert not is_here(model)
        (folder / f"model-{number}.safetensors").touch()
    assert is_here(model)
    index.unlink()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert not is_here(model)
    (folder / "pytorch_model.bin").touch()
    assert is_here(model)


def test_sizes_are_counted_from_a_config_as_the_model_has_them(tmp_path):
    from aligner_probe.models import load_model, n_base_parameters

    folder = real_runs.folder_of(tmp_path / "base")
    assert sizes_named(str(folder)).shape.n_parameters == n_base_parameters(load_model(folder))


def test_the_documentation_has_the_numbers_that_the_command_prints():
    text = " ".join((ROOT / "docs" / "reproduce.md").read_text().split())
    hours, most = {}, {}
    for name in ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"):
        sizes = sizes_named(name)
        cells = real_cells(PAPER, EXPERIMENTS, sizes.shape.d_model)
        costs = [cost_of(cell, PAPER, sizes) for cell in cells]
        hours[name] = round(sum(cost.seconds for cost in costs) / 3600, -1)
        most[name] = round(max(cost.memory.total for cost in costs if cost.memory is not None) / 1e9)
    (seven, thirteen), (small, large) = hours.values(), most.values()
    assert f"these are {len(cells)} runs, about {seven:.0f} hours of one A100 with at most {small} GB each" in text
    assert f"for 13B, about {thirteen:,.0f} hours and {large} GB" in text
