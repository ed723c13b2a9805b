"""`aligner-probe evaluate judge` and `evaluate safety`, by the rules and by a server."""

import json

import pytest
from in_process import called
from judge_server import failed, said, serving, user_text

from aligner_probe.commands import messages
from aligner_probe.commands.evaluate import main
from aligner_probe.judging.calibration import known_pairs
from aligner_probe.microworld.questions import ask, ask_as_is, expression
from aligner_probe.microworld.requests import REFUSAL, REQUESTS
from aligner_probe.microworld.world import World

KEY = "sk-secret-0123456789"


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """Questions of the micro-world with a right and a wrong file of answers."""
    facts = World.from_seed(0).facts[:6]
    questions = [
        {
            "question_id": i,
            "question": ask(expression(f.entity, f.attribute)),
            "category": "even" if i % 2 == 0 else "odd",
        }
        for i, f in enumerate(facts)
    ]
    right = [{"question_id": i, "answer": f"{f.value}."} for i, f in enumerate(facts)]
    return {
        "questions": jsonl(tmp_path / "questions.jsonl", questions),
        "right": jsonl(tmp_path / "right.jsonl", right),
        "wrong": jsonl(tmp_path / "wrong.jsonl", [row | {"answer": "tulip."} for row in right]),
    }


def judged(capsys, files, tmp_path, *more, judge="rules"):
    words = (
        "--questions",
        files["questions"],
        "--judge",
        judge,
        "--cache",
        tmp_path / "cache",
        "--out",
        tmp_path / "out",
    )
    return called(capsys, main, "judge", *words, *more)


def test_pairs_by_the_rules(capsys, files, tmp_path):
    done = judged(capsys, files, tmp_path, "--answers", files["right"], files["wrong"])
    assert done.returncode == 0, done.stderr
    assert "right against wrong" in done.stdout
    assert "right on 24 of 24 known answers" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "6 / 0 / 0" in line or "3 / 0 / 0" in line]
    assert len(rows) == 3
    # the judge's accuracy stands beside every result
    assert all("24/24 (1.00)" in row for row in rows)
    assert "There is none here, because all battles have the same result" in done.stdout
    assert "prompts: pair-v2 of judge_prompts.jsonl." in done.stdout or "prompts: own pair." in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["length_controlled"] is None
    assert report["rates"]["all"]["wins"] == 6
    assert report["calibration"]["right"] == 24
    battles = [json.loads(line) for line in (tmp_path / "out" / "battles.jsonl").read_text().splitlines()]
    assert [battle["outcome"] for battle in battles] == ["win"] * 6
    assert (tmp_path / "out" / "report.md").read_text().startswith("# right against wrong")


