"""GSM8K and MMLU from a folder instead of the hub, as tasks of lm-eval.

A task is a plain dict with the prompts, filters and metrics that lm-eval itself has for it (a test compares them with
lm-eval's own files). Only the rows come from the folder, by way of `custom_dataset`. They are read by the reader of
tasks, so that flaws show before anything is computed, and `datasets` makes no copy of them in its cache.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.sources import Part, Source, open_source, part_of

Row = dict[str, Any]
#: A task of lm-eval, as `lm_eval.api.task.ConfigurableTask` takes it.
Config = dict[str, Any]

CHOICES = ("A", "B", "C", "D")
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
    "doc_to_choice": list(CHOICES),
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}


def local_tasks(name: str, folder: Path, shots: int | None) -> list[Config]:
    """The tasks of lm-eval that a benchmark in a folder consists of: one for GSM8K, one a subject for MMLU.

    Args:
        name: "gsm8k" or "mmlu".
        folder: A folder in which a folder `name` has test.jsonl and, for examples in the prompt, train.jsonl (or with
            another ending that the reader of tasks knows). Rows of GSM8K have `question` and `answer`, which ends with
            "#### NUMBER". Rows of MMLU have `question`, `A` to `D`, `answer` (a letter) and `subject`; if rows of the
            training file have `split`, the examples are those of "dev", as in lm-eval.
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
    parts = {"test": _read(test, _gsm8k_row), "train": [] if train is None else _read(train, _gsm8k_row)}
    wanted = GSM8K["num_fewshot"] if shots is None else shots
    _check_shots(wanted, len(parts["train"]), test, "examples in train.jsonl")
    return [_with_rows(GSM8K, parts, examples="train")]


def _mmlu(test: Source, train: Source | None, shots: int | None) -> list[Config]:
    rows, examples = _read(test, _mmlu_row), [] if train is None else _read(train, _mmlu_row)
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


def _gsm8k_row(source: Source, number: int, row: Row) -> Row:
    question, answer = (_text(source, number, row, name) for name in ("question", "answer"))
    if "####" not in answer:
        raise source.error(number, f"the answer {answer[-40:]!r} does not say the number; expected '#### NUMBER' in it")
    return {"question": question, "answer": answer}


def _mmlu_row(source: Source, number: int, row: Row) -> Row:
    texts = {name: _text(source, number, row, name) for name in ("question", *CHOICES, "answer", "subject")}
    if texts["answer"] not in CHOICES:
        raise source.error(number, f"the answer is {texts['answer'][:40]!r}; expected one of {', '.join(CHOICES)}")
    split = {"split": row["split"]} if "split" in row else {}
    return {
        "question": texts["question"],
        "choices": [texts[letter] for letter in CHOICES],
        "answer": CHOICES.index(texts["answer"]),
        "subject": texts["subject"],
        **split,
    }


def _text(source: Source, number: int, row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        has = ", ".join(list(map(str, row))[:8])
        raise source.error(number, f"has no text {name!r} (it has {has}); expected the fields of the benchmark's rows")
    return value


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
