"""The description length of a probe's runs equals plain torch, which takes each loss before its update."""

import math
from dataclasses import asdict

import micro
import numpy as np
import probes
import pytest
import torch

from aligner_probe.arms.catalogue import new_arm_adapter
from aligner_probe.evaluation import ExactMatch
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.cells import recipe_for, trained_on
from aligner_probe.probing.description_length import bits
from aligner_probe.probing.plan import plan
from aligner_probe.probing.splitting import split_task
from aligner_probe.training import Callback, Training, fit_together
from aligner_probe.training.order import Order


class Keeps(Callback):
    """Keeps the parameters before every step."""

    def __init__(self, adapter):
        self.adapter, self.before = adapter, []

    def started(self, start):
        self.stepped({})

    def stepped(self, row):
        if row.get("step") != 0:
            self.before.append({name: tensor.clone() for name, tensor in self.adapter.state_dict().items()})


def summed_bits(model, example, ending):
    """The bits of an answer and of what ends it, in one pass without padding; and how many tokens these are."""
    tokenizer = model.tokenizer
    start, answer = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.prompt, example.completion + ending)
    )
    ids = tokenizer("")["input_ids"][:1] + start + answer + ([] if ending else [tokenizer.eos_token_id])
    n = len(answer) + (not ending)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0].float()
    likely = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1))[-n:]
    return -float(likely.sum()) / math.log(2), n


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("arms", [("lora-8",), ("aligner-1", "lora-8")])
def test_bits_are_those_of_plain_torch(arms, ending):
    budget = plan("quick", batch_size=3, steps=9, reference_steps=9, evaluate_every=2, arms=arms).budget
    bench = ProbeBench(str(micro.base()), split_task(probes.styled(30)), ExactMatch(), budget, ending=ending)
    cells = [plan(budget).runs_of(arm)[1] for arm in arms]
    adapters = [new_arm_adapter(arm, bench.model, 0) for arm in arms]
    kept = [Keeps(adapter) for adapter in adapters]
    train, validation = trained_on(bench, cells[0])
    recipes = [recipe_for(bench, cell, 0.02) for cell in cells]
    runs = fit_together(
        bench.model,
        [
            Training(adapter=a, task=train, validation=validation, recipe=r, callbacks=[k])
            for a, r, k in zip(adapters, recipes, kept, strict=True)
        ],
        show_progress=False,
    )
    examples = bench.parts.train.examples
    for run, keeps in zip(runs, kept, strict=True):
        order = Order(run.recipe, len(examples))
        first_pass = -(-len(examples) // 3)
        assert first_pass < run.n_steps, "the training goes on after the first pass"
        best = {name: tensor.clone() for name, tensor in run.adapter.state_dict().items()}
        total, n_labels = 0.0, 0
        for step in range(1, first_pass + 1):
            run.adapter.load_state_dict(keeps.before[step - 1])
            with run.adapter.attached():
                for index in order(step):
                    more, n = summed_bits(bench.model, examples[index], ending)
                    total, n_labels = total + more, n_labels + n
        run.adapter.load_state_dict(best)
        with run.adapter.attached():
            likelihood = bench.likelihoods(bench.parts.test)
            tested = [summed_bits(bench.model, example, ending) for example in bench.parts.test.examples]
        a_label = sum(one for one, _ in tested) / sum(n for _, n in tested)
        found = bits(bench, run, likelihood)
        assert set(found) == {"n_examples", "n_labels", "first_pass", "test", "excess", "an_example"}
        assert (found["n_examples"], found["n_labels"]) == (len(examples), n_labels)
        assert found["first_pass"] == pytest.approx(total, rel=1e-4)
        assert found["test"] == pytest.approx(a_label, rel=1e-4)
        assert found["excess"] == pytest.approx(total - n_labels * a_label, rel=1e-3, abs=1e-2)


def test_a_training_that_did_not_count_its_labels_has_none():
    budget = plan("quick", batch_size=4, steps=4, reference_steps=4, arms=("lora-8",)).budget
    bench = ProbeBench(str(micro.base()), split_task(probes.styled()), ExactMatch(), budget)
    cell = plan(budget).runs_of("lora-8")[0]
    train, _ = trained_on(bench, cell)
    adapter = new_arm_adapter("lora-8", bench.model, 0)
    [run] = fit_together(
        bench.model, [Training(adapter=adapter, task=train, recipe=recipe_for(bench, cell, 0.01))], show_progress=False
    )
    assert asdict(run.recipe)["replacement"] is False
    likelihood = bench.likelihoods(bench.parts.test)
    assert bits(bench, run, likelihood) is not None
    run.metrics.loc[run.metrics["step"] == 1, "n_terms"] = np.nan
    assert bits(bench, run, likelihood) is None
