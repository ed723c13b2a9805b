"""Questions and answers from files: the Vicuna questions, or any JSONL."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_probe.data import VARIABLE, data_folder
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.questions import ASKS, IDENTITY, TURNS, check_ids, first_of, text_of
from aligner_probe.judging.prompts import FOLDER
from aligner_probe.tasks.task import fault_of_text

#: The name that stands for the eighty questions of the paper's Tables 2 and 3.
VICUNA = "vicuna"
VICUNA_FILE = "test.jsonl"
#: Members that may hold the question.
QUESTION = (*ASKS, TURNS)
#: Members that hold an answer and a reference answer; the first that is there is taken.
ANSWER = ("answer", "response", "completion", "output")
REFERENCE = ("reference", "reference_answer")
#: A larger file is no list of questions.
MAX_BYTES = 2**28


@dataclass(frozen=True)
class Question:
    """A question. `id` is its `question_id` or `id`, else its row from 1; `numbered` says that it had one."""

    id: str
    text: str
    category: str = ""
    reference: str | None = None
    numbered: bool = False
    answer: str | None = None


def read_questions(source: str | Path) -> list[Question]:
    """The questions of a JSONL file, or those that "vicuna" stands for.

    Raises AlignerProbeError where the file is missing, a row has no question, or two rows have one id.
    """
    file = Path(source)
    if str(source) == VICUNA:
        folder = data_folder(FOLDER)
        if folder is None or not (folder / VICUNA_FILE).is_file():
            raise AlignerProbeError(
                f"the Vicuna questions are not there; set ${VARIABLE} to a folder with {FOLDER}/{VICUNA_FILE} in it, "
                "or name a JSONL file with question and category"
            )
        file = folder / VICUNA_FILE
    questions = [_question(row, number, file) for number, row in enumerate(_rows(file), 1)]
    check_ids([question.id for question in questions], str(file))
    return questions


def read_answers(file: Path, questions: Sequence[Question]) -> list[str]:
    """The answers of a JSONL file to questions, in their order.

    Rows are matched by `question_id` (or `id`), else by the question's text, else by their order. Raises
    AlignerProbeError where a question has no answer or several, or a row belongs to no question.
    """
    rows = _rows(file)
    answers = [_text(first_of(row, ANSWER), ANSWER, number, file) for number, row in enumerate(rows, 1)]
    by_id, by_text = {q.id: i for i, q in enumerate(questions)}, {q.text: i for i, q in enumerate(questions)}
    has_ids = all(first_of(row, IDENTITY) is not None for row in rows)
    texts = [text_of(row) for row in rows]
    has_texts = None not in texts
    # Ids that are only row numbers are taken where texts do not tell the questions apart.
    if has_ids and (all(q.numbered for q in questions) or not has_texts or len(by_text) < len(questions)):
        where = [by_id.get(str(first_of(row, IDENTITY))) for row in rows]
    elif has_texts:
        where = [by_text.get(str(text)) for text in texts]
    else:
        where = list(range(len(rows))) if len(rows) == len(questions) else []
        if not where:
            raise AlignerProbeError(
                f"{file}: {len(rows)} answers without question_id or question, and {len(questions)} questions; "
                "expected one answer a question, in their order, or a question_id in each row"
            )
    return _in_order(answers, where, questions, file)


def read_requests(file: Path) -> list[Question]:
    """Requests with their answers, of a JSONL file with prompt, category and answer.

    Raises AlignerProbeError where the file is missing or a row has no prompt or no answer.
    """
    rows = _rows(file)
    return [
        Question(
            str(number),
            _text(text_of(row), QUESTION, number, file),
            str(row.get("category") or ""),
            answer=_text(first_of(row, ANSWER), ANSWER, number, file),
        )
        for number, row in enumerate(rows, 1)
    ]


def _in_order(answers: list[str], where: Sequence[int | None], questions: Sequence[Question], file: Path) -> list[str]:
    for number, index in enumerate(where, 1):
        if index is None:
            raise AlignerProbeError(f"{file}: row {number} answers none of the questions; remove it, or ask them all")
    by_index: dict[int, str] = {}
    for answer, index in zip(answers, where, strict=True):
        if index is not None and index in by_index:
            raise AlignerProbeError(f"{file}: question {questions[index].id} has two answers; expected one")
        if index is not None:
            by_index[index] = answer
    if missing := [question.id for index, question in enumerate(questions) if index not in by_index]:
        raise AlignerProbeError(
            f"{file}: {len(missing)} of {len(questions)} questions have no answer, the first is {missing[0]}; expected "
            "an answer to each"
        )
    return [by_index[index] for index in range(len(questions))]


def _question(row: dict[str, Any], number: int, file: Path) -> Question:
    named, reference = first_of(row, IDENTITY), first_of(row, REFERENCE)
    if isinstance(reference, list):  # FastChat has one reference a turn
        reference = reference[0] if reference else None
    return Question(
        str(number if named is None else named),
        _text(text_of(row), QUESTION, number, file),
        str(row.get("category") or ""),
        reference if isinstance(reference, str) and reference else None,
        named is not None,
    )


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise AlignerProbeError(f"{file}: is larger than {MAX_BYTES:,} bytes; expected questions or answers")
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise AlignerProbeError(f"{file}: cannot be read ({error}); expected a JSONL file") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AlignerProbeError(
                f"{file}: line {number} is no JSON ({error}); expected one object a line"
            ) from error
        if not isinstance(row, dict):
            raise AlignerProbeError(f"{file}: line {number} is no JSON object; expected one object a line")
        rows.append(row)
    if not rows:
        raise AlignerProbeError(f"{file}: has no rows; expected at least one")
    return rows


def _text(value: Any, names: Sequence[str], number: int, file: Path) -> str:
    if not isinstance(value, str):
        raise AlignerProbeError(f"{file}: row {number} has no text named {', '.join(names)}; add one of them")
    if fault := fault_of_text(value):
        raise AlignerProbeError(f"{file}: row {number} {fault}; expected a text of whole characters")
    return value


def categories_of(names: Iterable[str]) -> list[str]:
    """The categories of a result: "" for all, then each category in its order of appearance."""
    return ["", *(name for name in dict.fromkeys(names) if name)]
