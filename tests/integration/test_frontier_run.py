"""A small frontier on the micro-world: its readings, its ways to ask, resumed and read back to the same numbers."""

import json
from dataclasses import replace

import micro
import numpy as np
import pytest
from probes import TINY, styled

from aligner_probe.arms.names import PROMPT
from aligner_probe.commands import probe as command
from aligner_probe.commands import run as run_command
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import load_model
from aligner_probe.probing import bench as benches
from aligner_probe.probing import frontier_cells
from aligner_probe.probing.frontier import REPORT, carry_out_frontier, new_frontier, read_frontier
from aligner_probe.probing.frontier_plan import frontier_plan
from aligner_probe.probing.inputs import load_parts
from aligner_probe.probing.off_domain import N_ITEMS, off_domain_of
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_ending, with_off_domain
from aligner_probe.probing.prompts import Prompting
from aligner_probe.tasks.task import Example, Task

ARMS = ("aligner-1", "lora-8", "prompt-tuning-10")


@pytest.fixture(scope="module")
def model():
    return load_model("microworld")


def small(model, **changes):
    """A frontier of a few steps of a known form."""
    given = load_parts("panel:style_pirate")
    named = {"arms": ARMS, "rates": 2, "lengths": (1, 3), "seeds": 2, "batch_size": 8, "n_form": 6, "n_off_domain": 8}
    plan = frontier_plan(**(named | changes))
    return new_frontier(with_ending(new_probe(model, given.train, test=given.test, budget=plan.budget)).bench, plan)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("frontier")
    return out, carry_out_frontier(small(model), out, show_progress=False)


def readings(content):
    return json.dumps([content["readings"], content["before"], content["K"]], sort_keys=True)


def test_every_arm_is_read_at_every_rate_length_and_seed(whole):
    _, content = whole
    trained = [one for one in content["readings"] if one["arm"] != PROMPT]
    read = {(one["arm"], one["rate"], one["steps"], one["seed"]) for one in trained}
    assert len(read) == len(trained) == 3 * 2 * 2 * 2
    assert {len(one["form"]) for one in content["readings"]} == {6}
    assert {len(one["kept"]) for one in content["readings"]} == {8}
    assert content["form"]["kind"] == "format"
    assert content["before_right"] > 0.8  # the base model knows sums
    assert content["rates"]["lora-8"] == [0.0047, 0.015]
    assert {one["setting"] for one in content["readings"] if one["arm"] == PROMPT} >= {"1-shot, draw 0"}


def test_a_report_is_read_back_to_the_same_numbers(whole):
    out, content = whole
    read, made = read_frontier(out / REPORT)
    assert read == json.loads(json.dumps(content))
    for arm in made.arms:
        reported, again = content["K"]["0.95"][arm], made.most_kept(arm)
        assert again.said == reported["said"]
        assert again.best_form == pytest.approx(reported["best_form"])


def test_a_reading_is_that_of_a_training_of_so_many_steps(whole, model, tmp_path):
    alone = carry_out_frontier(small(model, lengths=(1,), seeds=1), tmp_path, show_progress=False)
    of = {(one["arm"], one["setting"], one["seed"]): one for one in whole[1]["readings"]}
    for one in alone["readings"]:
        assert of[one["arm"], one["setting"], one["seed"]] == one


@pytest.mark.slow
def test_an_interruption_changes_no_number(whole, model, tmp_path, monkeypatch):
    stepped = frontier_cells._Reader.stepped

    def killed(self, row):
        stepped(self, row)
        if row["step"] == 2 and "lora-8_seed1" in str(self.file):
            raise KeyboardInterrupt

    monkeypatch.setattr(frontier_cells._Reader, "stepped", killed)
    with pytest.raises(KeyboardInterrupt):
        carry_out_frontier(small(model), tmp_path, show_progress=False)
    monkeypatch.setattr(frontier_cells._Reader, "stepped", stepped)
    with pytest.raises(AlignerProbeError, match="--resume"):
        carry_out_frontier(small(model), tmp_path, show_progress=False)
    with pytest.raises(AlignerProbeError, match="another task, base or plan"):
        carry_out_frontier(small(model, seeds=1), tmp_path, resume=True, show_progress=False)
    resumed = carry_out_frontier(small(model), tmp_path, resume=True, show_progress=False)
    assert readings(resumed) == readings(whole[1])


def test_off_domain_items_are_asked_after_the_examples_of_the_task(model, monkeypatch):
    asked = []
    score_task = benches.score_task

    def recorded(model, task, *rest, **options):
        asked.append(task)
        return score_task(model, task, *rest, **options)

    monkeypatch.setattr(benches, "score_task", recorded)
    made = small(model)
    shot = Example("Q: what is the pet of a?\nA:", " ahoy, cat, matey.")
    made.bench.kept(Prompting("shown", (shot,), 1))
    [task] = asked
    for prompt, item in zip(task.prompts, made.bench.off_domain.examples, strict=True):
        assert prompt == f"{shot.prompt}{shot.completion}\n{item.prompt}"


