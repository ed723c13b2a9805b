"""Tasks: every published format, every way a file can be wrong, templates and splits."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import ALPACA_HEAD, ALPACA_HEAD_INPUT, TEXT, WORDS, write

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, Preference, Task, load_splits, load_task, sources, templates


@pytest.fixture
def jsonl(tmp_path):
    return lambda *rows, name="rows.jsonl": write(tmp_path / name, rows)


def transcript(*turns):
    return "".join(f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns))


def beaver(**fields):
    return {
        "prompt": "Hi?",
        "response_0": "no",
        "response_1": "yes",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
    } | fields


# ---- formats


def test_trl(jsonl):
    task = load_task(jsonl({"prompt": "a", "completion": " b ", "more": 1}, {"prompt": "", "completion": "c"}))
    assert (task.kind, task.format, task.template, task.name) == ("sft", "TRL", None, "rows")
    assert task.examples == (Example("a", " b "), Example("", "c"))
    task = load_task(jsonl({"prompt": "a", "chosen": "b", "rejected": "c", "group": 3}))
    assert (task.kind, task.format) == ("preference", "TRL preference")
    assert task.examples == (Preference("a", "b", "c", "3"),)


def test_alpaca_both_variants(jsonl):
    path = jsonl(
        {"instruction": "Add {input}", "input": "1 and {instruction}", "output": "2"},
        {"instruction": "Go", "input": "", "output": "ok"},
        {"instruction": "Go", "output": "ok"},
    )
    task = load_task(path)
    assert task.format == "Alpaca"
    assert task.prompts == [
        f"{ALPACA_HEAD_INPUT}\n\n### Instruction:\nAdd {{input}}\n\n### Input:\n1 and {{instruction}}\n\n### Response:",
        f"{ALPACA_HEAD}\n\n### Instruction:\nGo\n\n### Response:",
        f"{ALPACA_HEAD}\n\n### Instruction:\nGo\n\n### Response:",
    ]
    assert templates.render(task.template, {"instruction": "Go"}) == task.prompts[1]


def test_own_template_replaces_the_usual_one_and_is_stored(jsonl):
    path = jsonl({"instruction": "Go", "input": "x", "output": "ok", "extra": 7})
    task = load_task(path, prompt_template="{{{extra}}} {instruction}|{input}>", name="mine")
    assert (task.prompts, task.format, task.name) == (["{7} Go|x>"], "Alpaca", "mine")
    assert task.template == "{{{extra}}} {instruction}|{input}>"
    path = jsonl({"query": "1+1?", "response": "2"})
    assert load_task(path, prompt_template=templates.AUTHORS["MetaMathQA"]).prompts == [
        "[|User|] 1+1? [|AI Assistant|] "
    ]
    path = jsonl({"prompt": "p", "completion": "c"})
    assert load_task(path, prompt_template="<{prompt}>").prompts == ["<p>"]


def test_gsm8k_and_metamath(jsonl):
    task = load_task(jsonl({"question": "1+1?", "answer": "#### 2", "id": 4, "group": "sums"}))
    assert task.format == "GSM8K"
    assert task.examples == (Example("Question: 1+1?\nAnswer:", "#### 2", "sums"),)
    task = load_task(jsonl({"query": "1+1?", "response": "2", "type": "x", "original_question": "y"}))
    assert task.format == "MetaMathQA"
    assert task.prompts == [f"{ALPACA_HEAD}\n\n### Instruction:\n1+1?\n\n### Response:"]
    assert templates.render(task.template, {"query": "1+1?"}) == task.prompts[0]


def test_hh_rlhf_cuts_at_the_last_answer(jsonl):
    path = jsonl({"chosen": transcript("a", "b", "c", "good"), "rejected": transcript("a", "b", "c", "bad")})
    task = load_task(path)
    assert task.examples == (Preference("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " good", " bad"),)
    assert task.format == "HH-RLHF"
    assert load_task(path, prompt_template="[{prompt}]").prompts == [f"[{task.prompts[0]}]"]


@pytest.mark.parametrize(
    "rejected",
    [transcript("a", "b", "d", "bad"), transcript("a", "b", "c", "bad", "d", "worse"), transcript("a", "bad")],
)
def test_hh_rlhf_pairs_that_answer_different_prompts(jsonl, rejected):
    good = {"chosen": transcript("q", "x"), "rejected": transcript("q", "y")}
    path = jsonl(good, {"chosen": transcript("a", "b", "c", "good"), "rejected": rejected})
    with pytest.raises(AlignerProbeError, match="line 2: chosen and rejected do not share their prompt"):
        load_task(path)
    task = load_task(path, flawed="drop")
    assert len(task) == 1
    assert "1 because chosen and rejected do not share their prompt (the first on line 2)" in task.dropped_note


def test_beaver_choices(jsonl):
    path = jsonl(beaver(), beaver(prompt="Ho?", is_response_1_safe=False), beaver(prompt="Ha?", safer_response_id=0))
    task = load_task(path)
    assert (task.kind, task.format) == ("preference", "Beaver")
    assert [(e.chosen, e.rejected) for e in task.examples] == [("yes", "no"), ("yes", "no"), ("no", "yes")]
    assert task.prompts[0] == f"{ALPACA_HEAD}\n\n### Instruction:\nHi?\n\n### Response:"
    assert {e.chosen for e in load_task(path, prefer="better").examples} == {"no"}
    # Dropped because asked for, so it does not refuse the file.
    safe = load_task(path, only_safe_chosen=True)
    assert [e.line for e in safe.examples] == [1]
    assert [row.line for row in safe.dropped] == [2, 3]
    assert "2 because the chosen answer is not safe" in safe.dropped_note
    only_better = {name: value for name, value in beaver().items() if name != "safer_response_id"}
    assert load_task(jsonl(only_better)).examples[0].chosen == "no"


def test_only_safe_chosen_is_for_training(tmp_path):
    write(tmp_path / "train.jsonl", [beaver(), beaver(prompt="b", is_response_1_safe=False)])
    write(tmp_path / "test.jsonl", [beaver(prompt="c", is_response_1_safe=False)])
    train, test = load_splits(tmp_path, only_safe_chosen=True)
    assert (len(train), len(test)) == (1, 1)


def test_any_other_by_template(jsonl):
    path = jsonl({"a.b": "x", "n": 3, "label": 1, "question": "q", "answer": "z"})
    task = load_task(path, prompt_template="{a.b}-{n}:", completion_field="label")
    assert task.examples == (Example("x-3:", "1"),)
    assert (task.format, task.template) == ("template", "{a.b}-{n}:")


# ---- templates


@pytest.mark.parametrize(
    "template",
    ["{}", "{0!r}", "{q:>999999999}", "{q!r}", "{q", "q}", "{q:{q}}", "{q.__class__}", "{q[0]}", "{other}", "{ q }"],
)
def test_templates_replace_plain_fields_and_nothing_else(jsonl, template):
    with pytest.raises(AlignerProbeError, match="prompt template") as caught:
        load_task(jsonl({"q": "x", "y": "z"}), prompt_template=template, completion_field="y")
    assert "\n" not in str(caught.value)


@given(st.text(), st.text())
def test_values_are_never_read_as_templates(a, b):
    assert templates.render("<{a}|{b}|{{a}}>", {"a": a, "b": b}) == f"<{a}|{b}|{{a}}>"


def test_templates_from_a_shell():
    assert templates.unescape(r"Q: {question}\nA:\t\\n") == "Q: {question}\nA:\t\\n"


# ---- bad input

GOOD = {"prompt": "a", "completion": "b"}
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"not json\n", r"line 1: is no JSON"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt"\n', r"line 2: is no JSON"),
        (b"[" * 100_000, r"is no JSON"),
        (b'{"prompt": ' + b"9" * 10_000 + b"}", r"line 1: is no JSON"),
        (b"[\n{}\n]", r"row 1: has no fields"),
        (b'[{"prompt": "a", "completion": "b"}, 3]', r"row 2: is a JSON number; expected an object"),
        (b"[]", r"is empty; expected at least one row"),
        (b'{"prompt": "a", "completion": "b"}\n"text"\n', r"line 2: is a JSON text; expected an object"),
        (b"null\n", r"line 1: is a JSON null"),
        (b'{"prompt": "a", "completion": "b"}\n\n{"prompt": "c", "completion": "d"}', r"line 2: is blank"),
        (b'{"prompt": "a", "completion": "b"}\n{"prompt": "\xff", "completion": "b"}', r"line 2: is no UTF-8.*0xff"),
        ('{"prompt": "a", "completion": "b"}'.encode("utf-16"), r"line 1: is no (UTF-8|JSON)"),
        (b'{"prompt": "a", "completion": "\\ud83d"}', r"line 1: has half a character in completion"),
    ],
)
def test_files_that_are_no_jsonl(tmp_path, content, says):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(AlignerProbeError, match=says) as caught:
        load_task(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([GOOD, {"prompt": "a"}], r"line 2: lacks completion, .*found prompt;"),
        ([GOOD, PAIR], r"line 2: lacks completion"),
        ([GOOD, {"prompt": 5, "completion": "b"}], r"line 2: its prompt is a JSON number; expected text"),
        ([{"prompt": [{"role": "user"}], "completion": "b"}], r"line 1: message 1 of its prompt lacks content"),
        ([{"prompt": "a", "completion": None}], r"line 1: its completion is a JSON null"),
        ([GOOD | {"group": ["x"]}], r"line 1: its group is a JSON list"),
        ([GOOD, {"prompt": "a", "completion": ""}], r"line 2: the completion is empty"),
        ([{"prompt": "a", "completion": " \n"}], r"line 1: the completion is empty"),
        ([PAIR, PAIR | {"chosen": "c"}], r"line 2: chosen and rejected are equal"),
        ([PAIR | {"rejected": ""}], r"line 1: the chosen or the rejected completion is empty"),
        ([{"text": "a"}], r"line 1: has the fields text, which fit none.*TRL.*Beaver.*--prompt-template and --compl"),
        ([{}], r"line 1: has no fields"),
        ([GOOD | PAIR], r"fit TRL and TRL preference"),
        ([{"question": "q", "A": "x", "answer": "A"}], r"fit none"),
        ([{"chosen": "a", "rejected": "b"}], r"line 1: has a chosen without .*Assistant"),
        ([{"instruction": "a", "input": 3, "output": "b"}], r"line 1: its input is a JSON number"),
        ([beaver(), beaver(safer_response_id=2)], r"line 2: has safer_response_id 2; expected 0 or 1"),
        ([beaver(safer_response_id=True)], r"line 1: has safer_response_id True; expected 0 or 1"),
        ([beaver(safer_response_id=1.0)], r"line 1: has safer_response_id 1.0; expected 0 or 1"),
        ([beaver(response_0="yes")], r"line 1: chosen and rejected are equal"),
    ],
)
def test_rows_that_do_not_fit(jsonl, rows, says):
    with pytest.raises(AlignerProbeError, match=says) as caught:
        load_task(jsonl(*rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"completion_field": "y"}, "give --prompt-template"),
        ({"prompt_template": "{q}"}, "fit none"),
        ({"prompt_template": "{x}", "completion_field": "y"}, "line 1: has no field 'x'.*found q, y, z"),
        ({"prompt_template": "{q}", "completion_field": "x"}, "line 1: has no field 'x' for --completion-field"),
        ({"prompt_template": "{z}", "completion_field": "y"}, "line 1: its z is a JSON true or false"),
        ({"prompt_template": "{q}", "completion_field": "y"}, "line 2: lacks y"),
        ({"prompt_template": "{q}", "completion_field": "q", "only_safe_chosen": True}, "expected Beaver's fields"),
    ],
)
def test_options_that_do_not_fit(jsonl, options, says):
    with pytest.raises(AlignerProbeError, match=says):
        load_task(jsonl({"q": "1", "y": "2", "z": True}, {"q": "1"}), **options)


def test_places_without_a_task(tmp_path, monkeypatch):
    with pytest.raises(AlignerProbeError, match="does not exist"):
        load_task(tmp_path / "none.jsonl")
    with pytest.raises(AlignerProbeError, match=r"is empty; expected a train\.jsonl"):
        load_task(tmp_path)
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(AlignerProbeError, match=r"holds other\.jsonl; expected a train\.jsonl"):
        load_task(tmp_path)
    with pytest.raises(AlignerProbeError, match="no plain file"):
        load_task("/dev/zero")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 30)
    with pytest.raises(AlignerProbeError, match="over the limit of 30"):
        load_task(write(tmp_path / "train.jsonl", [GOOD]))


def test_all_rows_dropped(jsonl):
    with pytest.raises(
        AlignerProbeError, match=r"none of its 2 rows is left .*line 1.* because the completion is empty"
    ):
        load_task(jsonl({"prompt": "a", "completion": ""}, {"prompt": "b", "completion": ""}), flawed="drop")


def test_harmless_oddities_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a\xe2\x80\xa8b", "completion": "c"}\r\n{"prompt": "d", "completion": "e"}\n\n \n'
    )
    task = load_task(path)
    assert task.examples == (Example("a\u2028b", "c"), Example("d", "e"))
    assert [example.line for example in task.examples] == [1, 2]


# ---- round trips and splits

GROUP = st.none() | st.sampled_from("abc")


@given(rows=st.lists(st.tuples(TEXT, WORDS, GROUP), min_size=1, max_size=10))
def test_what_is_written_is_what_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("task") / "rows.jsonl"
    task = Task("rows", "sft", tuple(Example(*row) for row in rows))
    frame = task.to_frame()
    assert list(frame.columns) == ["prompt", "completion", "group", "line"]
    path.write_text(frame.drop(columns="line").to_json(orient="records", lines=True))
    again = load_task(path)
    assert again.examples == task.examples
    assert [example.line for example in again.examples] == list(range(1, len(rows) + 1))


@given(
    rows=st.lists(st.tuples(st.sampled_from("pqrstuvw"), WORDS, GROUP), min_size=2, max_size=30),
    share=st.floats(0.01, 0.99) | st.integers(1, 40),
    seed=st.integers(-5, 5),
)
def test_a_split_parts_no_group_and_no_prompt(rows, share, seed):
    task = Task("made", "sft", tuple(Example(*row, line=i) for i, row in enumerate(rows, 1)))
    try:
        train, validation = task.split(share, seed)
    except AlignerProbeError as error:
        if not re.search("cannot be split|cannot set", str(error)):
            raise
        return
    assert sorted(e.line for part in (train, validation) for e in part.examples) == list(range(1, len(rows) + 1))
    assert not set(train.prompts) & set(validation.prompts)
    groups = [{e.group for e in part.examples} - {None} for part in (train, validation)]
    assert not groups[0] & groups[1]
    assert task.split(share, seed) == (train, validation)
    assert train.sha256 == validation.sha256 == task.sha256


def test_split_sizes_and_seeds():
    task = Task("made", "sft", tuple(Example(f"p{i}", "c", line=i) for i in range(200)))
    parts = {seed: task.split(0.1, seed)[1].examples for seed in (-1, 0, 1, 2)}
    assert all(len(part) == 20 for part in parts.values())
    assert len(set(parts.values())) == 4
    assert len(task.split(7, 0)[1]) == 7
    lines = [example.line for example in parts[0]]
    assert lines == sorted(lines)
    for wrong in (0, 200, -1, 1.0, 0.0, float("nan"), True):
        with pytest.raises(AlignerProbeError, match="expected a share between 0 and 1"):
            task.split(wrong, 0)


def test_split_takes_whole_groups_within_the_share():
    sizes = {"big": 90, "a": 5, "b": 5}
    task = Task("made", "sft", tuple(Example(f"{g}{i}", "c", g) for g, n in sizes.items() for i in range(n)))
    for seed in range(10):
        assert {e.group for e in task.split(0.1, seed)[1].examples} == {"a", "b"}
        # Where no group fits, the smallest goes.
        assert len(task.split(2, seed)[1]) == 5
    with pytest.raises(AlignerProbeError, match="share a group or a prompt"):
        Task("one", "sft", (Example("a", "b", "g"), Example("c", "d", "g"))).split(1, 0)


def test_tasks_made_in_memory_have_a_hash_of_their_content():
    one, same = (Task("x", "sft", (Example("a", "b", line=line),)) for line in (1, 2))
    other = Task("x", "sft", (Example("a", "c"),))
    assert one.sha256 == same.sha256 != other.sha256
    assert len(one.sha256) == 64
    with pytest.raises(AlignerProbeError, match="no examples"):
        Task("x", "sft", ())
    with pytest.raises(AlignerProbeError, match="expected Example only"):
        Task("x", "sft", (Preference("a", "b", "c"),))


def test_train_and_test_that_share_a_prompt(tmp_path):
    write(tmp_path / "train.jsonl", [{"prompt": p, "completion": "x"} for p in "abcb"])
    assert load_splits(tmp_path)[1] is None
    test = write(tmp_path / "test.jsonl", [{"prompt": p, "completion": "y"} for p in "dbe"])
    with pytest.raises(AlignerProbeError, match=r"1 of 3 test .* line 2 of \S*test.jsonl and line 2 of \S*train.jsonl"):
        load_splits(tmp_path)
    with pytest.raises(AlignerProbeError, match="a prompt that was trained"):
        load_splits(tmp_path / "train.jsonl", test)
    write(test, [{"prompt": " b\n", "completion": "y"}])  # as `split` reads it, the same prompt
    with pytest.raises(AlignerProbeError, match=r"1 of 1 test .* line 2 of"):
        load_splits(tmp_path)
    write(test, [{"prompt": "d", "completion": "x"}])
    train, held_out = load_splits(tmp_path)
    assert (len(train), len(held_out), train.name, held_out.name) == (4, 1, tmp_path.name, tmp_path.name)
    write(test, [PAIR])
    with pytest.raises(AlignerProbeError, match="expected one kind"):
        load_splits(tmp_path)


def test_with_a_constant_prompt_the_completions_tell_items_apart(tmp_path):
    options = {"prompt_template": "Story:", "completion_field": "text"}
    write(tmp_path / "train.jsonl", [{"text": t} for t in "aabcdef"])
    write(tmp_path / "test.jsonl", [{"text": "g"}])
    train, _ = load_splits(tmp_path, **options)
    for seed in range(10):
        parts = [{e.completion for e in part.examples} for part in train.split(2, seed)]
        assert not parts[0] & parts[1]
    write(tmp_path / "test.jsonl", [{"text": "g"}, {"text": "c"}])
    with pytest.raises(AlignerProbeError, match=r"completion that was trained, the first on line 2 .*line 4"):
        load_splits(tmp_path, **options)
