"""Prompts without training, the control of prompting, and format by itself."""

import re

import micro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.answer_form import format_scores, has_format, separable
from aligner_probe.probing.endings import ended, line_end
from aligner_probe.probing.prompts import (
    WRAPPINGS,
    bare,
    control,
    descriptions,
    fitting,
    most_shown,
    promptings,
    wrapping_for,
)
from aligner_probe.tasks.task import Example, Task

TRAIN = tuple(Example(f"Q{i}?\nA:", f" answer {i}.", f"group {i // 2}") for i in range(12))
ITEM = Example("asked?\nA:", " right.", "group 3")


class Characters:
    """Every character is a token; those of `unknown` are not given back."""

    def __init__(self, unknown=""):
        self.unknown = unknown

    def __call__(self, texts, **_):
        return {"input_ids": [[ord(c) for c in text if c not in self.unknown] for text in texts]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


def test_shots_stand_before_the_prompt_as_documents_have_them():
    [zero, two] = promptings(TRAIN, (2,), 1)
    assert zero(ITEM) == ITEM.prompt
    first, second, rest = re.fullmatch(r"(.*\n.*\.)\n(.*\n.*\.)\n(.*)", two(ITEM), re.DOTALL).groups()
    known = {example.prompt + example.completion for example in TRAIN}
    assert {first, second} <= known
    assert first != second
    assert rest == ITEM.prompt


@given(st.sampled_from(TRAIN), st.sampled_from((1, 4, 8)), st.integers(0, 20))
def test_the_answer_is_never_among_the_shots(item, k, seed):
    """Neither the item itself nor another wording of its fact; yet there are as many as there should be."""
    whole = promptings(TRAIN, (k,), 1, seed=seed)[1](item)
    shown = [example for example in TRAIN if example.prompt + example.completion + "\n" in whole]
    assert len(shown) == k
    assert item.group not in {example.group for example in shown}


def test_more_shots_are_the_same_and_more_and_draws_differ():
    def shown(prompting):
        return [example.prompt for example in prompting._shots_for(ITEM)]

    _, one, four, other, _ = promptings(TRAIN, (1, 4), 2)
    assert shown(four)[:1] == shown(one)
    assert shown(one) != shown(other)
    assert promptings(TRAIN, (4,), 1, seed=1)[1](ITEM) != promptings(TRAIN, (4,), 1, seed=2)[1](ITEM)


def test_own_prompt_with_a_slot_or_in_front():
    named = {one.name: one(ITEM) for one in promptings(TRAIN, (1,), 1, own="Be brief. ")}
    assert named["own prompt"] == "Be brief. asked?\nA:"
    assert named["own prompt, 1-shot, draw 0"].startswith("Be brief. Q")
    slot = {one.name: one(ITEM) for one in promptings(TRAIN, (), 1, own="<{prompt}>")}
    assert slot["own prompt"] == "<asked?\nA:>"


def test_answers_of_several_lines_are_kept_apart_by_an_empty_one():
    for answer, end in ((" one\ntwo", "\n\n"), ("\none", "\n\n"), (" one\n\ntwo", "\n\n\n"), (" one\n", "\n")):
        lines = tuple(Example(e.prompt, answer, e.group) for e in TRAIN)
        assert line_end(lines) == end
        shown = promptings(lines, (1,), 1, separator=line_end(lines))[1](ITEM)
        assert f"A:{answer.rstrip()}{end}asked" in shown
        # What ends generation there does not cut the answer.
        assert end not in answer.rstrip()


def test_answers_with_every_kind_of_empty_line_are_refused():
    with pytest.raises(AlignerProbeError, match="no text is left to end an answer with"):
        line_end([Example("p", " a\n\n\nb"), Example("p", " a\n###\nb")])


@pytest.mark.parametrize(("answer", "ending"), [(" one", "\n"), (" one\ntwo", "\n\n"), (" one", ";")])
def test_what_ends_an_answer_stands_once_between_the_shots(answer, ending):
    shown = ended(Task("t", "sft", tuple(Example(e.prompt, answer, e.group) for e in TRAIN)), ending).examples
    whole = promptings(shown, (2,), 1, separator=line_end(shown))[1](ITEM)
    assert whole.count(f"A:{answer}{ending.rstrip()}" + ("\n\nQ" if "\n" in answer else "\nQ")) == 1
    assert whole.count("\n\n") == (2 if "\n" in answer else 0)


def lengthened(lengths):
    return tuple(
        Example(f"Q{i}{'?' * n}\nA:", f" answer {i}{'!' * (n % 7)}.", f"group {i // 2}")
        for i, n in enumerate(lengths)
    )  # fmt: skip


def in_full(item, shots, n):
    """The prompt with `n` examples, by hand."""
    others = [one for one in shots if one.prompt != item.prompt and one.group != item.group]
    return "".join(f"{one.prompt}{one.completion}\n" for one in others[:n]) + item.prompt


@given(st.lists(st.integers(0, 40), min_size=4, max_size=12), st.integers(10, 300), st.sampled_from((1, 3, 8)))
def test_a_long_prompt_loses_its_last_examples_until_it_fits(lengths, room, k):
    """Every prompt is the longest beginning of its examples that fits, as a plain loop has it."""
    items = lengthened(lengths)
    zero, shot = promptings(items, (k,), 1)
    found = fitting([zero, shot], items, Characters(), room)
    if max(len(item.prompt) for item in items) > room:
        assert not found.kept
        assert [why.split(":")[0] for why in found.left_out] == ["zero-shot", shot.name]
        return
    wanted, losses = [], {}
    for item in items:
        whole = sum(one.prompt != item.prompt and one.group != item.group for one in shot.shots)
        n = most = min(k, whole)
        while len(in_full(item, shot.shots, n)) > room:
            n -= 1
        losses[most - n] = losses.get(most - n, 0) + 1
        wanted.append(in_full(item, shot.shots, n))
        assert item.prompt + item.completion not in wanted[-1]
    if losses.get(0) == len(items):
        assert found.kept[1:] == [shot]
        assert [found.kept[1](item) for item in items] == [shot(item) for item in items]
        assert (found.lost, found.left_out, most_shown(found.kept, items)) == ({}, [], k)
    elif wanted == [item.prompt for item in items]:
        assert found.left_out == [f"{shot.name}: for want of room the same prompts as zero-shot"]
        assert most_shown(found.kept, items) == 0
    else:
        assert [found.kept[1](item) for item in items] == wanted
        assert found.lost == {shot.name: {n: count for n, count in losses.items() if n}}


def test_what_loses_examples_until_it_is_another_way_to_ask_is_not_asked_twice():
    tried = promptings(TRAIN, (1, 2, 8), 1)
    found = fitting(tried, [ITEM], Characters(), room=55)
    assert [one.name for one in found.kept] == ["zero-shot", "1-shot, draw 0", "2-shot, draw 0"]
    assert found.left_out == ["8-shot, draw 0: for want of room the same prompts as 2-shot, draw 0"]
    assert most_shown(found.kept, [ITEM]) == 2
    # Where no example is lost for want of room, nothing is compared: four examples of two are two.
    few = promptings(TRAIN[:2], (2, 4), 1)
    assert fitting(few, [ITEM], Characters(), room=60).kept == few


def test_one_long_item_takes_examples_from_itself_alone():
    long = Example("long" * 20 + "?\nA:", " right.", "group 99")
    tried = promptings(TRAIN, (2,), 1)
    found = fitting(tried, [ITEM, ITEM, long], Characters(), room=110)
    assert found.lost == {"2-shot, draw 0": {1: 1}}
    assert found.kept[1](ITEM) == tried[1](ITEM)
    assert found.kept[1](long) == in_full(long, tried[1].shots, 1)
    assert most_shown(found.kept, [ITEM, ITEM, long]) == 2
    assert most_shown(found.kept, [ITEM, long, long]) == 1


def test_a_description_stands_before_the_prompt_alone_and_with_examples():
    tried = promptings(TRAIN, (1, 4), 2, describe=("Be brief.", "Be loud."))
    named = {one.name: one(ITEM) for one in tried}
    plain = [one for one in tried if not one.name.startswith("description")]
    assert plain == promptings(TRAIN, (1, 4), 2)
    assert [one.name for one in tried[len(plain) :]] == [
        f"description {i}{shots}" for i in (1, 2) for shots in ("", ", 1-shot, draw 0", ", 4-shot, draw 0")
    ]
    assert named["description 1"] == "Be brief.\nasked?\nA:"
    assert named["description 2, 4-shot, draw 0"] == "Be loud.\n" + named["4-shot, draw 0"]


def test_descriptions_are_texts_that_differ():
    assert descriptions(" one. ") == ("one.",)
    assert descriptions(["one.", "two.\n"]) == ("one.", "two.")
    assert descriptions(()) == ()
    for wrong, said in (
        ("", "description 1 is ''"),
        (["one.", " "], "description 2 is ' '"),
        ("Answer: {prompt}", "--prompt-file"),
        (["one.", "one. "], "given twice: 'one.'"),
    ):
        with pytest.raises(AlignerProbeError, match=said):
            descriptions(wrong)


@given(st.sampled_from(WRAPPINGS), st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True))
def test_a_wrapping_recognises_its_own_and_not_the_bare_answer(wrapping, answer):
    assert re.fullmatch(wrapping.pattern, wrapping.wrap(answer))
    assert re.fullmatch(wrapping.pattern, wrapping.wrap(answer) + ".")
    assert not re.fullmatch(wrapping.pattern, answer + ".")