def test_there_are_as_many_off_domain_items_as_are_asked_for(model):
    task = styled()
    assert len(off_domain_of(model, task)) == N_ITEMS
    more = off_domain_of(model, task, n_items=100)
    assert len(more) == len(set(more.prompts)) == 100


def test_a_base_model_without_questions_of_its_own_says_what_to_give(model):
    sums = [Example(f"Q: what is 0{n} plus 01?\nA:", f" 0{n + 1}.", str(n)) for n in range(9)]
    facts = load_parts("panel:style_pirate").train.examples[:60]
    both = Task("both", "sft", (*facts, *sums))
    with pytest.raises(AlignerProbeError, match="--off-domain FILE"):
        new_frontier(new_probe(model, both).bench, frontier_plan())


def test_a_base_model_that_knows_nothing_has_nothing_to_keep(tmp_path):
    plan = frontier_plan(arms=("lora-8",), rates=1, lengths=(1,), seeds=1, batch_size=4, n_form=2, n_off_domain=4)
    made = new_frontier(with_ending(new_probe(str(micro.base()), styled(), budget=plan.budget)).bench, plan)
    with pytest.raises(AlignerProbeError, match="nothing to keep"):
        carry_out_frontier(made, tmp_path, show_progress=False)


@pytest.mark.slow
def test_a_probe_makes_a_small_frontier_of_its_own(model, tmp_path):
    given = load_parts("panel:style_pirate")
    budget = replace(TINY, arms=(*ARMS, "reference-shuffled"), n_off_domain=8)
    probe = with_off_domain(new_probe(model, given.train, test=given.test, budget=budget))
    result = carry_out_probe(probe, tmp_path, show_progress=False)
    frontier = result.report["frontier"]
    assert {arm: one["tried"] for arm, one in frontier["K"]["0.95"].items()} == {
        "prompt": 1, "aligner-1": 6, "lora-8": 6, "prompt-tuning-10": 6,
    }  # fmt: skip
    most = frontier["K"]["0.95"]["aligner-1"]["kept"]
    assert result.report["K"]["value"] == (None if most is None else most["value"])
    assert result.report["kept_at_task_rate"]["value"] == result.gathered.kept["aligner-1"].kept.value
    assert "readings" not in frontier
    content, made = read_frontier(tmp_path / "frontier" / REPORT)
    assert len(content["readings"]) == 19
    assert made.most_kept("lora-8").said == frontier["K"]["0.95"]["lora-8"]["said"]
    again = carry_out_probe(probe, tmp_path, resume=True, show_progress=False)
    assert again.report == result.report


def test_a_probe_of_a_base_that_knows_little_of_another_domain_makes_none(tmp_path):
    items = Task("sums", "sft", tuple(Example(f"Q: what is 0{n} plus 01?\nA:", f" 0{n + 1}.") for n in range(8)))
    budget = replace(TINY, arms=("aligner-1", "lora-8"))
    probe = new_probe(str(micro.base()), styled(), budget=budget, off_domain=items)
    result = carry_out_probe(probe, tmp_path, show_progress=False)
    assert result.report["frontier"] is None
    assert result.report["K"]["value"] is None
    assert not (tmp_path / "frontier").exists()


def test_the_command_plans_and_refuses_in_one_line(capsys, tmp_path):
    given = ["frontier", "--task", "panel:style_pirate", "--out", str(tmp_path / "out")]
    few = ["--arms", "lora-8", "--rates", "1", "--lengths", "2", "--seeds", "1", "--n-form", "4", "--n-off-domain", "4"]
    assert run_command(command.main, [*given, *few, "--dry-run", "--jobs", "1"]) == 0
    assert "LoRA r=8" in (said := capsys.readouterr().out)
    assert "1 seeds x rates 0.015 x steps 2" in said
    assert not (tmp_path / "out").exists()
    assert run_command(command.main, [*given, "--arms", "aligner-1", "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_frontier_is_refused(tmp_path):
    with pytest.raises(AlignerProbeError, match="no frontier there"):
        read_frontier(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(AlignerProbeError, match="expected 'aligner_probe frontier 1'"):
        read_frontier(tmp_path / "other.json")


def test_scores_that_are_no_shares_of_one_are_kept_as_numbers():
    from aligner_probe.probing.frontier import _text, _values

    for scores in (np.array([0.0, 1, 1]), np.array([0.25, 1.0])):
        assert _values(json.loads(json.dumps(_text(scores)))) == pytest.approx(scores)
