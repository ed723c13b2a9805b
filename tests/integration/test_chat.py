"""Conversations asked, scored and trained: the same as transformers' own chat path."""

import chats
import numpy as np
import pytest
import torch
from chats import as_messages, conversation, talks

import aligner_probe as ap
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.evaluation import MeanLogLikelihood, MultipleChoice, log_likelihoods, score_task
from aligner_probe.tasks import Example, Task
from aligner_probe.tasks.chat_template import template_of

KIND = "llama3"


def said_third(model, talk):
    """The third token that the base model says."""
    return model.tokenizer.convert_ids_to_tokens(chats.plain_answer(model, as_messages(talk), 3, set()))[2]


@pytest.mark.parametrize("kind", ["chatml", "llama3", "gemma"])
def test_answers_are_those_of_transformers_and_end_with_the_turn(kind):
    first = talks(kind)[0]
    model = chats.base(kind, ends_like=said_third(chats.base(kind), first))
    own = model.tokenizer
    end = template_of(own).end
    ends = {own.eos_token_id, end}
    plain = [chats.plain_answer(model, as_messages(one), 8, ends) for one in talks(kind)]
    assert plain[0][-1] == end
    assert len(plain[0]) == 3
    wanted = [own.decode(ids[:-1] if ids[-1] in ends else ids, skip_special_tokens=True) for ids in plain]
    assert ap.generate(model, talks(kind), max_new_tokens=8) == wanted
    # The same as dicts, in a list and alone, and in a task.
    assert ap.generate(model, [as_messages(one) for one in talks(kind)], max_new_tokens=8) == wanted
    assert ap.generate(model, as_messages(first), max_new_tokens=8) == wanted[:1]
    assert ap.generate(model, chats.task(kind), max_new_tokens=8) == wanted


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": ["an image"]}], "message 1 has as its content"),
        ([{"role": "tool", "content": "4"}], "role 'tool'"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "message 2 is of the user"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}], "is empty"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "ends with a message of the assist",
        ),
        ([{"content": "a"}], "message 1 has as its role"),
    ],
)
def test_messages_that_are_no_conversation_are_refused(messages, said):
    model = chats.base(KIND)
    for given in (messages, [as_messages(conversation("a?")), messages]):
        with pytest.raises(AlignerProbeError) as caught:
            ap.generate(model, given)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "prompt 1, from zero" in str(caught.value)


def test_a_chat_model_that_is_asked_texts_is_remarked_on():
    model = chats.base(KIND)
    with pytest.warns(AlignerProbeWarning, match="--chat-template none"):
        ap.generate(model, "a?", max_new_tokens=1)
    ap.set_chat_template(model, None)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ap.generate(model, "a?", max_new_tokens=1)
    with pytest.raises(AlignerProbeError, match="no chat template"):
        ap.generate(model, as_messages(conversation("a?")))
    ap.set_chat_template(model, chats.template(KIND))
    assert ap.generate(model, as_messages(conversation("a?")), max_new_tokens=1)