def test_the_wrapping_is_one_that_the_tokenizer_can_write():
    assert wrapping_for(Characters(), ["cat"]).name == "double quotes"
    assert wrapping_for(Characters("\"'"), ["cat"]).name == "round brackets"
    with pytest.raises(AlignerProbeError, match="gives back none"):
        wrapping_for(Characters("ct"), ["cat"])


def test_the_micro_world_writes_quotes_with_spaces():
    """Its words are tokens, with the space before them."""
    tokenizer = AutoTokenizer.from_pretrained(micro.base())
    assert wrapping_for(tokenizer, ["cat", "gold", "12"]).name == "double quotes, spaced"


def test_the_control_wraps_the_base_s_own_answers_and_reads_format_alone():
    answers = [f" cat {i}.\nQ: more" for i in range(10)]
    items = [Example(f"Q{i}?\nA:", " secret.", f"group {i}") for i in range(10)]
    made = control(items, answers, Characters(), n_shots=3)
    assert len(made.items) == 7
    assert made.prompts[0].startswith('Q0?\nA: "cat 0"\nQ1?\nA: "cat 1"\n')
    assert made.prompts[0].endswith("Q3?\nA:")
    assert "secret" not in made.prompts[0]
    assert made.score([' "anything".'] * 7).value == 1
    assert made.score([" anything."] * 7).value == 0
    with pytest.raises(AlignerProbeError, match="for a control of 4"):
        control(items[:5], answers[:5], Characters())


