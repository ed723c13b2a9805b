"""The rows of GSM8K, MMLU and the Vicuna questions, from a file or from the hub: checked, and in one form each.

    question = mmlu_row(source, number, row)       # {"question": ..., "choices": [...], "answer": 2, "subject": ...}

Rows of GSM8K have `question` and `answer`, and an answer ends with "#### NUMBER". Rows of MMLU have `question`,
`subject`, the options, and the right one. The hub has the options as a list `choices` and the right one as an index;
in other copies the options are the fields A to D, and the right one is a letter. A Vicuna question is the field `text`,
or the first of `turns`, as FastChat publishes it.
"""

from typing import Any

from aligner_probe.tasks.formats import GSM8K_MARK
from aligner_probe.tasks.sources import Source

LABELS = ("A", "B", "C", "D")
Row = dict[str, Any]


def gsm8k_row(source: Source, number: int, row: Row) -> Row:
    """The question and the answer of a row of GSM8K.

    Raises AlignerProbeError, with the row's `number`, where one is missing or the answer does not say its number.
    """
    question, answer = (_text(source, number, row, name) for name in ("question", "answer"))
    if GSM8K_MARK not in answer:
        raise source.error(
            number, f"the answer {answer[-40:]!r} does not say the number; expected '{GSM8K_MARK} NUMBER' in it"
        )
    return {"question": question, "answer": answer}


def gsm8k_number(answer: str) -> str:
    """The number that an answer of GSM8K ends with."""
    return answer.rpartition(GSM8K_MARK)[2].strip()


def mmlu_row(source: Source, number: int, row: Row) -> Row:
    """A row of MMLU as the hub has it: `question`, `choices`, `answer` (an index) and `subject`; `split` if it has one.

    Raises AlignerProbeError, with the row's `number`, where a text or an option is missing or the answer is none of
    them.
    """
    question = _text(source, number, row, "question")
    options = row.get("choices")
    if options is None:
        options = [_text(source, number, row, label) for label in LABELS]
    elif not isinstance(options, list) or [type(option) for option in options] != [str] * len(LABELS):
        raise source.error(number, f"has the choices {str(options)[:40]}; expected a list of {len(LABELS)} texts")
    answer, subject = row.get("answer"), _text(source, number, row, "subject")
    if answer in LABELS:
        answer = LABELS.index(answer)
    if type(answer) is not int or not 0 <= answer < len(LABELS):
        raise source.error(
            number, f"the answer is {str(answer)[:40]!r}; expected one of {', '.join(LABELS)}, or its index"
        )
    split = {"split": row["split"]} if "split" in row else {}
    return {"question": question, "choices": list(options), "answer": answer, "subject": subject, **split}


def vicuna_row(source: Source, number: int, row: Row) -> Row:
    """The text and the category of a row of the Vicuna questions; the category is empty where the row names none.

    Raises AlignerProbeError, with the row's `number`, where it has no text.
    """
    turns = row.get("turns")
    text = row.get("text", turns[0] if isinstance(turns, list) and turns else None)
    if not isinstance(text, str) or not text:
        expected = "expected a text in 'text', or a list 'turns' that begins with one"
        raise source.error(number, f"has no question (it has {_fields(row)}); {expected}")
    return {"text": text, "category": str(row.get("category", ""))}


def _text(source: Source, number: int, row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise source.error(
            number, f"has no text {name!r} (it has {_fields(row)}); expected the fields of the benchmark's rows"
        )
    return value


def _fields(row: Row) -> str:
    """The names of a row's first fields, for messages."""
    return ", ".join(list(map(str, row))[:8])
