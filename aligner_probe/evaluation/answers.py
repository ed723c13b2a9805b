"""Answers of several models to the same questions: generated together, kept as they come, and written a file a model.

The folder has `answers.jsonl`, a row an answer in the order in which they were finished, to which each batch is added
at once. What is in it is not asked again. When all answers are there, `by_model/NAME.jsonl` has those of one model in
the order of the questions.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.generation import check_prompts, generate
from aligner_probe.evaluation.questions import Question
from aligner_probe.files import write_text, writing_to

JOURNAL, BY_MODEL = "answers.jsonl", "by_model"
#: What names of models may be, since files are called so.
NAME = re.compile(r"[\w.+-]{1,80}")
#: The name of the base model without an adapter.
BASE = "base"
#: Answers by the question's id and the model's name.
Answers = dict[tuple[str, str], str]


def names_for(paths: Sequence[str | Path], given: Sequence[str] | None) -> list[str]:
    """Names of adapters: those given, else the last part of each path that tells them apart.

    Raises AlignerProbeError where there are too few or too many, or one is no name for a file, or stands twice.
    """
    if given is not None:
        names = list(given)
    else:
        # A run's folder is named by the user, and the adapter in it is always called "adapter".
        parts = [[part for part in Path(path).parts if part not in ("adapter", os.sep)] for path in paths]
        names = [re.sub(r"[^\w.+-]", "-", its[-1])[:80] if its else f"adapter-{i}" for i, its in enumerate(parts, 1)]
    if len(names) != len(paths):
        raise AlignerProbeError(f"{len(names)} names for {len(paths)} adapters; expected one for each: --names")
    for name in names:
        if not NAME.fullmatch(name) or name.strip(".") == "" or name == BASE:
            raise AlignerProbeError(
                f"the name {name!r} is none for a file of answers; expected letters, digits, '.', '+', '_' and '-', "
                f"and not {BASE!r}: --names"
            )
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AlignerProbeError(f"two adapters are called {twice!r}; give each a name of its own: --names")
    return names


def has_answers(out: Path) -> bool:
    """Whether a folder has an answer."""
    file = out / JOURNAL
    return file.is_file() and b"\n" in file.read_bytes()


def read_answers(out: Path, questions: Sequence[Question], names: Sequence[str]) -> Answers:
    """The answers that a folder has. A last line that was cut off is left out, and its answer is asked again."""
    file, answers = out / JOURNAL, {}
    if not file.is_file():
        return answers
    wanted = {(question.id, name) for question in questions for name in names}
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            key, answer = (row["question_id"], row["model"]), row["answer"]
        except (ValueError, TypeError, KeyError) as error:
            raise AlignerProbeError(f"{file}, line {number}: is no answer; remove that line, or {out}") from error
        if key in wanted and isinstance(answer, str):
            answers[key] = answer
    return answers


def answer_all(
    model: TransformerBridge,
    questions: Sequence[Question],
    adapters: Mapping[str, Adapter | None],
    out: Path,
    *,
    batch_size: int,
    max_new_tokens: int,
    seed: int = 0,
    show_progress: bool = True,
    **generation: Any,
) -> Answers:
    """Let each of several models answer each question, all of them in the same batches.

    Args:
        model: The base model.
        questions: The questions.
        adapters: Adapters by the name of the model; None for the base model alone.
        out: The folder of `answers.jsonl`, which must exist. Answers in it are not generated again.
        batch_size: The most rows of a batch, and how many answers are kept at once.
        max_new_tokens: The most tokens of an answer.
        seed: With a temperature, what the draws follow from, with the question's id and the model's name.
        show_progress: Whether there is a bar.
        generation: Other options of `generate`.

    Returns:
        All answers.

    Raises:
        AlignerProbeError: Before anything is generated: a question does not fit into the context.
    """
    check_prompts(model, [question.prompt for question in questions], max_new_tokens)
    answers = read_answers(out, questions, list(adapters))
    members = [adapter for adapter in adapters.values() if adapter is not None]
    index = {name: None if one is None else members.index(one) for name, one in adapters.items()}
    # Questions of like length stand together, and all models answer a question in the same batch if it has room.
    by_length = sorted(questions, key=lambda question: len(str(question.prompt)))
    asks = [(q, name) for q in by_length for name in adapters if (q.id, name) not in answers]
    total = len(questions) * len(adapters)
    bar = tqdm(total=total, initial=total - len(asks), desc="answers", disable=not show_progress)
    with _Journal(out / JOURNAL) as journal, bar:
        for part in _parts(asks, batch_size):
            texts = generate(
                model,
                [question.prompt for question, _ in part],
                adapters=members or None,
                which=[index[name] for _, name in part] if members else None,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                seed=[_seed(seed, question.id, name) for question, name in part],
                **generation,
            )
            for (question, name), text in zip(part, texts, strict=True):
                answers[question.id, name] = text
            journal.add(_row(question, name, answers) for question, name in part)
            bar.update(len(part))
    return answers


def write_by_model(out: Path, questions: Sequence[Question], names: Sequence[str], answers: Answers) -> list[Path]:
    """Write a file of answers for each model, in the order of the questions."""
    files = []
    for name in names:
        file = out / BY_MODEL / f"{name}.jsonl"
        write_text(file, "".join(_line(_row(question, name, answers)) for question in questions))
        files.append(file)
    return files


class _Journal:
    """A file to which rows are added. What was cut off at its end is removed when it is opened."""

    def __init__(self, file: Path):
        self.file = file

    def __enter__(self) -> "_Journal":
        with writing_to(self.file):
            self.stream = self.file.open("a+b")
            self.stream.seek(0)
            content = self.stream.read()
            self.stream.truncate(content.rfind(b"\n") + 1)
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def add(self, rows: Iterator[dict[str, Any]]) -> None:
        """Add rows, and return when the system has stored them."""
        with writing_to(self.file):
            self.stream.write("".join(map(_line, rows)).encode())
            self.stream.flush()
            os.fsync(self.stream.fileno())


def _row(question: Question, name: str, answers: Answers) -> dict[str, Any]:
    about = {"category": question.category} if question.category else {}
    said = {"question_id": question.id, "question": question.text, **about}
    return said | {"model": name, "answer": answers[question.id, name]}


def _line(row: dict[str, Any]) -> str:
    # A lone surrogate, which a prompt may hold as an escape, cannot be written as UTF-8; JSON's escape can.
    text = json.dumps(row, ensure_ascii=False)
    return (text if text.isascii() or _is_whole(text) else json.dumps(row)) + "\n"


def _is_whole(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _seed(seed: int, question: str, name: str) -> int:
    """A seed for one answer, whatever else is asked."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, question, name]).encode()).digest()[:7])


def _parts(asks: list[tuple[Question, str]], n: int) -> Iterator[list[tuple[Question, str]]]:
    for start in range(0, len(asks), n):
        yield asks[start : start + n]
