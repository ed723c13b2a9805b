"""The ways to ask of a probe: instructions in words, on texts and on conversations, and prompts with less room."""

import json
from dataclasses import replace

import chats
import micro
import probes
import pytest
from chats import conversation

from aligner_probe.commands import probe as command
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures.probe import write_page
from aligner_probe.microworld.styles import BY_NAME
from aligner_probe.probing import asking
from aligner_probe.probing.asking import ways_to_ask
from aligner_probe.probing.cells import carry_out, read_result
from aligner_probe.probing.inputs import load_parts
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_ending
from aligner_probe.probing.run import study_of
from aligner_probe.probing.timing import _asked_of_base
from aligner_probe.tasks.task import Task
from aligner_probe.tasks.tokenizing import prompt_ids

SHORT = replace(probes.TINY, steps=2, reference_steps=2)
BRIEF = "Answer like a pirate."


def conversations(system=None):
    """The task of `probes`, as conversations."""
    rows = [
        replace(one, prompt=conversation(str(one.prompt), system=system), completion=one.completion.strip())
        for one in probes.styled().examples
    ]
    return Task("styled", "sft", tuple(rows))


def asked(probe, out):
    """The result of the cell that trains nothing."""
    [cell] = [cell for cell in probe.plan.cells if cell.kind == "prompts"]
    carry_out(probe.bench, cell, out=out)
    return read_result(out, cell.id)


def test_a_description_that_the_base_understands_wins_where_the_bare_prompt_fails(tmp_path):
    """The micro-world answers like a pirate when it is told so, and not by itself."""
    given, told = load_parts("panel:style_pirate"), BY_NAME["pirate"].told
    few = replace(given.test, examples=given.test.examples[:30])
    budget = replace(SHORT, shots=(), n_validation=16, n_off_domain=8)
    probe = with_ending(new_probe("microworld", given.train, test=few, budget=budget, describe=["be careful.", told]))
    result = asked(probe, tmp_path)
    assert result["validation"]["zero-shot"]["strict"] == 0
    assert result["validation"]["description 1"]["strict"] == 0
    assert result["chosen"]["strict"] == "description 2"
    assert sum(result["scores"]["prompt"]["strict"]) >= 27
    assert sum(result["scores"]["base"]["strict"]) == 0
    assert result["prompt_text"] == f"{told}\n{few.examples[0].prompt}"


@pytest.mark.parametrize("own", [None, "Speak."])
def test_on_a_chat_model_a_description_is_a_system_message_and_a_sentence_of_the_user(own):
    probe = new_probe(chats.base("chatml"), conversations(own), budget=SHORT, describe=BRIEF)
    tried, refused = ways_to_ask(probe.bench)
    named = {one.name: one(probe.parts.test.examples[0]) for one in tried}
    assert refused == []
    assert list(named) == [
        *("zero-shot", "1-shot, draw 0"),
        *("description 1 as the system message", "description 1 as the system message, 1-shot, draw 0"),
        *("description 1 in the user's message", "description 1 in the user's message, 1-shot, draw 0"),
    ]
    question = named["zero-shot"].turns
    for shots in ("", ", 1-shot, draw 0"):
        bare = named[shots.removeprefix(", ") or "zero-shot"]
        system = named[f"description 1 as the system message{shots}"]
        assert system.system == (f"Speak.\n{BRIEF}" if own else BRIEF)
        assert system.turns == bare.turns
        user = named[f"description 1 in the user's message{shots}"]
        assert user.messages[:-1] == bare.messages[:-1]
        assert user.turns[-1].content == f"{BRIEF}\n{question[-1].content}"
        for one in (system, user):
            assert probe.bench.shown(one).count(BRIEF) == 1
    shown = probe.bench.shown(named["description 1 as the system message"])
    assert shown.startswith(f"<|im_start|>system\n{named['description 1 as the system message'].system}<|im_end|>")


def test_where_the_template_refuses_system_messages_the_user_says_it(tmp_path):
    probe = with_ending(new_probe(chats.base("gemma"), conversations(), budget=SHORT, describe=BRIEF))
    result = asked(probe, tmp_path)
    user = "description 1 in the user's message"
    assert set(result["validation"]) == {"zero-shot", "1-shot, draw 0", user, f"{user}, 1-shot, draw 0"}
    assert result["left_out"] == [
        "description 1 as the system message: the chat template refuses system messages",
    ]


def test_a_conversation_loses_its_last_turns_of_examples_where_it_is_too_long(tmp_path, monkeypatch):
    """With room for one example of three, measured by the tokens of the template."""
    base = chats.base("llama3")
    probe = with_ending(new_probe(base, conversations("Speak."), budget=replace(SHORT, shots=(1, 3))))
    bench = probe.bench
    items = [*bench.parts.validation.examples, *bench.parts.test.examples]
    _, one, _ = ways_to_ask(bench)[0]
    room = max(len(ids) for ids in prompt_ids(base.tokenizer, [one(item) for item in items]))
    monkeypatch.setattr(base.cfg, "n_ctx", room + asking._longest_answer(bench))
    result = asked(probe, tmp_path)
    assert result["left_out"] == ["3-shot, draw 0: for want of room the same prompts as 1-shot, draw 0"]
    assert "lost_examples" not in result
    assert result["most_shots"] == 1


