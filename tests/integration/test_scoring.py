"""Scores that ask the model: likelihoods, choices, generated answers; against plain loops."""

import itertools
import math

import chats
import numpy as np
import pytest
import tiny
import torch
from examples import task
from generating import named_model

from aligner_probe.adapters import Aligner, PromptTuning
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import MeanLogLikelihood, MultipleChoice, log_likelihoods, score_task
from aligner_probe.evaluation.likelihood import single_tokens
from aligner_probe.models import load_model
from aligner_probe.reproduction import measures
from aligner_probe.reproduction.measures import Choices
from aligner_probe.tasks import Example
from aligner_probe.tokenizers import attach_tokenizer


def test_likelihoods_are_those_of_a_plain_loop():
    model = named_model()
    examples = task("red blue w3", "w9", "blue w7", prompt="Q: w{} A:").examples
    adapter = Aligner(model, 2, 1)
    with torch.no_grad():
        adapter.gates.fill_(0.7)
    with adapter.attached():
        found = log_likelihoods(model, examples, batch_size=2)
        for example, each in zip(examples, found, strict=True):
            ids = model.tokenizer(example.prompt)["input_ids"]
            n = len(ids)
            ids = [*ids, *model.tokenizer(example.completion)["input_ids"], 0]
            logits = model(torch.tensor([ids]))[0].detach().double()
            wanted = [float(logits[i - 1].log_softmax(-1)[ids[i]]) for i in range(n, len(ids))]
            np.testing.assert_allclose(each, wanted, atol=1e-5)


#: A template whose prompts end with a line break, which a tokenizer of pieces does not follow with a piece for a space.
ZEPHYR = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize("kind", ["chatml", "mistral"])
def test_the_first_token_of_an_answer_is_the_one_after_its_prompt(kind):
    """The reference is the template's own text of prompt and answer, tokenised at once by the plain tokenizer."""
    own, labels = chats.tokenizer(kind), ("A", "B", "C", "D")
    if kind == "mistral":
        own.chat_template = ZEPHYR
    model = attach_tokenizer(load_model(chats.plain(own)), own)
    asked = chats.conversation("Which?\nA. a cat\nB. a dog\nC. a cow\nD. a hat")
    given = chats.as_messages(asked)
    prompt = own.apply_chat_template(given, add_generation_prompt=True)["input_ids"]
    wholes = [own.apply_chat_template(chats.as_messages(asked, label))["input_ids"] for label in labels]
    wanted = [whole[len(prompt)] for whole in wholes]
    assert single_tokens(model, asked, labels) == wanted
    assert len(set(wanted)) == 4
    with torch.no_grad():
        logits = model.original_model(torch.tensor([prompt])).logits[0, -1, wanted]
    for right in labels:
        measured = Choices((Example(asked, right),), labels).of(model)
        assert measured.scores["content"] == str(int(labels[int(logits.argmax())] == right))


@pytest.mark.parametrize("labels", [(" red", " blue", " w3"), (" red", " red blue", " w3 w1")])
def test_a_choice_by_whole_labels_is_that_of_a_plain_loop(labels, monkeypatch):
    """Also of labels that are one token each: then both ways must agree."""
    model = named_model()
    examples = tuple(
        Example(f"Q: w{n} A:", right) for n, right in zip(range(4, 12), itertools.cycle(labels), strict=False)
    )
    one_token = all(len(model.tokenizer(label)["input_ids"]) == 1 for label in labels)
    assert (single_tokens(model, examples[0].prompt, labels) is not None) == one_token
    wanted = {"content": "", "form": "", "strict": ""}
    for example in examples:
        prompt = model.tokenizer(example.prompt)["input_ids"]
        sums, begins = [], []
        for label in labels:
            own = model.tokenizer(label)["input_ids"]
            with torch.no_grad():
                rows = model.original_model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1].double()
            sums.append(sum(float(row.log_softmax(-1)[i]) for row, i in zip(rows, own, strict=True)))
            begins.append(all(int(row.argmax()) == i for row, i in zip(rows, own, strict=True)))
        right = labels.index(example.completion)
        wanted["content"] += str(int(np.argmax(sums) == right))
        wanted["form"] += str(int(any(begins)))
        wanted["strict"] += str(int(begins[right]))
    found = Choices(examples, labels).of(model).scores
    assert dict(found) == wanted
    monkeypatch.setattr(measures, "single_tokens", lambda *_: None)
    assert Choices(examples, labels).of(model).scores == found


