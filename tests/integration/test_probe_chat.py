"""A probe of conversations: asked as the chat template writes them, with shots as earlier turns."""

import json
from dataclasses import replace

import chats
import micro
import probes
import pytest
from chats import as_messages, conversation

from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.probing.cells import carry_out, read_result
from aligner_probe.probing.probe import new_probe, with_batches, with_ending
from aligner_probe.probing.run import study_of
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.chat_template import template_of
from aligner_probe.tasks.task import Example, Task

OFF_DOMAIN = Task("sums", "sft", tuple(Example(f"{i} and 1?", f" {i + 1}.", content=str(i + 1)) for i in range(8)))


def styled(system=None):
    """The task of `probes`, as conversations."""
    rows = [
        replace(one, prompt=conversation(str(one.prompt), system=system), completion=one.completion.strip())
        for one in probes.styled().examples
    ]
    return Task("styled", "sft", tuple(rows))


def probe_of(task, model=None, **options):
    budget = replace(probes.TINY, steps=2, reference_steps=2)
    return new_probe(model or chats.base("llama3"), task, budget=budget, **options)


def test_the_cells_of_a_probe_ask_as_the_template_writes(tmp_path):
    probe = probe_of(styled(system="Speak."), off_domain=OFF_DOMAIN, own_prompt="Like a pirate: {prompt}")
    probe = with_batches(probe)
    bench, own = probe.bench, probe.bench.model.tokenizer
    assert probe.ending.because == "the chat template ends turns with '<|eot_id|>'"
    study = study_of(probe.plan, bench)
    assert json.loads(study.files["plan.json"])["chat_template"] == template_of(own).sha256
    [asking] = [cell for cell in probe.plan.cells if cell.kind == "prompts"]
    carry_out(bench, asking, out=tmp_path)
    result = read_result(tmp_path, asking.id)
    # What the base model sees is the template's text, with the system message first.
    assert {"zero-shot", "1-shot, draw 0", "own prompt"} <= set(result["validation"])
    start = own.apply_chat_template([{"role": "system", "content": "Speak."}], tokenize=False)
    for shown in (result["prompt_text"], *([result["control"]["prompt"]] if "prompt" in result["control"] else [])):
        assert shown.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert result["prompt_text"].startswith(start)
    # Items that are texts are asked as a user's messages.
    asked = bench.off_domain.examples[0]
    assert (asked.prompt, asked.completion) == (conversation("0 and 1?"), "1.")
    assert len(result["off_domain"]["content"]) == len(OFF_DOMAIN)
    [training, *_] = probe.plan.runs_of("aligner-1")
    carry_out(bench, training, out=tmp_path)
    record = json.loads((tmp_path / "runs" / training.id / "adapter" / "provenance.json").read_text())
    assert template_of(own).sha256 in json.dumps(record)


def test_the_template_that_is_given_is_the_one_of_every_process(tmp_path):
    """A base that is named is loaded in each process, with the template."""
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}Q: {{ m.content }}\nA: {% endfor %}".replace("A: ", "A:"))
    probe = probe_of(styled(), str(micro.base()), chat_template=file)
    assert probe.bench.model.tokenizer.chat_template == file.read_text()
    assert replace(probe.bench).model.tokenizer.chat_template == file.read_text()
    assert probe_of(styled(), str(micro.base())).bench.model.tokenizer.chat_template is None
    with pytest.raises(AlignerProbeError, match="has no chat template"):
        with_batches(probe_of(styled(), str(micro.base())))


def test_a_conversation_that_the_template_refuses_is_named_before_anything_is_trained():
    gemma = chats.base("gemma")
    task = styled(system="Speak.")
    task = replace(task, examples=tuple(replace(one, line=i + 1) for i, one in enumerate(task.examples)))
    with pytest.raises(AlignerProbeError, match=r"line \d+: the chat template refuses messages of system, user"):
        with_batches(with_ending(probe_of(task, gemma)))
    off = Task("off", "sft", (Example(conversation("a?", system="Speak."), "b", line=5),))
    with pytest.raises(AlignerProbeError, match="line 5: the chat template refuses"):
        with_batches(probe_of(styled(), gemma, off_domain=off))


def test_a_prompt_is_too_long_with_the_tokens_of_its_template():
    probe = probe_of(styled())
    bench, own = probe.bench, probe.bench.model.tokenizer
    part = replace(probe.parts.test, examples=probe.parts.test.examples[:1])
    room = bench.room(part)
    around = len(own.apply_chat_template(as_messages(conversation("a")), add_generation_prompt=True)["input_ids"]) - 1
    for spare, fits in ((0, True), (1, False)):
        text = "~" * (room - around + spare)
        assert len(own(text, add_special_tokens=False)["input_ids"]) == len(text)
        long = replace(part, examples=(replace(part.examples[0], prompt=conversation(text)),))
        assert (bench.askable(long) is not None) == fits


def test_texts_asked_of_a_chat_model_are_remarked_on_once():
    probe = probe_of(probes.styled(), ending="\n")
    with pytest.warns(AlignerProbeWarning, match="--as-chat"):
        with_batches(probe)


def test_shots_are_turns_of_messages():
    from aligner_probe.probing.prompts import promptings

    train = tuple(Example(conversation(f"q{i}?", system=f"s{i}"), f" a{i}.\n", f"g{i}") for i in range(4))
    item = Example(conversation("first?", "yes", "asked?", system="own"), "right", "g9")
    named = {one.name: one for one in promptings(train, (2,), 1, own="Be brief: {prompt}!")}
    assert named["zero-shot"](item) == item.prompt
    shots = named["2-shot, draw 0"](item)
    assert isinstance(shots, Conversation)
    assert [m.role for m in shots.messages] == ["system", *["user", "assistant"] * 3, "user"]
    assert shots.system == "own"
    said = {(a.content, b.content) for a, b in zip(shots.turns[:4:2], shots.turns[1:4:2], strict=True)}
    assert said < {(f"q{i}?", f"a{i}.") for i in range(4)}
    assert len(said) == 2
    assert shots.turns[4:] == item.prompt.turns
    own = named["own prompt, 2-shot, draw 0"](item)
    assert own.messages[:-1] == shots.messages[:-1]
    assert own.messages[-1] == Message("user", "Be brief: asked?!")


def test_the_same_question_under_another_system_message_is_no_shot():
    from aligner_probe.probing.prompts import Prompting

    shots = (Example(conversation("q?", system="a"), "x"), Example(conversation("p?"), "y"))
    asked = Prompting("1-shot", shots, 2)(Example(conversation("q?", system="b"), "x"))
    assert [m.content for m in asked.messages] == ["b", "p?", "y", "q?"]


def test_the_control_wraps_answers_as_turns():
    from aligner_probe.probing.prompts import control

    items = [Example(conversation(f"q{i}?", system="s"), "secret") for i in range(8)]
    made = control(items, [f"cat {i}.\nmore" for i in range(8)], chats.tokenizer("llama3"), n_shots=2, room=200)
    contents = [message.content for message in made.prompts[0].messages]
    assert contents == ["s", "q0?", '"cat 0"', "q1?", '"cat 1"', "q2?"]
