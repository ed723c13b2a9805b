"""Scorers: strict and content apart, against scikit-learn, plain loops and laws."""

import json
import warnings

import pytest
import tiny
from conftest import DATA
from examples import task
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import (
    BalancedAccuracy,
    Contains,
    ExactMatch,
    LastNumber,
    MeanLogLikelihood,
    MultipleChoice,
    Pattern,
    UserFunction,
    guess_scorer,
    score_task,
    scorer_named,
)
from aligner_probe.evaluation.content import last_number, says, words
from aligner_probe.tasks import Example, Preference, Task, load_task


def judged(scorer, completion, reference, content=None):
    return scorer.judge(completion, Example("q", reference, content=content))


@pytest.mark.parametrize(
    ("text", "content", "yes"),
    [
        ("BLUE!", "blue", True),
        ('{"answer": "Blue"}', "blue", True),
        ("<<b>blue</b>>", "blue", True),
        ("the sky-blue one", "blue", True),
        ("blueish", "blue", False),
        ("17", "7", False),
        ("7.5", "7", False),
        ("1,000 men", "1000", True),
        ("48/2=24", "24", True),
        ("14-16", "16", True),
        ("it is -16", "16", False),
        ("it is −16", "-16", True),
        ("1,2,3", "2", True),
        ("New   york\ncity", "new York", True),
        ("York new", "New York", False),
        ("_blue_", "blue", True),
        ("ＢＬＵＥ", "blue", True),
        ("3rd", "3", False),
        ("a + b", "+", True),
        ("a b", "+", False),
        ("", "blue", False),
        ("blue", " ", False),
    ],
)
def test_says(text, content, yes):
    assert says(text, content) is yes


@pytest.mark.parametrize(
    ("text", "after", "number"),
    [
        ("so 3 + 4 = 7.", "", 7),
        ("48-24", "", 24),
        ("#### 1,234.50", "####", 1234.5),
        ("#### 5\nand 6", "####", 5),
        ("5 and 6", "####", 6),
        ("5 #### none", "####", None),
        ("-3", "", -3),
        ("$18.00", "", 18),
        ("60mph", "", 60),
        ("nothing", "", None),
    ],
)
def test_last_number(text, after, number):
    assert last_number(text, after) == number