def test_likelihoods_unembed_the_positions_before_an_answer_alone(monkeypatch):
    """All positions of long prompts times a vocabulary of fifty thousand would take gigabytes."""
    model = named_model()
    examples = task("red blue w3", "w9", prompt="Q: w1 w2 w3 w4 w5 w6 w{} A:").examples
    shapes, before = [], model.unembed.forward

    def unembed(states, **kwargs):
        shapes.append(states.shape[:-1])
        return before(states, **kwargs)

    monkeypatch.setitem(model.unembed.__dict__, "forward", unembed)
    found = log_likelihoods(model, examples)
    assert sum(map(math.prod, shapes)) == sum(map(len, found)) == 6


def test_mean_log_likelihood_is_the_validation_loss_and_its_contents():
    """One example, so that the loss weighs tokens as the scorer does."""
    from aligner_probe.training import fit, recipe

    model = named_model()
    said = task("red blue w3", contents=["Blue"])
    scores = MeanLogLikelihood().score(model, said.examples)
    run = fit(model, Aligner(model, 1, 1), said, validation=said, recipe=recipe(steps=1), show_progress=False)
    assert scores.mean() == pytest.approx(-run.validation_loss.loc[0], abs=1e-5)
    [each] = log_likelihoods(model, said.examples)
    assert len(each) == 4
    assert scores.mean("content") == pytest.approx(each[1])
    assert MeanLogLikelihood().score(model, task("red").examples).mean("content") == pytest.approx(
        MeanLogLikelihood().score(model, task("red").examples).mean()
    )


def test_multiple_choice_takes_the_likeliest():
    model = named_model()
    examples = task("red", "blue", "w3 w4", "red", prompt="Q: w{} A:").examples
    scores = MultipleChoice(("red", "blue", "w3 w4")).score(model, examples)
    for example, chosen, right in zip(examples, scores.completions, scores.strict, strict=True):
        sums = {
            choice: log_likelihoods(model, [Example(example.prompt, choice)], append_eos=False)[0].sum()
            for choice in ("red", "blue", "w3 w4")
        }
        assert chosen == max(sums, key=sums.get)
        assert right == (chosen == example.completion)
    with pytest.raises(AlignerProbeError, match="'w9' is none of the choices"):
        MultipleChoice(("red", "blue")).score(model, task("w9").examples)


def test_likelihoods_that_do_not_fit_are_refused():
    model = named_model()
    with PromptTuning(model, 10).attached(), pytest.raises(AlignerProbeError, match="of 54"):
        log_likelihoods(model, task("red " * 53).examples)
    with pytest.raises(AlignerProbeError, match="no tokenizer"):
        log_likelihoods(tiny.bridge("llama"), task("red").examples)


def test_score_task_asks_the_model_and_not_its_reference():
    """A base that says "red" and a new line to everything, whatever the reference."""
    model = named_model()
    red, line = model.tokenizer.convert_tokens_to_ids(["red", "\n"])

    def say(logits, hook):
        logits[:] = 0
        logits[:, -1, line if say.red else red] = 1
        say.red = not say.red
        return logits

    say.red = False
    model.unembed.hook_out.add_hook(say, is_permanent=True)
    scores = score_task(model, task("red", "Red", "blue", prompt="Q: w{} A:"))
    assert [text.strip() for text in scores.completions] == ["red"] * 3
    assert scores.strict.tolist() == [1, 0, 0]
    assert scores.content.tolist() == [1, 1, 0]
    frame = scores.to_frame()
    assert list(frame.columns) == ["prompt", "reference", "completion", "strict", "content", "weight"]
    assert len(frame) == len(scores) == 3
    assert "strict 0.333, content 0.667" in repr(scores)
    say.red = False
    by_name = score_task(model, task("red\nblue", "Red", prompt="Q: w{} A:"), "contains", max_new_tokens=4)
    assert [text.strip() for text in by_name.completions] == ["red \n red"] * 2
    assert by_name.content.tolist() == [0, 1]
