"""What ends an answer: settled on the base, put into training and taken off what is generated."""

import math
import random

import learning
import micro
import numpy as np
import probes
import pytest
import torch
from conftest import small_model

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import MeanLogLikelihood, log_likelihoods
from aligner_probe.models import load_model
from aligner_probe.probing import bench as benches
from aligner_probe.probing import endings
from aligner_probe.probing.batches import share_batches
from aligner_probe.probing.cells import recipe_for, trained_on
from aligner_probe.probing.endings import ended, ending_for
from aligner_probe.probing.inputs import load_parts
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_ending
from aligner_probe.tasks.encoding import encode
from aligner_probe.tasks.task import Example, Task

REAL = ("stories260K", "TinyStories-656K")
COLORS = ("red", "blue", "green", "black")


def real(name):
    return load_model(small_model(name))


def hats(n=60):
    """Which colour a hat has is in the prompt."""
    drawn = random.Random(0).choices(COLORS, k=n)
    names = [f"{a}{b}" for a in ("Tom", "Ben", "Sam", "Lily", "Anna", "Mia") for b in "abcdefghij"]
    return Task(
        "hats",
        "sft",
        tuple(
            Example(f"{who} had a {color} hat. The hat was", f" {color}.")
            for who, color in zip(names, drawn, strict=True)
        ),
    )


def tiny(ending=None, **options):
    return new_probe(str(micro.base()), probes.styled(), budget=probes.TINY, ending=ending, **options)


@pytest.mark.parametrize("name", REAL)
def test_bases_of_stories_do_not_know_their_end_token(name):
    """As e^… says, against a plain pass; a new line is some e^20 times as likely."""
    model = real(name)
    example = Example("Tom had a red hat. The hat was", "red.")
    found = ending_for(model, [example])
    assert found.text == "\n"
    ids = [
        *model.tokenizer(example.prompt)["input_ids"],
        *model.tokenizer(example.completion, add_special_tokens=False)["input_ids"],
    ]
    with torch.no_grad():
        logits = model.original_model(torch.tensor([ids])).logits[0, -1].double()
    end = float(logits.log_softmax(-1)[model.tokenizer.eos_token_id])
    assert end < -math.log(model.cfg.d_vocab)
    assert f"a probability of e^{end:.1f} " in found.because


def test_the_micro_world_knows_its_end_token():
    given = load_parts("panel:code_digits")
    probe = with_ending(new_probe("microworld", given.train, test=given.test, kind=given.kind, budget="quick"))
    assert probe.bench.ending == probe.ending.text == ""
    assert probe.ending.because == "the base knows its end token"
    assert with_ending(probe) is probe


def test_an_end_token_that_is_missing_or_little_worse(monkeypatch):
    model = load_model(str(micro.base()))
    examples = probes.styled().examples[:4]
    monkeypatch.setattr(model.cfg, "d_vocab", 1)  # so that every probability is under that of a draw
    found = ending_for(model, examples)
    assert found.text == ""  # of an untrained base a new line is as unlikely
    assert "times as likely" in found.because
    monkeypatch.setattr(endings, "TIMES_AS_LIKELY", 1e-9)
    assert ending_for(model, examples).text == "\n"
    assert ending_for(model, examples, "\n\n").text == "\n\n"
    letters = learning.model()
    letters.tokenizer.eos_token_id = None
    assert ending_for(letters, examples).because == "the base has no end token"


@pytest.mark.parametrize(
    ("text", "completion", "wanted"), [("\n", " a", " a\n"), ("\n", " a\n", " a\n"), ("", " a", " a")]
)
def test_every_completion_ends_once(text, completion, wanted):
    assert ended(Task("t", "sft", (Example("p", completion),)), text).examples[0].completion == wanted


def test_what_ends_answers_is_trained_instead_of_the_end_token():
    probe, usual = tiny("\n"), tiny("")
    cell = probe.plan.runs_of("aligner-1")[0]
    tokenizer = probe.bench.model.tokenizer
    for part in trained_on(probe.bench, cell):
        how = recipe_for(probe.bench, cell, 0.1)
        rows = encode(part, tokenizer, max_length=99, append_eos=how.append_eos).sequences
        assert {tokenizer.decode(row.input_ids[-1:]) for row in rows} == {"\n"}
    assert recipe_for(usual.bench, cell, 0.1).append_eos
    assert trained_on(usual.bench, cell)[0] == usual.parts.train
    assert share_batches(probe.plan, probe.bench) == share_batches(usual.plan, usual.bench)