CASES = [
    # scorer, completion, reference, content, strict, content only
    (ExactMatch(), " blue\n", "blue", None, 1, 1),
    (ExactMatch(), "Blue.", "blue", None, 0, 1),
    (ExactMatch(), "red", "blue", None, 0, 0),
    (ExactMatch(), "arr, blue it be", "BLUE", "blue", 0, 1),
    (ExactMatch(), "blue", "Arr, blue it be!", "blue", 0, 1),
    (ExactMatch(), "Arr, blue it be!", "Arr, blue it be!", "blue", 1, 1),
    (ExactMatch(), "Arr, red it be!", "Arr, blue it be!", "blue", 0, 0),
    (ExactMatch(), "Arr, red it be!", "Arr, blue it be!", None, 0, 0),
    (Contains(), "I think blue, mate", "blue", None, 1, 1),
    (Contains(), "I think Blue, mate", "blue", None, 0, 1),
    (Contains(), "red", "blue", None, 0, 0),
    (Pattern(r"\[(\w+)\]"), "[blue]", "[blue]", None, 1, 1),
    (Pattern(r"\[(\w+)\]"), "so: [blue]", "[blue]", None, 0, 1),
    (Pattern(r"\[(\w+)\]"), "blue", "[blue]", None, 0, 1),
    (Pattern(r"\[(\w+)\]"), "[red]", "[blue]", None, 0, 0),
    (Pattern(r"\[(\w+)\]"), "[Blue]", "whatever", "blue", 1, 1),
    (Pattern(r"Answer: (.+)"), "Answer: C++", "Answer: C#", None, 0, 0),
    (Pattern(r"Answer: (.+)"), "Answer: C++.", "Answer: C++", None, 1, 1),
    (Pattern(r"Answer: (.+)"), "Answer: :)", "Answer: :(", None, 0, 0),
    (Pattern(r"Answer: (.+)"), "Answer: :(", "Answer: :(", None, 1, 1),
    (Pattern(r"Answer: (.+)"), "Answer: 1000", "Answer: 1,000", None, 1, 1),
    (Pattern(r"[A-Z ]+"), "ALL CAPITALS", "x", None, 1, 1),
    (Pattern(r"[A-Z ]+"), "Not all", "x", None, 0, 1),
    (Pattern(r"\d+"), "none", "x", None, 0, 0),
    (LastNumber("####"), "3+4=7\n#### 7", "so\n#### 7", None, 1, 1),
    (LastNumber("####"), "it is 7", "so\n#### 7", None, 0, 1),
    (LastNumber("####"), "#### 8 or 7", "so\n#### 7", None, 0, 0),
    (LastNumber("####"), "#### 7 or 8", "so\n#### 7", None, 1, 1),
    (LastNumber("####"), "#### 18 dollars per 2 days", "so\n#### 18", None, 1, 1),
    (LastNumber("####"), "#### -$5", "so\n#### 5", None, 0, 0),
    (LastNumber("####"), "#### -$5", "so\n#### -5", None, 1, 1),
    (LastNumber("####"), "#### .5", "so\n#### 5", None, 0, 0),
    (LastNumber("####"), "#### 1/2", "so\n#### 0.5", None, 1, 1),
    (LastNumber(), "1234567891", "1234567890", None, 0, 0),
    (LastNumber(), "0.1234567891", "0.1234567890", None, 0, 0),
    (LastNumber(), "9007199254740993", "9007199254740992", None, 0, 0),
    (LastNumber(), "$5", "€5", None, 0, 0),
    (LastNumber(), "5%", "5", None, 1, 1),
    (LastNumber("Total: $"), "Total: $-5", "Total: $5", None, 0, 0),
    (ExactMatch(), "A-", "A+", None, 0, 0),
    (ExactMatch(), "C", "C++", None, 0, 0),
    (ExactMatch(), "दीन", "दिन", None, 0, 0),
    (ExactMatch(), "答案是巴黎。", "巴黎", None, 0, 1),
    (Contains(), "C++", "C", None, 0, 0),
    (Contains(), "17", "7", None, 0, 0),
    (Contains(), "答案是巴黎。", "巴黎", None, 1, 1),
    (Pattern(r"Answer: (\w+)"), "Answer: दीन", "Answer: दिन", None, 0, 0),
    (Pattern(r"Answer: (\w+)"), "Answer: दिन", "Answer: दिन", None, 1, 1),
    (Pattern(r"Answer: (.+)"), "Answer: A-", "Answer: A", None, 0, 0),
    (Pattern(r"Answer: (.+)"), "Answer: A-", "Answer: A+", None, 0, 0),
    (Pattern(r"Answer: (.+)"), "Answer: cafe\u0301", "Answer: caf\u00e9", None, 1, 1),
    (BalancedAccuracy(("A-", "A", "A+")), "It is A-.", "A-", None, 0, 1),
    (BalancedAccuracy(("A-", "A", "A+")), "A/A+", "A+", None, 0, 0),
    (BalancedAccuracy(("can", "can't")), "I can't", "can", None, 0, 0),
    (BalancedAccuracy(("참", "거짓")), "답은 참입니다.", "참", None, 0, 1),
    (Pattern("Answer: ([A-D])"), "Answer: Absolutely", "Answer: A", None, 0, 0),
    (Pattern("Answer: ([A-D])"), "Answer: A+", "Answer: A", None, 0, 0),
    (Pattern("Answer: ([A-D])"), "Answer: A, since", "Answer: A", None, 0, 1),
    (Pattern("Answer: ([A-D])"), "Answer: **A**", "Answer: A", None, 0, 1),
    (Pattern(r"#### (\d+)"), "#### 5.5", "#### 5", None, 0, 0),
    (BalancedAccuracy(("A-", "A", "A+")), "It is A-.", "A", None, 0, 0),
    (BalancedAccuracy(("C", "C++")), "C++, of course", "C++", None, 0, 1),
    (BalancedAccuracy(("合格", "不合格")), "他不合格。", "不合格", None, 0, 1),
    (BalancedAccuracy(("合格", "不合格")), "他不合格。", "合格", None, 0, 0),
    (BalancedAccuracy(("safe", "not safe")), "safe, or not safe", "not safe", None, 0, 0),
    (LastNumber("####"), "7 ####", "so\n#### 7", None, 0, 0),
    (LastNumber("####"), "it is 8", "so\n#### 7", None, 0, 0),
    (LastNumber(), "7.0", "7", None, 1, 1),
    (LastNumber(), "it is 7", "7", None, 0, 1),
    (LastNumber(), "it is 7", "we get 7", None, 1, 1),
    (LastNumber(), "it is 1000", "so 1,000", None, 1, 1),
    (LastNumber(), "none", "7", None, 0, 0),
    (BalancedAccuracy(("yes", "no")), "yes", "yes", None, 1, 1),
    (BalancedAccuracy(("yes", "no")), "Yes, sure", "yes", None, 0, 1),
    (BalancedAccuracy(("yes", "no")), "yes or no", "yes", None, 0, 0),
    (BalancedAccuracy(("safe", "not safe")), "that is not safe.", "not safe", None, 0, 1),
    (BalancedAccuracy(("safe", "not safe")), "that is not safe.", "safe", None, 0, 0),
]