def test_the_report_says_how_many_examples_were_lost_and_the_page_shows_the_prompt(tmp_path):
    """One name in the test is so long that its prompt has no room for two examples."""
    task = probes.styled(40)
    test = replace(task, examples=task.examples[-10:])
    long = replace(test.examples[3], prompt=f"Q: what is {'the pet of ' * 52}5 5?\nA:")
    test = replace(test, examples=(*test.examples[:3], long, *test.examples[4:]))
    train = replace(task, examples=task.examples[:-10])
    options = {"budget": replace(SHORT, shots=(1, 8), arms=("lora-8",)), "describe": "answer like a pirate."}
    probe = with_ending(new_probe(str(micro.base()), train, test=test, **options))
    result = carry_out_probe(probe, tmp_path, show_progress=False)
    prompting = result.report["prompting"]
    lost = prompting["lost_examples"]
    assert lost["items"] == 14
    [eight] = [one for one in ways_to_ask(probe.bench)[0] if one.name == "8-shot, draw 0"]
    texts = [replace(eight, n_shots=n)(long) for n in range(9)]
    sizes = [len(ids) for ids in probe.bench.model.tokenizer(texts)["input_ids"]]
    room = probe.bench.model.cfg.n_ctx - asking._longest_answer(probe.bench)
    n = sum(size > room for size in sizes)
    assert 0 < n < 8
    assert lost["by_prompt"]["8-shot, draw 0"] == {str(n): 1}
    assert set(prompting["validation"]) == {
        *("zero-shot", "1-shot, draw 0", "8-shot, draw 0"),
        *(f"description 1{shots}" for shots in ("", ", 1-shot, draw 0", ", 8-shot, draw 0")),
    }
    assert prompting["descriptions"] == ["answer like a pirate."]
    assert json.loads((tmp_path / "plan.json").read_text())["describe"] == ["answer like a pirate."]
    write_page([result.report], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"8-shot, draw 0: {n} examples for 1 item<" in page
    other = new_probe(str(micro.base()), train, test=test, **options | {"describe": "answer in capitals."})
    with pytest.raises(AlignerProbeError, match="another task, base or budget"):
        carry_out_probe(other, tmp_path, resume=True, show_progress=False)


def test_without_descriptions_nothing_is_recorded_of_them():
    probe = new_probe(str(micro.base()), probes.styled(), budget=probes.TINY)
    assert "describe" not in json.loads(study_of(probe.plan, probe.bench).files["plan.json"])


def test_the_plan_counts_the_ways_to_ask(tmp_path, capsys):
    file = probes.jsonl(tmp_path / "styled.jsonl", probes.styled())
    options = ["--task", str(file), "--model", str(micro.base()), "--budget", "quick", "--out", str(tmp_path / "out")]
    told = ["--describe", "answer like a pirate.", "--describe", "answer in capitals."]
    assert command.main(["run", *options, "--dry-run", *told]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "base: prompts" in line]
    assert line.endswith(", 9 ways to ask")


def test_the_time_of_the_prompts_counts_each_way_to_ask():
    few, more = (
        new_probe(str(micro.base()), probes.styled(), budget=probes.TINY, describe=told) for told in ((), ("a.", "b."))
    )
    n = min(probes.TINY.n_validation, len(few.parts.validation))
    assert _asked_of_base(more.bench) - _asked_of_base(few.bench) == 4 * n


@pytest.mark.parametrize(("room", "score"), [(1000, 1.0), (asking.CONTROL_TOKENS, 0.0)])
def test_a_long_answer_of_the_control_is_not_cut_off_before_it_is_wrapped(monkeypatch, room, score):
    """A base model that repeats the last example, whose answers are as long as the first question lets them be."""
    probe = with_ending(new_probe(chats.base("chatml"), conversations(), budget=SHORT))
    tokenizer, asked_for = probe.bench.model.tokenizer, []

    def repeated(model, prompts, *, max_new_tokens, stop):
        said = [prompt.turns[-2].content if len(prompt.turns) > 1 else "5 " * 99 for prompt in prompts]
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        asked_for.append((max_new_tokens, max(map(len, prompt_ids(tokenizer, prompts)))))
        return [tokenizer.decode(row[:max_new_tokens]).strip() for row in ids]

    monkeypatch.setattr(asking, "generate", repeated)
    monkeypatch.setattr(probe.bench.model.cfg, "n_ctx", 4096)
    asking._control(probe.bench)
    _, (_, longest) = asked_for
    monkeypatch.setattr(probe.bench.model.cfg, "n_ctx", longest + room)
    result = asking._control(probe.bench)
    assert result["value"] == score
    assert asked_for[-1] == (min(asking.WRAPPED_TOKENS, room), longest)
