"""Small benchmarks and what models answered to them, for tests with and without lm-eval."""

import json

import pytest

from aligner_probe.harness.items import Answered, Item, Metric

SUMS = [(3, 4), (12, 5), (7, 7), (20, 1), (6, 13), (9, 9), (2, 30), (41, 8)]
SUBJECTS = ("abstract_algebra", "astronomy")


def lm_eval():
    """lm-eval; the test is skipped where it is not installed."""
    reason = (
        'lm-eval is not installed; it takes 120 MB and is no part of the lock: pip install "aligner-probe[benchmark]"'
    )
    return pytest.importorskip("lm_eval", reason=reason)


def gsm8k_rows(n=8):
    return [
        {
            "question": f"Tom has {a} apples and buys {b}. How many?",
            "answer": f"He has {a} + {b} = <<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}",
        }
        for a, b in SUMS[:n]
    ]


def mmlu_rows(split, n=4):
    return [
        {
            "question": f"{subject} {split} {i}: which is {i}?",
            **{letter: str(i + shift) for letter, shift in zip("ABCD", (1, 0, 2, 3), strict=True)},
            "answer": "B",
            "subject": subject,
            "split": split,
        }
        for subject in SUBJECTS
        for i in range(n)
    ]


def write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def data_in(folder):
    """A folder with both benchmarks in the formats of the data folder."""
    write_rows(folder / "gsm8k" / "test.jsonl", gsm8k_rows())
    write_rows(folder / "gsm8k" / "train.jsonl", gsm8k_rows(4))
    write_rows(folder / "mmlu" / "test.jsonl", mmlu_rows("test"))
    write_rows(folder / "mmlu" / "train.jsonl", [*mmlu_rows("val", 2), *mmlu_rows("dev", 3)])
    return folder


def answered(scores, *, metric="acc", filter_name="none", adapter=None, prompts="p", is_mean=True, check=None):
    """What a model with these scores answered, an item a score."""
    items = [
        Item("task", i, filter_name, {metric: score}, "A" if score else "B", "A", f"prompt {i}", [-1.0, -2.0])
        for i, score in enumerate(scores)
    ]
    value = float(sum(scores) / len(scores))
    metrics = [Metric("task", metric, filter_name, value, is_mean)]
    return Answered(adapter, prompts, 1.0, metrics, check, items)
