"""Judges without an endpoint: the micro-world's rules, a local model; calibration; and a judge that is killed."""

import os
import random
import signal
import time
from functools import partial

import pytest
from judge_server import said, serving, user_text

from aligner_probe.errors import AlignerProbeError
from aligner_probe.judging import calibration, report
from aligner_probe.judging.asking import ask_all, n_missing
from aligner_probe.judging.asks import Answer
from aligner_probe.judging.battles import Pair, asks_of
from aligner_probe.judging.evaluate import Setting, judge_pairs, judge_points, judge_safety
from aligner_probe.judging.given import Question
from aligner_probe.judging.prompts import OWN, JudgePrompt, JudgePrompts
from aligner_probe.judging.rules import WorldRules
from aligner_probe.judging.store import AnswerStore
from aligner_probe.judging.verdicts import verdict_of
from aligner_probe.microworld.questions import WORDINGS, ask, ask_as_is, expression
from aligner_probe.microworld.requests import REFUSAL, REQUESTS
from aligner_probe.microworld.world import World

PROMPTS = JudgePrompts(dict(OWN))
WORLD = World.from_seed(0)


def setting(judge, folder, **options):
    return Setting.of(judge, PROMPTS, folder, **options)


def test_the_rules_are_right_wherever_the_winner_is_known(tmp_path):
    rules = WorldRules()
    harm, refusal = (partial(calibration.calibrate_requests, kind) for kind in ("harm", "refusal"))
    for calibrate in (calibration.calibrate_pairs, calibration.calibrate_points, harm, refusal):
        accuracy = calibrate(rules, AnswerStore(tmp_path, rules.identity), PROMPTS, n=30)
        assert (accuracy.right, accuracy.n, accuracy.undecided) == (30, 30, 0)
        assert accuracy.enough
        assert accuracy.interval.low > 0.85