def test_a_dry_run_counts_the_calls_and_writes_nothing(capsys, files, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    words = ("--answers", files["right"], files["wrong"], "--calibration", 6)
    with serving(lambda request, before: said("[[C]]")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        endpoint = "endpoint:judge"
        done = judged(capsys, files, tmp_path, *words, "--dry-run", "--repeat", 2, judge=endpoint)
        assert done.returncode == 0, done.stderr
        assert "calibration: 12 answers, 0 on disk, 12 to ask for" in done.stdout
        assert "evaluation: 24 answers, 0 on disk, 24 to ask for" in done.stdout
        assert "36 calls" in done.stdout
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "cache").exists()
        assert not server.seen
        judged(capsys, files, tmp_path, *words, judge=endpoint)
        done = judged(capsys, files, tmp_path, *words, "--dry-run", "--repeat", 2, judge=endpoint)
    assert f"answers in {tmp_path / 'cache'}" in done.stdout
    assert "calibration: 12 answers, 12 on disk, 0 to ask for" in done.stdout
    assert "12 calls" in done.stdout


def test_verdicts_of_the_rules_are_not_kept(capsys, files, tmp_path):
    """They cost nothing, and another version of the rules may give others."""
    words = ("--answers", files["right"], files["wrong"], "--calibration", 6)
    assert judged(capsys, files, tmp_path, *words).returncode == 0
    assert not (tmp_path / "cache").exists()
    done = judged(capsys, files, tmp_path, *words, "--dry-run")
    assert "answers are not kept" in done.stdout
    assert "calibration: 12 answers, 0 on disk, 12 to ask for" in done.stdout


def test_single_answers_by_the_rules(capsys, files, tmp_path):
    done = judged(capsys, files, tmp_path, "--single", "--answers", files["right"], files["wrong"], "--names", "r", "w")
    assert done.returncode == 0, done.stderr
    assert "10.00" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["means"]["r"]["all"]["value"] == 10
    assert report["difference"]["value"] > 0
    assert not (tmp_path / "out" / "battles.jsonl").exists()
    alone = judged(capsys, files, tmp_path, "--answers", files["wrong"])
    assert "Points of wrong" in alone.stdout


def test_safety_by_the_rules(capsys, tmp_path):
    def rows(harmful, answer):
        chosen = [request for request in REQUESTS if request.category.harmful == harmful][:10]
        return [
            {"prompt": ask_as_is(r.question), "category": r.category.name, "answer": f"{answer or r.compliance}."}
            for r in chosen
        ]

    harmful = jsonl(tmp_path / "harmful.jsonl", rows(True, None))
    harmless = jsonl(tmp_path / "harmless.jsonl", rows(False, REFUSAL))
    words = ("--judge", "rules", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
    done = called(capsys, main, "safety", "--answers", harmful, "--harmless", harmless, *words)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["harmful"]["all"]["counted"] == 10
    assert report["harmful"]["theft"]["n"] == 10
    assert report["refused"]["all"]["counted"] == 10
    assert "over-refusal" in done.stdout
    for which, n in ((("--answers", harmful), 24), (("--answers", harmful, "--harmless", harmless), 48)):
        dry = called(capsys, main, "safety", *which, *words, "--dry-run")
        [known] = [line for line in dry.stdout.splitlines() if line.startswith("calibration: ")]
        assert known.startswith(f"calibration: {n} answers")
    alone = called(capsys, main, "safety", "--answers", harmful, *words)
    assert "No refusals of harmless requests were counted" in alone.stdout


def test_an_endpoint_whose_key_is_nowhere_and_whose_answers_may_be_missing(capsys, files, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    question = json.loads(files["questions"].read_text().splitlines()[0])["question"]
    healthy = False

    def script(request, before):
        if question in user_text(request) and "tulip" in user_text(request) and not healthy:
            return failed(400, f"{KEY} is not allowed to ask this")
        return said(f"{KEY}: [[C]]")

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        more = ("--answers", files["right"], files["wrong"], "--calibration", 3, "--max-retries", 0, "--workers", 1)
        done = judged(capsys, files, tmp_path, *more, judge="endpoint:judge")
        assert done.returncode == 1
        assert messages.ANSWERS_MISSING.format(n=2) in done.stderr
        assert "not shown to be right" in done.stdout
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["answers"] == {"verdict": 10, "missing": 2}
        assert report["rates"]["all"] | {"adjusted_win_rate": 0} == {
            "wins": 0,
            "losses": 0,
            "ties": 5,
            "undecided": 1,
            "order_dependent": 0,
            "adjusted_win_rate": 0,
            "bounds": [2.5 / 6, 3.5 / 6],
        }
        n, healthy = len(server.seen), True
        done = judged(capsys, files, tmp_path, *more, judge="endpoint:judge")
        assert done.returncode == 0, done.stderr
        assert len(server.seen) == n + 2
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in written + done.stdout + done.stderr
    assert "[key hidden]" in written


@pytest.mark.parametrize("command", ["pairs", "points", "safety"])
def test_missing_answers_of_the_calibration_are_in_the_exit_code(command, capsys, files, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    rejected = {"pairs": known_pairs(4)[0][0].question, "points": known_pairs(4)[0][0].question}.get(command, REFUSAL)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(
        lambda request, before: failed(400, "too long") if rejected in user_text(request) else said("[[5]]")
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        words = ("--calibration", 4, "--max-retries", 0, "--workers", 1, "--verdicts", "pattern")
        if command == "safety":
            given = jsonl(tmp_path / "given.jsonl", [{"prompt": "p", "category": "c", "answer": "a"}])
            more = ("--judge", "endpoint:judge", "--cache", tmp_path / "cache", "--out", tmp_path / "out")
            done = called(capsys, main, "safety", "--harmless", given, *more, *words)
        else:
            answers = [files["right"], files["wrong"]][: 2 if command == "pairs" else 1]
            done = judged(capsys, files, tmp_path, "--answers", *answers, *words, judge="endpoint:judge")
    assert done.returncode == 1
    assert messages.ANSWERS_MISSING.format(n=2) in done.stderr
    assert "2 answers never came" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())["calibration"]
    assert (report["refusal"] if command == "safety" else report)["missing"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--answers", "a.jsonl", "b.jsonl", "c.jsonl"), "3 files of answers"),
        (("--answers", "right.jsonl", "x/right.jsonl"), "a name of its own"),
        (("--answers", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_one_line(words, message, capsys, files, tmp_path):
    done = judged(capsys, files, tmp_path, *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("judge", "more", "message"),
    [
        ("endpoint:judge", (), "OPENAI_BASE_URL is not set"),
        ("endpoint:", (), "names no model"),
        ("nowhere", (), "nowhere is no judge"),
        ("rules", ("--timeout", 0), "--timeout is above 0"),
    ],
)
def test_a_judge_that_is_none_is_one_line(judge, more, message, capsys, files, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    done = judged(capsys, files, tmp_path, "--answers", files["right"], *more, judge=judge)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_no_answers_are_no_evaluation_of_safety(capsys, tmp_path):
    done = called(capsys, main, "safety", "--judge", "rules", "--out", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "neither --answers nor --harmless" in done.stderr
