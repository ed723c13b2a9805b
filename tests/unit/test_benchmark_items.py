"""Answers to benchmarks on disk, their scores and differences, and the report: all without lm-eval."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarked import answered
from scipy import stats

from aligner_probe.errors import AlignerProbeError
from aligner_probe.harness import report
from aligner_probe.harness.asking import _score
from aligner_probe.harness.comparing import compare, differences_of, scores_of
from aligner_probe.harness.items import BatchCheck, Item, file_of, read_answered, write_answered
from aligner_probe.harness.library import Asking, Benchmark, version
from aligner_probe.markdown import table


def read(out, adapter=None, prompts="p"):
    return read_answered(out, "base", "task", adapter=adapter, prompts=prompts)


def a_benchmark(n, n_all=None, n_cut=0):
    request = SimpleNamespace(args=("Which one?\nAnswer:", " A"))
    task = SimpleNamespace(instances=[request])
    return Benchmark("task", (task,), {"task": list(range(n))}, n_all or n, (1,), n_cut, 512)


def eleven_against_one():
    """220 items, of which 100 are right in both models, 11 in the second alone and one in the first alone."""
    first, second = np.zeros(220), np.zeros(220)
    first[:100] = second[:100] = 1
    second[100:111], first[111] = 1, 1
    return first, second


def test_what_is_written_is_read(tmp_path):
    check = BatchCheck(2, 16, 1, 1, 0)
    before = answered([1.0, 0.0], adapter="abc", check=check)
    line_breaks = Item("task", 2, "none", {"acc": float("nan")}, "two\u2028lines", "A", "a\nb", ["x\n", "\ud800"])
    before.items.append(line_breaks)
    write_answered(tmp_path, "base", "task", before)
    after = read(tmp_path, adapter="abc")
    assert after.items[:2] == before.items[:2]
    assert (after.metrics, after.check, after.adapter) == (before.metrics, check, "abc")
    assert after.items[2].answer == "two\u2028lines"
    assert after.items[2].scores == {"acc": None}
    assert "NaN" not in file_of(tmp_path, "base", "task", "jsonl").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float64("nan"), "many", None])
def test_what_is_no_finite_number_is_no_score(value):
    """A score that is not finite would stop the report after all was asked."""
    assert _score(value) is None
    assert _score(np.float32(0.5)) == 0.5


def test_a_benchmark_without_its_last_file_is_not_finished(tmp_path):
    assert read(tmp_path) is None
    write_answered(tmp_path, "base", "task", answered([1.0]))
    file_of(tmp_path, "base", "task", "json").unlink()
    assert read(tmp_path) is None


@pytest.mark.parametrize(
    ("other", "message"), [({"adapter": "x"}, "of another adapter"), ({"prompts": "q"}, "to other prompts")]
)
def test_answers_of_something_else_are_refused(tmp_path, other, message):
    write_answered(tmp_path, "base", "task", answered([1.0]))
    with pytest.raises(AlignerProbeError, match=message):
        read(tmp_path, **other)


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text + text, lambda text: "[]\n"])
def test_damaged_answers_say_how_to_go_on(tmp_path, damage):
    write_answered(tmp_path, "base", "task", answered([1.0, 0.0]))
    rows = file_of(tmp_path, "base", "task", "jsonl")
    rows.write_text(damage(rows.read_text()))
    with pytest.raises(AlignerProbeError, match=r"is damaged.*remove .*task\.json, and the same command goes on"):
        read(tmp_path)


def test_a_task_whose_name_is_no_file_name_stays_in_the_folder(tmp_path):
    assert file_of(tmp_path, "base", "../a/b c", "json").parent == tmp_path / "items" / "base"


def test_differences_are_paired():
    first, second = eleven_against_one()
    [difference] = differences_of({"base": answered(first), "adapter": answered(second)})
    assert (difference.one, difference.other, difference.n) == ("adapter", "base", 220)
    assert round(difference.discordant.p, 3) == 0.006
    assert (difference.discordant.only_a, difference.discordant.only_b) == (11, 1)
    assert difference.interval.value == pytest.approx(10 / 220)
    # the interval of the paired t-test; that of two samples would have 0 in it
    theirs = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (difference.interval.low, difference.interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert difference.interval.low > 0 > stats.ttest_ind(second, first).confidence_interval(0.95).low


def test_scores_have_the_standard_error_of_a_mean():
    values = np.array([1, 0, 0, 1, 1, 0, 1, 1], dtype=float)
    [score] = scores_of({"base": answered(values)})
    assert score.value == pytest.approx(values.mean())
    assert score.standard_error == pytest.approx(stats.sem(values))
    assert score.interval.low < score.value < score.interval.high


def test_every_pair_is_compared_and_scores_between_0_and_1_have_no_discordant_items():
    its = {name: answered([share, 0.5, 0.25]) for name, share in (("base", 0.0), ("a", 0.5), ("b", 1.0))}
    differences = differences_of(its)
    assert [(one.one, one.other) for one in differences] == [("a", "base"), ("b", "base"), ("b", "a")]
    assert all(one.discordant is None for one in differences)


def test_a_metric_that_is_no_mean_is_lm_evals_own_and_is_not_compared():
    its = {name: answered([3.0, 4.0], metric="perplexity", is_mean=False) for name in ("base", "a")}
    assert [(one.value, one.interval, one.n) for one in scores_of(its)] == [(3.5, None, 2)] * 2
    assert differences_of(its) == []


def test_models_that_answered_other_items_are_not_compared():
    with pytest.raises(AlignerProbeError, match="a and base answered other items"):
        differences_of({"base": answered([1.0]), "a": answered([1.0, 0.0])})
    with pytest.raises(AlignerProbeError, match="other items"):
        differences_of({"base": answered([1.0]), "a": answered([1.0], prompts="q")})


def test_the_report_says_what_a_reader_must_know(tmp_path):
    first, second = eleven_against_one()
    its = {
        "base": answered(first, metric="exact_match", filter_name="strict-match"),
        "a|b": answered(second, metric="exact_match", filter_name="strict-match", check=BatchCheck(16, 16, 1, 2, 1)),
    }
    benchmark, asking = a_benchmark(220, n_all=1319, n_cut=3), Asking(shots=1, limit=220, seed=5)
    compared = compare({"task": its}, asking.seed)
    lines = report.lines_of([benchmark], {"task": its}, compared, asking, "Base model M in float32, lm-eval 1.")
    text = "\n".join(lines)
    assert "without a chat template" in text
    assert "Seed 5" in text
    assert "220 items (of 1319, drawn at random), 1 example before each question" in text
    assert "3 prompts are too long for the context and lost" in text
    [row] = [line for line in lines if "11 : 1" in line]
    assert ".006" in row
    assert "a\\|b − base" in row
    assert "+0.045 [+0.0" in row
    assert "a|b: with batches of 1 instead of 16, 2 of 16 answers differ, and 1 of 16 scores." in text
    assert "    Which one?\n    Answer:" in text
    assert "number of comparisons (1)" in text
    fields = report.fields_of([benchmark], {"task": its}, compared, asking, {"lm_eval": "1"})
    files = report.write_report(tmp_path, lines, fields)
    assert [file.name for file in files] == ["report.md", "report.json"]
    written = json.loads(files[1].read_text())["benchmarks"]["task"]
    assert written["differences"][0]["discordant"]["p"] == pytest.approx(26 / 4096)
    assert [score["n"] for score in written["scores"]] == [220, 220]
    assert written["models"]["a|b"]["batch_check"]["scores"] == 1


def test_a_report_of_the_base_model_alone_compares_nothing():
    its = {"task": {"base": answered([1.0])}}
    lines = report.lines_of([a_benchmark(1)], its, compare(its), Asking(as_chat=True, system="Hi."), "M.")
    text = "\n".join(lines)
    assert "compared" not in text
    assert "as messages of the chat template, with the system message 'Hi.'" in text


def test_a_missing_lm_eval_is_one_line_with_the_command(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(AlignerProbeError, match=r'missing: pip install "aligner-probe\[benchmark\]"'):
        version()


def test_tables_escape_bars_and_align_columns():
    assert table(("a", "bb"), [("1|2", "3")]) == ["| a    | bb |", "| ---- | -- |", "| 1\\|2 | 3  |"]