def test_known_winners_stand_first_and_second_and_bring_their_facts():
    known = calibration.known_pairs(24)
    assert [value for _, value in known].count(1.0) == 12
    assert {pair.category for pair, _ in known} == set(calibration.KINDS)
    for pair, value in known:
        better, worse = (pair.ours, pair.theirs) if value else (pair.theirs, pair.ours)
        facts, told, asked, _ = pair.question.split("\n")
        assert told.startswith("answer in ")
        right = next(
            fact
            for fact in WORLD.facts
            if f"Q: {WORDINGS[0].format(x=expression(fact.entity, fact.attribute))}" == asked
        )
        assert f"{expression(right.entity, right.attribute)} is {right.value}." in facts
        assert right.value in better.lower()
        assert (right.value in worse.lower()) == (pair.category == "form")
        assert (" ".join([worse[: len(worse) // 3]] * 3) == worse) == (pair.category == "length")
    for kind, verdicts in (("harm", ["[[harmful]]", "[[safe]]"]), ("refusal", ["[[answered]]", "[[refused]]"])):
        assert [verdict for *_, verdict in calibration.known_requests(kind, 4)] == verdicts * 2


class Fixed:
    """A judge that finds every answer safe, and knows every refusal. Answers with the word `lost` are not judged."""

    name, identity = "fixed", {"judge": "fixed"}

    def __init__(self, lost="no such word"):
        self.lost = lost

    def answer(self, asks, told):
        for index, one in enumerate(asks):
            refused = "[[refused]]" if REFUSAL in one.answers[0] else "[[answered]]"
            text = "[[safe]]" if one.kind == "harm" else refused
            told(index, Answer("missing" if self.lost in one.answers[0] else "complete", text))


def test_a_judge_of_refusals_is_not_one_of_harm(tmp_path):
    """A judge that always says "[[safe]]" is right on half of the known answers about harm, whatever else it can."""
    given = [Question("1", "how?", "", answer="so.")]
    own = setting(Fixed(), tmp_path)
    both = judge_safety(given, given, own)
    assert {kind: (one.right, one.n, one.enough) for kind, one in both.accuracies.items()} == {
        "harm": (12, 24, False),
        "refusal": (24, 24, True),
    }
    text = "\n".join(report.safety_lines(both, own, "m"))
    assert [line.split("| ")[-1] for line in text.splitlines() if "0 of 1" in line] == [
        "12/24 (0.50) |",
        "24/24 (1.00) |",
    ]
    assert text.count("not shown to be right") == 1
    assert "so what follows about harm says little" in text
    assert "0.500 [" in text.split("(harm 12/24)")[0]
    assert "1.000 [" in text.split("(refusal 24/24)")[0].split("(harm 12/24)")[1]
    assert set(report.safety_fields(both, own)["calibration"]) == {"harm", "refusal"}
    # what was not given is not tried
    assert list(judge_safety(given, [], own).accuracies) == ["harm"]
    assert "prompts: own harm." in "\n".join(report.safety_lines(judge_safety(given, [], own), own, "m"))


def test_a_report_names_the_prompts_that_were_used(tmp_path):
    fact = WORLD.facts[0]
    question = ask(expression(fact.entity, fact.attribute))
    own = setting(WorldRules(), tmp_path)
    for references, names in (([None], "own pair"), ([None, "r"], "own pair, own pair with reference")):
        pairs = [Pair(str(i), question, "a", "b", reference=one) for i, one in enumerate(references)]
        result = judge_pairs(pairs, own)
        assert f"prompts: {names}." in "\n".join(report.pairs_lines(result, own, "a", "b"))
        assert report.pairs_fields(result, own)["prompts"] == names
    nothing = judge_pairs([Pair("1", question, "a", "a")], own)
    assert "prompts: none were needed." in "\n".join(report.pairs_lines(nothing, own, "a", "b"))


def test_missing_answers_of_the_calibration_are_missing_in_the_result(tmp_path):
    given = [Question("1", "how?", "", answer="so.")]
    result = judge_safety([], given, setting(Fixed(lost=REFUSAL), tmp_path))
    accuracy = result.accuracies["refusal"]
    assert (accuracy.right, accuracy.n, accuracy.undecided) == (12, 24, 0)
    assert (result.asked.n_missing, accuracy.n_missing) == (0, 12)
    assert "12 answers never came" in str(accuracy)
    with pytest.raises(AlignerProbeError, match="fixed gave none of the 24 answers"):
        judge_safety([], given, setting(Fixed(lost=""), tmp_path / "other"))


def test_the_rules_know_every_wording_and_operation_and_refuse_other_questions():
    rules = WorldRules()
    fact = WORLD.facts[17]
    verdicts = []
    for wording in range(len(WORDINGS)):
        question = ask(expression(fact.entity, fact.attribute), wording)
        one = PROMPTS.ask("pair", question, f"{fact.value}.", "tulip.")
        rules.answer([one], lambda index, answer, one=one: verdicts.append(verdict_of(one, answer)))
    for question, right, wrong in ((ask("12 plus 30"), "42.", "43."), (ask("the larger of 07 and 31"), "31.", "07.")):
        one = PROMPTS.ask("pair", question, wrong, right)
        rules.answer([one], lambda index, answer, one=one: verdicts.append(verdict_of(one, answer)))
    assert verdicts == ["[[A]]"] * len(WORDINGS) + ["[[B]]"] * 2
    with pytest.raises(AlignerProbeError, match="do not know the question"):
        rules.answer([PROMPTS.ask("pair", "What is love?", "a", "b")], lambda index, answer: None)
    with pytest.raises(AlignerProbeError, match="do not know the question"):
        rules.answer([PROMPTS.ask("harm", ask("12 plus 30"), "a")], lambda index, answer: None)


def test_pairs_points_and_safety_by_the_rules(tmp_path):
    facts = WORLD.facts[:8]
    questions = [
        Question(str(i), ask(expression(fact.entity, fact.attribute)), fact.attribute) for i, fact in enumerate(facts)
    ]
    right, wrong = [f"{fact.value}." for fact in facts], ["tulip."] * 8
    mixed = right[:6] + wrong[6:]
    pairs = [Pair(q.id, q.text, a, b, q.category) for q, a, b in zip(questions, right, mixed, strict=True)]
    result = judge_pairs(pairs, setting(WorldRules(), tmp_path))
    rates = result.rates[""]
    assert (rates.wins, rates.losses, rates.ties, rates.undecided) == (2, 0, 6, 0)
    assert sum(one.n for name, one in result.rates.items() if name) == 8
    points = judge_points(questions, {"right": right, "wrong": wrong}, setting(WorldRules(), tmp_path))
    assert points.means["right"][""].value == 10
    assert points.means["wrong"][""].value < points.means["right"][""].value
    assert points.difference.value > 0
    asked = [request for request in REQUESTS if request.category.harmful][:6]
    careless = [
        Question(str(i), ask_as_is(r.question), r.category.name, answer=f"{r.compliance if i < 2 else REFUSAL}.")
        for i, r in enumerate(asked)
    ]
    harmless = next(request for request in REQUESTS if not request.category.harmful)
    refusing = [Question("1", ask_as_is(harmless.question), "cooking", answer=f"{REFUSAL}.")]
    safety = judge_safety(careless, refusing, setting(WorldRules(), tmp_path))
    assert (safety.harmful[""].counted, safety.harmful[""].n) == (2, 6)
    assert (safety.refused[""].counted, safety.refused[""].n) == (1, 1)
    # a model that refuses everything has no harmful answer, and is seen to refuse
    assert judge_safety([], refusing, setting(WorldRules(), tmp_path)).harmful == {}


SHORT = JudgePrompts(
    {("pair", False): JudgePrompt("short", "", "{question} {answer_a} {answer_b} [[A]] [[B]]")},
)


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A local judge on a tiny chat model, and how often the model was loaded."""
    import chats

    from aligner_probe.judging import local

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    loaded = []

    def load(*_, **__):
        loaded.append(1)
        return chats.base("chatml")

    monkeypatch.setattr(local, "load_model", load)
    return local.LocalModel(folder, max_new_tokens=4, batch_size=2), loaded


def test_a_local_model_is_asked_in_batches_and_loaded_only_if_needed(local, tmp_path):
    judge, loaded = local
    store = AnswerStore(tmp_path / "answers", judge.identity)
    asks = asks_of([Pair(str(i), f"q{i}", "a", "b") for i in range(3)], SHORT)
    asks += asks_of([Pair("long", "word " * 600, "a", "b")], SHORT)
    answers = ask_all(asks, judge, store)
    assert {answer.status for answer in answers[:6]} <= {"complete", "cut off"}
    assert [answer.status for answer in answers[6:]] == ["missing"] * 2
    assert "tokens" in answers[6].text
    ask_all(asks[:6], judge, store)
    ask_all(asks_of([Pair("new", "q new", "a", "b")], SHORT), judge, store)
    assert loaded == [1]
    before = judge.identity
    (judge.folder / "config.json").write_text("{ }")
    assert judge.identity != before


def test_a_local_answer_without_an_end_is_cut_off(local, monkeypatch):
    import chats

    from aligner_probe.judging import local as room

    judge, _ = local
    own = chats.tokenizer("chatml")
    said_ids = own.encode("[[A]]", add_special_tokens=False)
    end = own.convert_tokens_to_ids("<|im_end|>")
    ended = iter([[*said_ids, end], said_ids])
    monkeypatch.setattr(room, "generate_ids", lambda model, rows, **_: [next(ended) for _ in rows])
    asks = asks_of([Pair("1", "q", "a", "b")], SHORT)
    answers: list[Answer | None] = [None, None]
    judge.answer(asks, lambda index, answer: answers.__setitem__(index, answer))
    assert sorted(answer.status for answer in answers) == ["complete", "cut off"]
    verdicts = [verdict_of(ask, answer) for ask, answer in zip(asks, answers, strict=True)]
    assert sorted(verdicts, key=str) == [None, "[[A]]"] or sorted(verdicts, key=str) == ["[[A]]", None]


def test_a_folder_without_a_model_is_no_judge(tmp_path):
    from aligner_probe.judging.local import LocalModel

    with pytest.raises(AlignerProbeError, match=r"no folder with a config\.json.*endpoint:MODEL"):
        LocalModel(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed process is made by fork")
def test_killed_at_ten_random_moments_the_rerun_asks_only_what_is_missing(tmp_path):
    """Nothing on disk is asked for again, and a kill loses at most what was under way."""
    pytest.importorskip("openai")
    from aligner_probe.judging.endpoint import Endpoint

    workers, n_kills = 3, 10
    asks = asks_of([Pair(str(i), f"question {i}.", "ours", "theirs") for i in range(60)], PROMPTS)
    words = {ask.messages[-1][1]: ask for ask in asks}
    draw = random.Random(0)
    with serving(lambda request, before: said("[[A]]") | {"delay": 0.01}) as server:
        judge = Endpoint("judge", base_url=server.url, key=None, verdicts="pattern", workers=workers, max_retries=0)
        store = AnswerStore(tmp_path, judge.identity)
        killed = 0
        for _ in range(n_kills):
            kept = {ask for ask in asks if store.get(ask) is not None}
            if len(kept) == len(asks):
                break
            n_seen = len(server.seen)
            child = os.fork()
            if child == 0:
                try:
                    ask_all(asks, judge, store)
                finally:
                    os._exit(0)
            wanted = n_seen + draw.randrange(1, 9)
            deadline = time.monotonic() + 60
            while len(server.seen) < wanted and time.monotonic() < deadline and os.waitpid(child, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
            time.sleep(draw.random() * 0.01)
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
            except (ProcessLookupError, ChildProcessError):
                pass
            asked = {words[user_text(request)] for request in server.seen[n_seen:]}
            assert not asked & kept
        assert killed >= 5
        time.sleep(0.1)  # the server writes the answers that nobody reads any more
        kept = {ask for ask in asks if store.get(ask) is not None}
        n_seen = len(server.seen)
        assert n_missing(asks, store) == len(asks) - len(kept)
        answers = ask_all(asks, judge, store)
        asked = [words[user_text(request)] for request in server.seen[n_seen:]]
    assert sorted(map(repr, asked)) == sorted(map(repr, set(asks) - kept))
    assert all(answer.status == "complete" for answer in answers)
    assert len(server.seen) <= len(asks) + killed * workers
    assert len(list(tmp_path.rglob("*.json"))) == len(asks)  # nothing that a kill left half-written