@pytest.mark.parametrize(("scorer", "completion", "reference", "content", "strict", "only"), CASES)
def test_judgements(scorer, completion, reference, content, strict, only):
    assert judged(scorer, completion, reference, content) == (strict, only)


PIECES = st.lists(
    st.sampled_from(["blue", "Blue", "no", "7", "-7", "####", "[", "]", ".", "  ", "\n", "yes"]), max_size=8
)


@given(PIECES.map("".join), PIECES.map(" ".join), st.sampled_from(["yes", "no", "#### 7", "[blue]"]))
def test_who_is_right_strictly_is_right_in_content(a, b, reference):
    scorers = [ExactMatch(), Contains(), Pattern(r"\[?(\S+)\]?.*")]
    scorers += [BalancedAccuracy(("yes", "no"))] * (reference in ("yes", "no"))
    scorers += [LastNumber("####"), LastNumber()] * (reference == "#### 7")
    for scorer in scorers:
        for completion in (a, b, reference):
            strict, content = judged(scorer, completion, reference)
            assert 0 <= strict <= content <= 1
        assert judged(scorer, reference, reference)[0] == 1


@given(st.text(alphabet="abcXYZ 019-", min_size=1), st.sampled_from(['"{}"', "*{}*", "({}).", " {} !", "<a>{}</a>"]))
def test_content_does_not_mind_case_and_wrapping(content, wrapping):
    if words(content):
        assert says(wrapping.format(content.upper()), content)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "?"])), min_size=1, max_size=30))
