"""GSM8K and MMLU from a folder instead of the hub, as tasks of lm-eval.

A task is a plain dict with the prompts, filters and metrics that lm-eval itself has for it (a test compares them with
lm-eval's own files). Only the rows come from the folder, by way of `custom_dataset`. They are read by the reader of
tasks, so that flaws show before anything is computed, and `datasets` makes no copy of them in its cache.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.benchmark_rows import LABELS, Row, gsm8k_row, mmlu_row
from aligner_probe.tasks.sources import Part, Source, open_source, part_of

#: A task of lm-eval, as `lm_eval.api.task.ConfigurableTask` takes it.
Config = dict[str, Any]

#: The part of MMLU from which lm-eval takes examples. Rows of other parts in a training file are left out.
DEV = "dev"

GSM8K: Config = {
    "task": "gsm8k",
    "output_type": "generate_until",
    "training_split": "train",
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0},
    "repeats": 1,
    "num_fewshot": 5,
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
    "metadata": {"version": 3.0},
}
#: Of each subject; `task` and `description` name it.
MMLU: Config = {
    "output_type": "multiple_choice",
    "test_split": "test",
    "fewshot_split": DEV,
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}"
    "\nAnswer:",
    "doc_to_choice": list(LABELS),
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}


def local_tasks(name: str, folder: Path, shots: int | None) -> list[Config]:
    """The tasks of lm-eval that a benchmark in a folder consists of: one for GSM8K, one a subject for MMLU.

    Args:
        name: "gsm8k" or "mmlu".
        folder: A folder in which a folder `name` has test.jsonl and, for examples in the prompt, train.jsonl (or with
            another ending that the reader of tasks knows), with rows as in `tasks/benchmark_rows.py`. If rows of
            MMLU's training file have `split`, the examples are those of "dev", as in lm-eval.
        shots: How many examples stand before each question; None for as many as lm-eval puts there.

    Raises:
        AlignerProbeError: The benchmark is another one, a file is missing, a row lacks something, or there are fewer
            examples than `shots`.
    """
    if name not in LOCAL:
        raise AlignerProbeError(
            f"{name!r} is not one of the benchmarks that are read from a folder ({', '.join(LOCAL)}); leave out --data "
            "to take it from the hub"
        )
    test = _part(folder / name, "test")
    if test is None:
        raise AlignerProbeError(
            f"{folder / name}: has no test.jsonl; expected a folder with {name}/test.jsonl in it: --data FOLDER"
        )
    return LOCAL[name](test, _part(folder / name, "train"), shots)


def _gsm8k(test: Source, train: Source | None, shots: int | None) -> list[Config]:
    parts = {"test": _read(test, gsm8k_row), "train": [] if train is None else _read(train, gsm8k_row)}
    wanted = GSM8K["num_fewshot"] if shots is None else shots
    _check_shots(wanted, len(parts["train"]), test, "examples in train.jsonl")
    return [_with_rows(GSM8K, parts, examples="train")]


def _mmlu(test: Source, train: Source | None, shots: int | None) -> list[Config]:
    rows, examples = _read(test, mmlu_row), [] if train is None else _read(train, mmlu_row)
    if any("split" in row for row in examples):
        examples = [row for row in examples if row.get("split") == DEV]
    tasks = []
    for subject in sorted({row["subject"] for row in rows}):
        of_it = {
            part: [{key: row[key] for key in ("question", "choices", "answer", "subject")} for row in its]
            for part, its in (
                ("test", [row for row in rows if row["subject"] == subject]),
                (DEV, [row for row in examples if row["subject"] == subject]),
            )
        }
        _check_shots(shots or 0, len(of_it[DEV]), test, f"examples of the subject {subject!r} in train.jsonl")
        named = {
            "task": f"mmlu_{subject}",
            "description": "The following are multiple choice questions (with answers) about "
            f"{' '.join(subject.split('_'))}.\n\n",
        }
        tasks.append(_with_rows(MMLU | named, of_it, examples=DEV))
    return tasks


#: The benchmarks that are read from a folder.
LOCAL: Mapping[str, Callable[[Source, Source | None, int | None], list[Config]]] = {"gsm8k": _gsm8k, "mmlu": _mmlu}


def _part(folder: Path, part: Part) -> Source | None:
    file = part_of(folder, part)
    return None if file is None else open_source(file)


def _read(source: Source, made: Callable[[Source, int, Row], Row]) -> list[Row]:
    rows = [made(source, number, row) for number, row in source.rows]
    if not rows:
        raise AlignerProbeError(f"{source.said}: has no rows; expected one question a line")
    return rows


def _check_shots(wanted: int, n: int, source: Source, what: str) -> None:
    if wanted > n:
        raise AlignerProbeError(
            f"{Path(source.said).parent}: {wanted} examples are to stand before each question, and there are {n} "
            f"{what}; give --shots {n} or fewer, or more examples"
        )


def _with_rows(config: Config, parts: Mapping[str, Sequence[Row]], *, examples: str) -> Config:
    """The task with its rows. Without examples it takes none from anywhere."""

    def rows(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict  # takes a second to import

        return DatasetDict({part: Dataset.from_list(list(its)) for part, its in parts.items() if its})

    without = () if parts[examples] else ("fewshot_split", "fewshot_config", "training_split")
    return {key: value for key, value in config.items() if key not in without} | {"custom_dataset": rows}
