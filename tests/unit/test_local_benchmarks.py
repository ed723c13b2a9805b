"""GSM8K and MMLU from folders: the rows, the examples and what is refused; no lm-eval is needed for that."""

import pytest
from benchmarked import SUBJECTS, data_in, gsm8k_rows, mmlu_rows, write_rows

from aligner_probe.errors import AlignerProbeError
from aligner_probe.harness.local import local_tasks


@pytest.fixture
def folder(tmp_path):
    return data_in(tmp_path)


def rows_of(config, part):
    return config["custom_dataset"]()[part].to_list()


def test_gsm8k_has_its_rows_as_they_are(folder):
    [task] = local_tasks("gsm8k", folder, 1)
    assert rows_of(task, "test") == gsm8k_rows()
    assert rows_of(task, "train") == gsm8k_rows(4)
    assert [one["name"] for one in task["filter_list"]] == ["strict-match", "flexible-extract"]


def test_mmlu_is_a_task_a_subject_with_the_examples_of_the_dev_part(folder):
    tasks = local_tasks("mmlu", folder, 3)
    assert [task["task"] for task in tasks] == [f"mmlu_{subject}" for subject in SUBJECTS]
    assert tasks[0]["description"].endswith("(with answers) about abstract algebra.\n\n")
    for task, subject in zip(tasks, SUBJECTS, strict=True):
        test, dev = rows_of(task, "test"), rows_of(task, "dev")
        assert {row["subject"] for row in [*test, *dev]} == {subject}
        assert (len(test), len(dev)) == (4, 3)
        # the form of the hub's rows: a list of choices, and the index of the right one
        assert test[2]["choices"] == ["3", "2", "4", "5"]
        assert test[2]["answer"] == 1


def test_without_examples_none_are_needed(folder):
    (folder / "gsm8k" / "train.jsonl").unlink()
    [task] = local_tasks("gsm8k", folder, 0)
    assert "fewshot_split" not in task
    assert set(task["custom_dataset"]()) == {"test"}
    with pytest.raises(AlignerProbeError, match="5 examples are to stand before each question, and there are 0"):
        local_tasks("gsm8k", folder, None)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("gsm8k", [{"question": "How many?", "answer": "4"}], "line 1: the answer '4' does not say the number"),
        ("gsm8k", [{"question": "How many?"}], "line 1: has no text 'answer'"),
        ("gsm8k", [], "has no rows"),
        ("mmlu", [mmlu_rows("test")[0], {"question": "?"}], r"line 2: has no text 'A' \(it has question\)"),
        ("mmlu", [mmlu_rows("test")[0] | {"answer": "E"}], "line 1: the answer is 'E'; expected one of A, B, C, D"),
    ],
)
def test_rows_that_lack_something_are_named(folder, name, rows, message):
    write_rows(folder / name / "test.jsonl", rows)
    with pytest.raises(AlignerProbeError, match=message):
        local_tasks(name, folder, 0)


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(AlignerProbeError, match=r"'arc_easy' is not one of .*gsm8k, mmlu.*leave out --data"):
        local_tasks("arc_easy", folder, 0)
    with pytest.raises(AlignerProbeError, match=r"has no test.jsonl; expected a folder with mmlu/test.jsonl"):
        local_tasks("mmlu", tmp_path / "nowhere", 0)
    with pytest.raises(
        AlignerProbeError, match=r"4 examples .* 3 examples of the subject 'abstract_algebra'.*--shots 3"
    ):
        local_tasks("mmlu", folder, 4)