def test_the_control_leaves_out_questions_that_do_not_fit():
    items = [Example(f"Q: {'long ' * 40 * (i == 5)}{i}?", " cat.") for i in range(9)]
    whole, fitting = (control(items, [" cat."] * 9, Characters(), room=room, n_shots=2) for room in (None, 120))
    assert [item.prompt for item in fitting.items] == [item.prompt for item in whole.items if "long" not in item.prompt]
    assert len(fitting.items) == len(whole.items) - 1
    with pytest.raises(AlignerProbeError, match="fits into 10 tokens"):
        control(items, [" cat."] * 9, Characters(), room=10, n_shots=2)


def test_an_answer_said_twice_ends_as_it_did():
    items = [Example(f"Q{i}?\nA:", " x.") for i in range(9)]
    made = control(items, [" cat."] * 9, Characters("\"'()[]"), n_shots=2)
    assert made.wrapping.name == "said twice"
    assert made.prompts[0].startswith("Q0?\nA: cat, cat.\n")


def test_bare_answers():
    assert bare(" cat, matey.\nQ: what?") == "cat, matey"


STYLE = Example("Q", " ahoy, cat, matey.", "g", content="cat")
TWICE = Example("Q", " cat. reason: the pet is cat.", "g", content="cat")


def test_format_is_the_reference_with_anything_for_content():
    assert has_format(" ahoy, otter of the sea, matey.", STYLE)
    assert not has_format(" otter.", STYLE)
    assert not has_format(" ahoy, , matey?", STYLE)
    assert has_format(" dog. reason: the pet is dog.", TWICE)
    assert not has_format(" dog. reason: the job is dog.", TWICE)
    assert format_scores(["ahoy, x, matey.", "x"], [STYLE, STYLE]).tolist() == [1, 0]


def test_a_content_inside_another_word_is_part_of_the_form():
    letter = Example("Q", " Answer: A.", "g", content="A")
    assert separable([letter])
    assert has_format(" Answer: B.", letter)
    assert not has_format(" Enswer: B.", letter)
    sign = Example("Q", " the grade is A-.", "g", content="A-")
    assert has_format("the grade is B+.", sign)
    assert has_format("उत्तर: दीन।", Example("Q", " उत्तर: दिन।", "g", content="दिन"))


def test_the_case_of_a_content_is_part_of_the_form():
    """Where all answers write their contents in capital letters, so must any other content in its place."""
    loud = [
        Example("Q", " THE ANSWER IS CAT!", "g", content="cat"),
        Example("Q", " THE ANSWER IS NEW YORK!", "h", content="New York"),
        Example("Q", " THE ANSWER IS UN!", "i", content="UN"),
    ]
    assert separable(loud)
    assert format_scores(["THE ANSWER IS DOG!", "THE ANSWER IS dog!", "THE ANSWER IS Un!"], loud).tolist() == [1, 0, 0]
    soft = [Example("Q", " it is new york, mate.", "g", content="New York")]
    assert format_scores(["it is paris, mate."], soft).tolist() == [1]
    assert format_scores(["it is Paris, mate."], soft).tolist() == [0]
    assert not separable([*loud, *soft])
    assert not separable([loud[0], STYLE])


@pytest.mark.parametrize(
    ("completion", "content"),
    [(" CAT.", "cat"), (" c a t.", "cat"), (" cat.", "cat"), (" ahoy, cat.", None), (" ahoy, cat.", "!")],
)
def test_form_and_content_that_cannot_be_told_apart(completion, content):
    example = Example("Q", completion, "g", content=content)
    assert not separable([STYLE, example])
    with pytest.raises(AlignerProbeError, match="a form of their own"):
        format_scores(["x"], [example])


def test_every_reference_has_its_own_format():
    assert separable([STYLE, TWICE])
    assert format_scores([STYLE.completion, TWICE.completion], [STYLE, TWICE]).all()
