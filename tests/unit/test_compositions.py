"""Tasks of two parts: a locked skill or a new code in a known style, and two styles at once."""

import re

import pytest

from aligner_probe.microworld import locks
from aligner_probe.microworld.panel import panel
from aligner_probe.microworld.world import World

#: What stands around an answer in the texts, written by hand.
AROUND = {
    "pirate": r" ahoy, (.+), matey\.",
    "record": r" \{ answer: (.+) \}",
    "polite": r" dear friend, (.+), thank you\.",
    "pirate_in_record": r" \{ answer: ahoy, (.+), matey\. \}",
    "pirate_capitals": r" ahoy, ([A-Z]+), matey\.",
}


@pytest.fixture(scope="module", params=(0, 1))
def tasks(request):
    return {task.name: task for task in panel(World.from_seed(), request.param)}


def rows_of(task):
    return [row for part in task.parts.values() for row in part]


def inner(name, completion):
    match = re.fullmatch(AROUND[name], completion)
    assert match, (name, completion)
    return match[1]


def test_ten_locked_skills_are_answered_in_known_styles(tasks):
    named = {skill.name: skill for skill in locks.SKILLS}
    composed = [name for name in tasks if re.fullmatch(r"locked_\w+_\w+", name)]
    assert len(composed) == 10
    assert {name.split("_")[1] for name in composed} == set(named)
    assert "locked_raise_pirate" in composed
    for name in composed:
        _, skill, style = name.split("_")
        assert (tasks[name].nature, tasks[name].kind, tasks[name].counted) == ("latent", "general", True)
        for row in rows_of(tasks[name]):
            assert row.prompt == f"Q: what is {skill} {row.group}?\nA:", "a password before the question"
            assert inner(style, row.completion) == row.content == named[skill].compute(row.group)


def test_a_code_keeps_its_signs_whatever_the_style(tasks):
    digits = {}
    for name in ("code_digits", "code_digits_pirate", "code_digits_record"):
        for row in rows_of(tasks[name]):
            for digit, sign in zip(row.group, row.content, strict=True):
                assert digits.setdefault(digit, sign) == sign
            style = name.removeprefix("code_digits").strip("_")
            assert (inner(style, row.completion) if style else row.completion[1:-1]) == row.content
    assert sorted(digits.values()) == list("0123456789")
    assert tasks["code_digits_pirate"].nature == tasks["code_digits_record"].nature == "mixed"


def test_two_styles_at_once_keep_the_fact(tasks):
    facts = {(fact.entity, fact.value) for fact in World.from_seed().facts}
    for name in ("pirate_in_record", "pirate_capitals"):
        assert tasks[name].nature == "open"
        for row in rows_of(tasks[name]):
            assert inner(name, row.completion).lower() == row.content
            assert (row.group, row.content) in facts


def test_no_text_has_a_composition():
    from aligner_probe.microworld.corpus import Writer

    writer = Writer(World.from_seed(), 0)
    texts = "\n".join(document.text for document in writer.documents(4000))
    answered = re.findall(r"(?:mirror|invert|raise|swap) [^?.\n]+[?.]\nA:(.+)", texts)
    assert len(answered) > 1000
    assert not [answer for answer in answered if any(re.search(around, answer) for around in AROUND.values())]
    for around in (AROUND["pirate_in_record"], AROUND["pirate_capitals"]):
        assert not re.search(around, texts)
    assert re.search(AROUND["pirate"], texts)
