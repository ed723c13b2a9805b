"""Read a task from JSONL: one object a line, in any format of `formats`. Files from strangers are data."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import formats
from aligner_probe.tasks.formats import BadRow, Options, Preferred, Unusable
from aligner_probe.tasks.panel import panel_task
from aligner_probe.tasks.task import Dropped, Example, Preference, Task, as_read
from aligner_probe.tasks.templates import fields_of

MAX_FILE_BYTES = 2**30
TRAIN, TEST = "train.jsonl", "test.jsonl"
#: Before the name of a task of the known-answer panel.
NAMED = "panel:"

Flawed = Literal["refuse", "drop"]


def load_task(
    path: str | Path,
    *,
    prompt_template: str | None = None,
    completion_field: str | None = None,
    name: str | None = None,
    flawed: Flawed = "refuse",
    only_safe_chosen: bool = False,
    prefer: Preferred | None = None,
) -> Task:
    """Read a JSONL file, the train.jsonl of a folder or "panel:NAME"; the first row's fields tell the format.

    Recognised are TRL (prompt + completion; prompt + chosen + rejected), Alpaca, GSM8K, MetaMathQA, HH-RLHF and Beaver
    (PKU-SafeRLHF), each in its usual prompt template unless `prompt_template` gives another; any other file by
    `prompt_template` and `completion_field`. A template holds plain `{field}`s. Completions are kept exactly as given.
    An optional `group` (text or whole number) is what `Task.split` keeps together; an optional `content` (in TRL's rows
    and by template) is what the completion says without its form, for scores of content alone.

    `flawed` says what happens to rows of the right form that teach nothing (an empty completion, equal answers, a pair
    without a common prompt): "refuse" the file, or "drop" and count them in `Task.dropped`. For Beaver,
    `only_safe_chosen` leaves out pairs whose chosen answer is not safe, counted likewise, and `prefer` says which
    judgement chooses ("safer" where there is one).

    Raises AlignerProbeError, naming the line, for anything else.
    """
    file = _find(_named(path))
    options = Options(prompt_template, completion_field, only_safe_chosen, prefer)
    if prompt_template is not None:
        fields_of(prompt_template)
    content = _read(file)
    examples: list[Any] = []
    dropped: list[Dropped] = []
    chosen = None
    for line, row in _rows(file, content):
        try:
            if chosen is None:
                chosen = _recognise(row, options)
            examples.append(_with_line(formats.read_row(row, chosen, options), line))
        except Unusable as reason:
            if flawed == "refuse" and str(reason) != formats.NOT_SAFE:
                raise _at(
                    file,
                    line,
                    f"{reason}; expected rows to learn from. Mend it, or drop and count such rows with "
                    '--flawed drop (flawed="drop" in Python)',
                ) from reason
            dropped.append(Dropped(line, str(reason)))
        except (BadRow, AlignerProbeError) as reason:
            raise _at(file, line, str(reason)) from reason
    if chosen is None:
        raise AlignerProbeError(f"{file}: is empty; expected one JSON object a line")
    if not examples:
        raise AlignerProbeError(
            f"{file}: none of its {len(dropped)} rows is left to learn from, the first (line {dropped[0].line}) "
            f"because {dropped[0].reason}; expected at least one example"
        )
    return Task(
        name=name or _name(file),
        kind=chosen.kind,
        examples=tuple(examples),
        template=prompt_template if prompt_template is not None else chosen.template,
        format=chosen.name,
        source=str(file),
        sha256=hashlib.sha256(content).hexdigest(),
        dropped=tuple(dropped),
    )


def load_splits(
    path: str | Path,
    test: str | Path | None = None,
    *,
    prompt_template: str | None = None,
    completion_field: str | None = None,
    name: str | None = None,
    flawed: Flawed = "refuse",
    only_safe_chosen: bool = False,
    prefer: Preferred | None = None,
) -> tuple[Task, Task | None]:
    """Training and test examples: the folder's train.jsonl and test.jsonl (if it has one), or two files.

    Options are those of `load_task`; `only_safe_chosen` applies in training only. Raises AlignerProbeError as that
    does, and where the two are of different kinds or share a prompt; with a template that names no field, a completion.
    """
    path = _named(path)
    options: dict[str, Any] = {
        "prompt_template": prompt_template,
        "completion_field": completion_field,
        "name": name,
        "flawed": flawed,
        "prefer": prefer,
    }
    train = load_task(path, only_safe_chosen=only_safe_chosen, **options)
    if test is None and path.is_dir() and (path / TEST).exists():
        test = path / TEST
    if test is None:
        return train, None
    # A folder given as the test means its test.jsonl.
    held_out = load_task(Path(test) / TEST if Path(test).is_dir() else test, **options)
    if train.kind != held_out.kind:
        raise AlignerProbeError(
            f"{train.source} is of kind {train.kind!r} ({train.format}) but {held_out.source} of kind "
            f"{held_out.kind!r} ({held_out.format}); expected one kind in both"
        )
    refuse_shared(train, held_out)
    return train, held_out


def refuse_shared(train: Task, test: Task) -> None:
    """Raise AlignerProbeError where a prompt of the test was trained (a completion, where the prompt is constant)."""
    constant = train.has_constant_prompt and test.has_constant_prompt

    def asked(example: Example | Preference) -> str:
        return as_read(example.completion if constant and isinstance(example, Example) else example.prompt)

    trained: dict[str, int | None] = {}
    for example in train.examples:
        trained.setdefault(asked(example), example.line)
    shared = [example for example in test.examples if asked(example) in trained]
    if shared:
        text = asked(shared[0])
        raise AlignerProbeError(
            f"{len(shared)} of {len(test)} test examples have a {'completion' if constant else 'prompt'} that was "
            f"trained, the first on line {shared[0].line} of {test.source} and line {trained[text]} of {train.source}: "
            f"{text[-60:]!r}; expected none. Remove them from one, or give one file and split it by a share"
        )


def _recognise(row: formats.Row, options: Options) -> formats.Format:
    chosen = formats.recognise(row, options.template, options.completion_field)
    if chosen.name != "Beaver" and (options.only_safe_chosen or options.prefer):
        raise BadRow(f"is {chosen.name}; expected Beaver's fields with only_safe_chosen or prefer. Leave these out")
    return chosen


def _named(path: str | Path) -> Path:
    """A path as it is; the folder of a panel task for its name ("panel:style_pirate")."""
    return panel_task(str(path).removeprefix(NAMED)) if str(path).startswith(NAMED) else Path(path)


def _find(path: Path) -> Path:
    """The file that a path to a file or folder means."""
    if path.is_dir():
        if not (path / TRAIN).exists():
            inside = sorted(entry.name for entry in path.iterdir())
            found = f"holds {', '.join(inside[:4])}{', …' * (len(inside) > 4)}" if inside else "is empty"
            raise AlignerProbeError(f"{path}: {found}; expected a {TRAIN} in it. Name a JSONL file instead")
        path = path / TRAIN
    if not path.exists():
        raise AlignerProbeError(f"{path}: does not exist; expected a JSONL file, or a folder with a {TRAIN} in it")
    if not path.is_file():
        raise AlignerProbeError(f"{path}: is no plain file; expected JSONL, one object a line, saved to a file")
    return path


def _name(file: Path) -> str:
    return file.resolve().parent.name if file.name in (TRAIN, TEST) else file.stem


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size <= MAX_FILE_BYTES:
            with file.open("rb") as opened:
                # One more than allowed, in case it grew since.
                content = opened.read(MAX_FILE_BYTES + 1)
            if len(content) <= MAX_FILE_BYTES:
                return content
            size = len(content)
    except OSError as error:
        raise AlignerProbeError(f"{file}: cannot be read ({error.strerror}); expected a JSONL file") from error
    raise AlignerProbeError(
        f"{file}: holds {size:,} bytes, over the limit of {MAX_FILE_BYTES:,}; take a part of it, for instance with "
        "`head -n 100000`"
    )


def _rows(file: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects and their line numbers, from one; blank lines may stand at the end only."""
    blank = None
    start, line = 0, 0
    if content.startswith(b"\xef\xbb\xbf"):  # a byte order mark, as some editors write
        start = 3
    # Lines end in \n alone: characters that Unicode counts as line breaks may stand inside JSON text.
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        raw, start, line = content[start:end].strip(b" \t\r"), end + 1, line + 1
        if not raw:
            blank = blank or line
            continue
        if blank is not None:
            raise _at(file, blank, "is blank, with rows after it; expected one JSON object a line. Remove it")
        yield line, _parse(file, line, raw)


def _parse(file: Path, line: int, raw: bytes) -> dict[str, Any]:
    hint = ". Turn a JSON list into JSONL with `jq -c '.[]'`" if line == 1 and raw[:1] == b"[" else ""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _at(
            file, line, f"is no UTF-8 (byte {raw[error.start]:#04x}); expected UTF-8. Convert it with `iconv`"
        ) from error
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, json.JSONDecodeError) else "a number or nesting beyond all bounds"
        raise _at(file, line, f"is no JSON ({said}); expected one JSON object a line{hint}") from error
    if not isinstance(row, dict):
        raise _at(file, line, f"is a JSON {formats.json_type(row)}; expected an object with named fields{hint}")
    return row


def _with_line(example: Example | Preference, line: int) -> Example | Preference:
    # Frozen for everyone else; replace() would build every example twice.
    object.__setattr__(example, "line", line)
    return example


def _at(file: Path, line: int, what: str) -> AlignerProbeError:
    return AlignerProbeError(f"{file}, line {line}: {what}")