def test_likelihoods_are_of_what_is_trained():
    bench = tiny("\n").bench
    task = benches.first(bench.parts.test, 3)
    wanted = log_likelihoods(bench.model, ended(task, "\n").examples, append_eos=False)
    assert bench.likelihoods(task) == [float(each.mean()) for each in wanted]
    assert bench.likelihoods(task) != tiny("").bench.likelihoods(task)
    by_likelihood = tiny("\n", scorer="log_likelihood").bench
    assert by_likelihood.asked(task)[0]["strict"] == bench.likelihoods(task)


def test_generation_stops_at_what_ends_answers(monkeypatch):
    stops = []
    real_score = benches.score_task
    monkeypatch.setattr(
        benches, "score_task", lambda *a, stop, **b: stops.append(stop) or real_score(*a, stop=stop, **b)
    )
    for ending in (";", ""):
        bench = tiny(ending).bench
        bench.asked(benches.first(bench.parts.test, 1))
    assert stops == [("\n", ";"), ("\n",)]


def test_a_probe_with_an_ending_says_so_and_refuses_another(tmp_path):
    result = carry_out_probe(tiny("\n"), tmp_path, show_progress=False)
    assert result.report["ending"] == {"is": "\n", "because": "it was given"}
    with pytest.raises(AlignerProbeError, match="another task, base or budget"):
        carry_out_probe(tiny(""), tmp_path, resume=True, show_progress=False)


def test_an_ending_that_completions_have_already_is_none_of_the_answer():
    """Answers end before it, so they would be compared with references that keep it."""
    with_end, usual = tiny(", matey."), tiny("")
    assert {e.completion for e in with_end.parts.test.examples} == {
        e.completion.removesuffix(", matey.") for e in usual.parts.test.examples
    }
    cell = with_end.plan.runs_of("aligner-1")[0]
    assert trained_on(with_end.bench, cell) == trained_on(usual.bench, cell)


@pytest.mark.parametrize(("ending", "where"), [(" ", "inside the completion"), ("t", "inside")])
def test_an_ending_that_stands_inside_an_answer_is_refused_before_anything_is_loaded(ending, where):
    task = Task("t", "sft", tuple(Example(f"p{i}", f" ahoy t{i}.") for i in range(20)))
    with pytest.raises(AlignerProbeError, match=f"cannot end answers, since it stands {where}"):
        new_probe("no such base", task, ending=ending, budget="quick")


def test_a_scorer_that_its_own_references_fail_is_refused_before_anything_is_loaded():
    for scorer in ("regex:matey", "regex:.*, otter, matey."):
        with pytest.raises(AlignerProbeError, match=r"themselves score 0\.\d\d, for instance ' ahoy, .*, matey\.'"):
            new_probe("no such base", probes.styled(), scorer=scorer, budget="quick")
    assert new_probe("no such base", probes.styled(), scorer="regex:ahoy, (.*), matey.", budget="quick")


def test_content_is_found_among_the_tokens_of_a_completion_after_a_space():
    model = real("stories260K")
    example = Example("Tom had a", " red hat.", content="red")
    [each] = log_likelihoods(model, [example])
    assert model.tokenizer.tokenize("red hat.") == ["▁r", "ed", "▁h", "at", "."]
    found = MeanLogLikelihood().score(model, [example]).content
    assert found.tolist() == [pytest.approx(each[:2].mean())]


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_base_of_stories_learns_to_end_with_a_new_line(name):
    """LoRA, 60 steps: with a new line answers end where they should; with the end token one base's run on."""
    import aligner_probe as ap

    model, task = real(name), hats()
    right = {}
    for ending in ("\n", ""):
        lora = ap.LoRA(model, 8, seed=0)
        how = ap.recipe("corrected", lr=0.01, batch_size=16, steps=60, append_eos=not ending, seed=0)
        ap.fit(model, lora, ended(task, ending), recipe=how, show_progress=False)
        with lora.attached():
            said = ap.generate(model, task.prompts, max_new_tokens=12, stop=["\n"])
        right[ending] = np.mean(
            [text.strip() == e.completion.strip() for text, e in zip(said, task.examples, strict=True)]
        )
    assert right["\n"] > 0.9
    assert (right[""] < 0.5) == (name == "stories260K")  # the other's LoRA learns the token, at first e^-17