def test_likelihoods_are_those_of_the_answer_and_the_end_of_its_turn():
    """Phi-3 writes a new line and an end of text behind the end of the turn; neither is part of an answer."""
    model = chats.base("phi3")
    own, examples = model.tokenizer, chats.task("phi3").examples
    each = log_likelihoods(model, examples, batch_size=2)
    for example, found in zip(examples, each, strict=True):
        asked = own.apply_chat_template(as_messages(example.prompt), add_generation_prompt=True)["input_ids"]
        ids = asked + own(example.completion + "<|end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0].double()
        wanted = [float(logits[i - 1].log_softmax(-1)[ids[i]]) for i in range(len(asked), len(ids))]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    without = log_likelihoods(model, examples, append_eos=False)
    for one, other in zip(each, without, strict=True):
        np.testing.assert_allclose(one[:-1], other, atol=1e-5)


def test_the_content_of_an_answer_is_found_in_its_turn():
    model = chats.base(KIND)
    example = Example(conversation("The capital of France?", system="Be brief."), "It is Paris, Tom.", content="Paris")
    [each] = log_likelihoods(model, [example])
    tokens = model.tokenizer("It is Paris, Tom.", add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (start, end) in enumerate(tokens["offset_mapping"]) if start < 11 and end > 6]
    scores = MeanLogLikelihood().score(model, [example])
    assert scores.values("content")[0] == pytest.approx(each[inside].mean())
    assert scores.values("strict")[0] == pytest.approx(each.mean())


def test_choices_are_compared_without_the_end_of_the_turn():
    model = chats.base(KIND)
    example = Example(conversation("Who?"), "Tom")
    scores = MultipleChoice(("Tom", "a cat")).score(model, [example])
    sums = {
        choice: log_likelihoods(model, [Example(example.prompt, choice)], append_eos=False)[0].sum()
        for choice in ("Tom", "a cat")
    }
    assert scores.completions == (max(sums, key=sums.get),)


def test_an_answer_is_scored_to_the_end_of_its_turn():
    """No new line cuts it, since the template ends turns; without a template's end token one does."""
    talk = conversation("Who said it?")
    model = chats.base(KIND, ends_like=said_third(chats.base(KIND), talk))
    [answer] = ap.generate(model, [talk], max_new_tokens=8)
    scores = score_task(model, Task("said", "sft", (Example(talk, answer),)), "exact")
    assert scores.completions == (answer,)
    assert scores.mean() == 1
    assert scores.prompts == ("Who said it?",)


def trained(model, out, **options):
    adapter = ap.Aligner(model, 2, 1)
    task = chats.task(KIND)
    return ap.fit(
        model,
        adapter,
        task,
        recipe=ap.recipe(steps=3, lr=0.05, batch_size=4, **options.pop("recipe", {})),
        out=out,
        show_progress=False,
        **options,
    )


def test_a_run_records_its_template_and_goes_on_only_with_it(tmp_path):
    model = chats.base(KIND)
    run = trained(model, tmp_path / "run", recipe={"train_on": "all"})
    assert run.provenance["tokenizer"]["chat_template"] == template_of(model.tokenizer).sha256
    assert run.provenance["recipe"]["train_on"] == "all"
    assert template_of(model.tokenizer).sha256[:12] in run.provenance["task"]["encoding"]
    assert trained(model, tmp_path / "run", resume=True, recipe={"train_on": "all"}).metrics.equals(run.metrics)
    with pytest.raises(AlignerProbeError, match=r"train_on 'all' \(now 'last'\).*--train-on all"):
        trained(model, tmp_path / "run", resume=True)
    ap.set_chat_template(model, chats.template(KIND, marked=True))
    with pytest.raises(AlignerProbeError, match="chat_template"):
        trained(model, tmp_path / "run", resume=True, recipe={"train_on": "all"})


def test_texts_record_no_template_and_their_older_runs_go_on(tmp_path):
    """A state of a version without these options."""
    from aligner_probe.training.recipe import as_completed

    model = chats.base(KIND)
    task = Task("texts", "sft", (Example("a", "b"), Example("c", "d")))
    run = ap.fit(model, ap.Aligner(model, 1, 1), task, recipe=ap.recipe(steps=1), show_progress=False)
    assert run.provenance["tokenizer"]["chat_template"] is None
    assert "--chat-template none" in run.provenance["task"]["encoding"]
    before = {name: value for name, value in run.provenance["recipe"].items() if name != "train_on"}
    assert as_completed(before) == run.provenance["recipe"]


def test_gates_are_opened_on_conversations():
    model = chats.base(KIND)
    opened = ap.open_gate(model, chats.task(KIND), ap.Aligner, n_tokens=1, start_layer=1)
    assert opened.initial_gate > 0