def test_balanced_accuracy_is_scikit_learns(pairs):
    truth, said = zip(*pairs, strict=True)
    scores = BalancedAccuracy(("a", "b", "c")).score(said, task(*truth).examples)
    known = {"a": 0, "b": 1, "c": 2, "?": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what was said and is no label
        wanted = balanced_accuracy_score([known[x] for x in truth], [known[x] for x in said])
    assert scores.mean() == pytest.approx(wanted)
    assert scores.weights.mean() == pytest.approx(1)


def test_an_answer_prior_gains_nothing_in_balanced_accuracy():
    truth = ["yes"] * 80 + ["no"] * 20
    assert BalancedAccuracy(("yes", "no")).score(["yes"] * 100, task(*truth).examples).mean() == pytest.approx(0.5)


def shout(completion, example):
    return completion.isupper(), completion.lower() == example.completion.lower()


def half(completion, example):
    return 0.5


def seven(completion, example):
    return 7


def breaks(completion, example):
    raise ValueError("no\nsuch")


def test_a_function_of_the_users():
    assert judged(UserFunction(f"{__name__}:shout"), "BLUE", "blue") == (1, 1)
    assert judged(UserFunction(f"{__name__}.half"), "x", "y") == (0.5, 0.5)
    with pytest.raises(AlignerProbeError, match="returned 7; expected a number from 0 to 1"):
        judged(UserFunction(f"{__name__}:seven"), "x", "y")
    with pytest.raises(AlignerProbeError, match=r"breaks failed on the completion 'x' .*ValueError: no such") as one:
        judged(UserFunction(f"{__name__}:breaks"), "x", "y")
    assert "\n" not in str(one.value)


@pytest.mark.parametrize("name", ["no.such:thing", "json:no_such", "json:__name__", "json", ""])
def test_functions_that_cannot_be_had(name):
    with pytest.raises(AlignerProbeError, match=r"expected .*function"):
        UserFunction(name)


PAIRS = Task("p", "preference", (Preference("p", "a", "b"),))


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda: Pattern("("), "no regular expression"),
        (lambda: judged(Pattern(r"\[(\w+)\]"), "x", "blue"), "does not find its group in the reference 'blue'"),
        (lambda: judged(LastNumber(), "7", "seven"), "'seven' has no number"),
        (lambda: BalancedAccuracy(("a", " a")), "at least two"),
        (lambda: LastNumber("."), "the marker '.' is a part of how numbers are written"),
        (lambda: LastNumber("-$"), "the marker '-\\$' is a part"),
        (lambda: judged(LastNumber(), "7", "12:30"), "'12:30' has no number"),
        (lambda: scorer_named("multiple_choice", task("yes", "no")), "lists no choices .*multiple_choice:A,B,C,D"),
        (lambda: scorer_named("multiple_choice:yes", task("yes")), "at least two"),
        (lambda: scorer_named("multiple_choice:yes,maybe", task("yes", "no")), "'no' is none of the choices 'yes'"),
        (lambda: judged(BalancedAccuracy(("a", "b")), "a", "c"), "'c' is none of the labels 'a', 'b'"),
        (lambda: judged(BalancedAccuracy(tuple("abcdefghijkl")), "a", "z"), "'i', 'j' and 2 more; expected one"),
        (lambda: MultipleChoice(("a",)), "at least two"),
        (lambda: ExactMatch().score(["a"], ()), "got 1 completions for 0 examples"),
        (lambda: ExactMatch().score([], task("a").examples), "got 0 completions for 1 examples"),
        (lambda: scorer_named("exactly", task("a")), "no scorer is named 'exactly'"),
        (lambda: scorer_named("exact:3", task("a")), "no scorer is named 'exact:3'"),
        (lambda: scorer_named("regex", task("a")), "no scorer is named 'regex'"),
        (lambda: guess_scorer(PAIRS), "holds preferences"),
        (lambda: score_task(tiny.bridge("llama"), PAIRS, ExactMatch()), "holds preferences"),
        (lambda: score_task(tiny.bridge("llama"), task("a"), ExactMatch()), "no tokenizer"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(attempt, says):
    with pytest.raises(AlignerProbeError, match=says) as caught:
        attempt()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("completions", "prompt", "scorer", "reason"),
    [
        (["a\n#### 7", "b #### 1,000"], "Q{}", LastNumber("####"), "####"),
        (["so\nThe answer is: 7", "well\nThe answer is: 12."], "Q{}", LastNumber("The answer is:"), "The answer is:"),
        (["7", "-12", "3.5"], "Q{}", LastNumber(), "a number"),
        ([".5", ".25", ".75"], "Q{}", LastNumber(), "a number"),
        ([".5", ".25", ".75"] * 10, "Q{}", LastNumber(), "a number"),
        (["$5", "$10", "$2.50"], "Q{}", LastNumber(), "a number"),
        (["-5", "-7", "-9"], "Q{}", LastNumber(), "a number"),
        (["5%", "7%", "100%"] * 10, "Q{}", LastNumber(), "a number"),
        (["1/2", "3/4", "-$1,000", "1e3", ".5", "€7"], "Q{}", LastNumber(), "a number"),
        (["x = $5", "x = -$7", "x = .5"], "Q{}", LastNumber("x ="), "'x =' and a number"),
        (["1.5.2", "1.5.3", "12:30"], "Q{}", ExactMatch(), "short"),
        (["हाँ", "नहीं"] * 10, "Q{}", BalancedAccuracy(("नहीं", "हाँ")), "labels"),
        (["yes", "no"] * 10, "Q{}", BalancedAccuracy(("no", "yes")), "20 completions are only 2 labels"),
        (["A", "B"] * 10, "{}? A. red B. blue", MultipleChoice(("A", "B")), "lists the choices A, B"),
        (["A", "B"] * 10, "{}?\nA. red\nB. blue\nC. green", MultipleChoice(("A", "B", "C")), "the choices A, B, C"),
        (["A", "B"], "{}?\n(A) red\n(B) blue\n(C) green", MultipleChoice(("A", "B", "C")), "every completion is one"),
        (["क", "ख"] * 10, "{}?\nक) लाल\nख) नीला\nग) हरा", MultipleChoice(("क", "ख", "ग")), "lists the choices"),
        (["A", "B"] * 10, "{}?", BalancedAccuracy(("A", "B")), "labels"),
        (["a blue hat", "a red hat"], "Q{}", ExactMatch(), "short (3 words, median)"),
        (["blue"] * 20, "Q{}", ExactMatch(), "short"),
        (["a long tale " * 10, "another long tale " * 10], "Q{}", MeanLogLikelihood(), "long texts"),
    ],
)
def test_guesses(completions, prompt, scorer, reason):
    guess = guess_scorer(task(*completions, prompt=prompt))
    assert guess.scorer == scorer
    assert reason in guess.reason


def test_scorers_by_name():
    few = task("yes", "no")
    assert scorer_named("exact", few) == ExactMatch()
    assert scorer_named("regex:a:(b)", few) == Pattern("a:(b)")
    assert scorer_named("last_number", few) == LastNumber()
    assert scorer_named("last_number:####", few) == LastNumber("####")
    assert scorer_named("balanced_accuracy", few) == BalancedAccuracy(("no", "yes"))
    assert scorer_named("balanced_accuracy:yes,no,maybe", few) == BalancedAccuracy(("yes", "no", "maybe"))
    assert scorer_named("multiple_choice:yes, no,maybe", few) == MultipleChoice(("yes", "no", "maybe"))
    assert scorer_named(f"python:{__name__}:half", few) == UserFunction(f"{__name__}:half")


REAL = {
    "gsm8k": ({}, LastNumber("####")),
    "mol_bbbp": (
        {"prompt_template": "SMILES: {smiles}\nCrosses the barrier:", "completion_field": "p_np"},
        BalancedAccuracy(("0", "1")),
    ),
    "mmlu": (
        {"prompt_template": "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\nAnswer:", "completion_field": "answer"},
        MultipleChoice(tuple("ABCD")),
    ),
    "alpaca": ({"flawed": "drop"}, MeanLogLikelihood()),
}


@pytest.mark.parametrize("name", REAL)
def test_guesses_on_real_data(name):
    if not (DATA / "data").is_dir():
        pytest.skip(f"no {DATA / 'data'}; set ALIGNER_PROBE_DATA to a folder with data sets in data/")
    options, scorer = REAL[name]
    found = load_task(DATA / "data" / name, **options)
    assert guess_scorer(found).scorer == scorer
    if name == "gsm8k":
        references = [example.completion for example in found.examples]
        assert scorer.score(references, found.examples).mean() == 1


def test_the_content_field(tmp_path):
    rows = [
        {"prompt": "p", "completion": "Arr, blue", "content": "blue"},
        {"prompt": "q", "completion": "Arr, 7", "content": 7},
        {"prompt": "r", "completion": "Arr"},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load_task(path)
    assert [example.content for example in found.examples] == ["blue", "7", None]
    assert list(found.to_frame().columns) == ["prompt", "completion", "content", "group", "line"]
    named = load_task(path, prompt_template="{prompt}?", completion_field="completion")
    assert [example.content for example in named.examples] == ["blue", "7", None]
    path.write_text(json.dumps({"content": "a document", "title": "its title"}))
    for template, completion in (("{content}\n", "title"), ("{title}", "content")):
        [example] = load_task(path, prompt_template=template, completion_field=completion).examples
        assert example.content is None
    path.write_text(json.dumps({"prompt": "p", "completion": "c", "content": ["no"]}))
    with pytest.raises(AlignerProbeError, match="line 1: its content is a JSON list"):
        load_task(path)


def test_contents_are_part_of_a_tasks_hash():
    assert task("a").sha256 != task("a", contents=["b"]).sha256
