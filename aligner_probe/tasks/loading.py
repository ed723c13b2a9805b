"""Read a task from JSONL: one object a line, in any format of `formats`. Files from strangers are data."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from aligner_probe.arguments import accepts, refuse
from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.tasks import formats
from aligner_probe.tasks.as_chat import ALREADY, as_conversation, note_on, task_as_chat, with_system
from aligner_probe.tasks.conversations import system_in, unread_names
from aligner_probe.tasks.fields import BadExamples, Others, Refused
from aligner_probe.tasks.filetypes import HEAD_BYTES, refuse_other_folders, refuse_other_types
from aligner_probe.tasks.given import EXPECTED, IN_MEMORY, as_jsonl, rows_of
from aligner_probe.tasks.panel import panel_task
from aligner_probe.tasks.repeats import Repeated, Unclear, without_repeats
from aligner_probe.tasks.rows import BadRow, Options, Preferred, Row, Unusable, json_type
from aligner_probe.tasks.task import Dropped, Example, Preference, Task, as_read
from aligner_probe.tasks.templates import fields_of

MAX_FILE_BYTES = 2**30
TRAIN, TEST = "train.jsonl", "test.jsonl"
#: Before the name of a task of the known-answer panel.
NAMED = "panel:"

Flawed = Literal["refuse", "drop"]
TEACHES = (
    'expected rows to learn from. Mend it, or drop and count such rows with --flawed drop (flawed="drop" in Python)'
)


@accepts()
def load_task(
    path: Any,
    *,
    prompt_template: str | None = None,
    completion_field: str | None = None,
    name: str | None = None,
    flawed: Flawed | str = "refuse",
    only_safe_chosen: bool = False,
    prefer: Preferred | str | None = None,
    ignore_fields: Sequence[str] = (),
    repeated_prompt: Repeated | str = "auto",
    as_chat: bool = False,
    system: str | None = None,
) -> Task:
    """Read a task. The fields of the first row tell its format.

    The formats are TRL (prompt + completion; prompt + chosen + rejected), Alpaca, GSM8K and other rows of question +
    answer, MetaMathQA, HH-RLHF and Beaver (PKU-SafeRLHF), each with its usual prompt template. Any other file is read
    with `prompt_template` and `completion_field`. Completions are kept exactly as given.

    Two optional fields: rows with the same `group` (text or whole number) are kept together by `Task.split`; `content`
    is what the completion says without its form, for content scores. Other fields are listed in `Task.ignored_fields`.
    Fields that are known to change what a row means (`fields.py`: `system`, `label`, `weight`, ...) are refused by
    name, unless they are taken into account or named in `ignore_fields`.

    Args:
        path: A JSONL file, a folder with a train.jsonl, or "panel:NAME". Rows in memory (a list of dicts, a data frame,
            a data set of Hugging Face) are read by the same rules; examples become a task; a task is returned as it is.
        prompt_template: A text with field names in braces, instead of the format's own template.
        completion_field: The field of the completion, for a format that is not known.
        name: The name of the task; by default that of the file.
        flawed: What happens to rows that teach nothing (an empty completion, equal answers, a pair without a common
            prompt) or are marked as bad examples (`label: false`): "refuse" the file, or "drop" and count them in
            `Task.dropped`.
        only_safe_chosen: Beaver: leave out pairs whose chosen answer is not safe.
        prefer: Beaver: which judgement chooses the answer, "safer" or "better"; by default "safer" where there is one.
        ignore_fields: Fields to leave out of every row.
        repeated_prompt: What happens to an answer that begins with its whole prompt: the prompt is removed ("strip"),
            kept ("keep"), or removed if the file shows that this is meant ("auto", see `repeats.py`).
        as_chat: Read each prompt as what a user says to a chat model: it becomes a `Conversation`, without the format's
            own prompt template, and white space at the ends of prompt and answer is taken off. A field `system` is the
            system message. Nothing changes in a file of conversations.
        system: A system message for all rows, which then are conversations.

    Returns:
        The task.

    Raises:
        AlignerProbeError: The file or a row does not fit; the message names the line.
    """
    with_flawed: Flawed = one_of(flawed, get_args(Flawed), "flawed")
    preferred: Preferred | None = one_of(prefer, (None, *get_args(Preferred)), "prefer")
    with_repeated: Repeated = one_of(repeated_prompt, get_args(Repeated), "repeated_prompt")
    if isinstance(path, Task):
        return task_as_chat(path, system) if as_chat or system is not None else path
    rows = rows_of(path)
    if rows and all(isinstance(row, Example | Preference) for row in rows):
        kind = "sft" if isinstance(rows[0], Example) else "preference"
        made = Task(name=name or IN_MEMORY, kind=kind, examples=tuple(rows))
        return task_as_chat(made, system) if as_chat or system is not None else made
    if rows is None and not isinstance(path, str | Path):
        raise refuse(path, "load_task(path=)", EXPECTED)
    file = _find(_named(path)) if rows is None else Path(IN_MEMORY)
    options = Options(prompt_template, completion_field, only_safe_chosen, preferred, as_chat, system)
    if prompt_template is not None:
        fields_of(prompt_template)
    content = _read(file) if rows is None else as_jsonl(rows)
    read = _Read()
    for line, row in _rows(file, content):
        read.ignored |= {name: None for name in row if name in ignore_fields}
        kept = {name: value for name, value in row.items() if name not in ignore_fields} if ignore_fields else row
        try:
            read.take(line, kept, options)
        except Unusable as reason:
            if with_flawed == "refuse" and str(reason) != formats.NOT_SAFE:
                raise _at(file, line, f"{reason}; {TEACHES}") from reason
            read.dropped.append(Dropped(line, str(reason)))
        except (BadRow, Refused, AlignerProbeError) as reason:
            raise _at(file, line, str(reason)) from reason
    chosen = read.format
    if chosen is None or read.others is None:
        raise AlignerProbeError(f"{file}: is empty; expected one JSON object a line")
    try:
        read.drop_bad_examples(with_flawed)
        n_repeated = read.take_prompts_off(with_repeated)
        wrapped = read.wrap(options, with_flawed)
    except Refused as reason:
        raise AlignerProbeError(f"{file}: {reason}") from reason
    except (BadExamples, Unclear, _Faulty) as reason:
        raise _at(file, reason.line, str(reason)) from reason
    if not read.examples:
        raise AlignerProbeError(
            f"{file}: none of its {len(read.dropped)} rows is left to learn from, the first (line "
            f"{read.dropped[0].line}) because {read.dropped[0].reason}; expected at least one example"
        )
    completions = [example.completion for example in read.examples if isinstance(example, Example)]
    template = prompt_template
    if template is None:
        template = chosen.bare if as_chat else chosen.template
    known_as, said = formats.named(chosen, completions, chosen.bare if as_chat else prompt_template)
    notes = [note for note in (said, wrapped) if note]
    if n_repeated:
        rows_said = "1 row" if n_repeated == 1 else f"{n_repeated} rows"
        notes.append(f"The answers of {rows_said} repeated the prompt, which was taken off.")
    return Task(
        name=name or _name(file),
        kind=chosen.kind,
        examples=tuple(read.examples),
        template=template,
        format=known_as,
        source=str(file) if rows is None else "",
        sha256=hashlib.sha256(content).hexdigest() if rows is None else "",
        dropped=tuple(read.dropped),
        ignored_fields=tuple({**read.others.names, **read.ignored}),
        notes=tuple(notes),
    )


@dataclass
class _Read:
    """What has been read of a file so far.

    `asked` are the prompts as they stand in the rows of `examples`, and `systems` the system messages of rows of texts,
    by line.
    """

    format: formats.TaskFormat | None = None
    others: Others | None = None
    examples: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    systems: dict[int, str | None] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)

    def take(self, line: int, row: dict[str, Any], options: Options) -> None:
        """Read one row, the first of which tells the format. Raises as `Others.see` and `formats.read_row` do."""
        if self.format is None or self.others is None:
            self.format = _recognise(row, options)
            used = self.format.used(options.template)
            chat = bool(self.format.lists)
            if options.system is not None and not (chat or options.as_chat):
                raise BadRow(
                    f"is of format {self.format.name}, whose prompts are texts, and a text has no system message; give "
                    "--as-chat (as_chat=True) with --system (system=)"
                )
            self.others = Others(
                used, options.template is not None, self.format.kind, self.format.asks,
                takes_system=chat or options.as_chat, holds_chats=chat,
            )  # fmt: skip
        self.others.see(line, row)
        example = formats.read_row(row, self.format, options)
        self.examples.append(_with_line(example, line))
        self.systems[line] = system_in(row) if options.as_chat and not self.format.lists else None
        if self.format.lists:
            self.ignored |= dict.fromkeys(unread_names(row, self.format.lists))
            # A message says by itself where an answer begins, and may well repeat the question.
            self.asked.append("")
            return
        # In some formats an answer may well repeat the question.
        prompt = None if self.format.may_repeat_prompt else row.get("prompt")
        self.asked.append(prompt if isinstance(prompt, str) else str(example.prompt))

    def drop_bad_examples(self, flawed: Flawed) -> None:
        """Drop the rows that a field marks as bad examples, or raise BadExamples, as asked for."""
        marks = self.others.bad_examples() if self.others is not None else []
        if marks and flawed == "refuse":
            raise BadExamples(marks[0], len(self.examples) + len(self.dropped))
        bad = {line: mark.reason for mark in reversed(marks) for line in mark.lines}
        pairs = zip(self.examples, self.asked, strict=True)
        left = [(example, prompt) for example, prompt in pairs if example.line not in bad]
        known = {row.line for row in self.dropped}
        self.dropped += [Dropped(line, reason) for line, reason in bad.items() if line not in known]
        self.dropped.sort(key=lambda row: row.line)
        self.examples, self.asked = [example for example, _ in left], [prompt for _, prompt in left]

    def take_prompts_off(self, how: Repeated) -> int:
        """Take repeated prompts off the answers; returns in how many rows."""
        if not self.examples:
            return 0
        self.examples, n = without_repeats(self.examples, self.asked, how)
        return n

    def wrap(self, options: Options, flawed: Flawed) -> str:
        """Make conversations of texts, if that is asked for; returns a sentence about it. Raises _Faulty."""
        if self.format is None or not (options.as_chat or options.system is not None):
            return ""
        before, self.examples = self.examples, []
        transcript = self.format.is_transcript and options.template is None
        for example in before:
            try:
                own = self.systems[example.line]
                made = as_conversation(example, own, transcript=transcript)
                made = replace(made, prompt=with_system(made.prompt, options.system))
                self.examples.append(_with_line(made, example.line))
            except Unusable as reason:
                if flawed == "refuse":
                    raise _Faulty(example.line, f"{reason}; {TEACHES}") from reason
                self.dropped.append(Dropped(example.line, str(reason)))
            except (BadRow, AlignerProbeError) as reason:
                raise _Faulty(example.line, str(reason)) from reason
        self.dropped.sort(key=lambda row: row.line)
        if self.format.lists:
            return ALREADY if options.as_chat else ""
        return note_on(before, self.examples, options.system)


class _Faulty(Exception):
    """A row that is wrong once it is read as a conversation."""

    def __init__(self, line: int, said: str) -> None:
        super().__init__(said)
        self.line = line


def load_splits(
    path: str | Path,
    test: str | Path | None = None,
    *,
    prompt_template: str | None = None,
    completion_field: str | None = None,
    name: str | None = None,
    flawed: Flawed | str = "refuse",
    only_safe_chosen: bool = False,
    prefer: Preferred | str | None = None,
    ignore_fields: Sequence[str] = (),
    repeated_prompt: Repeated | str = "auto",
    as_chat: bool = False,
    system: str | None = None,
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
        "ignore_fields": ignore_fields,
        "repeated_prompt": repeated_prompt,
        "as_chat": as_chat,
        "system": system,
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


def _recognise(row: Row, options: Options) -> formats.TaskFormat:
    chosen = formats.recognise(row, options.template, options.completion_field)
    if not chosen.chooses and (options.only_safe_chosen or options.prefer):
        raise BadRow(f"is {chosen.name}; expected Beaver's fields with only_safe_chosen or prefer. Leave these out")
    return chosen


def _named(path: str | Path) -> Path:
    """A path as it is; the folder of a panel task for its name ("panel:style_pirate")."""
    return panel_task(str(path).removeprefix(NAMED)) if str(path).startswith(NAMED) else Path(path)


def _find(path: Path) -> Path:
    """The file that a path to a file or folder means."""
    if path.is_dir():
        if not (path / TRAIN).exists():
            refuse_other_folders(path)
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
        with file.open("rb") as opened:
            # Before the size, since a model is no data however large it is.
            refuse_other_types(file, opened.read(HEAD_BYTES))
            if size <= MAX_FILE_BYTES:
                opened.seek(0)
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
        row = json.loads(raw.decode("utf-8"), object_pairs_hook=_once_each)
    except _Twice as error:
        raise _at(
            file,
            line,
            f"names the field {_short(error.name)} twice in one object, so that one of its values would be lost; "
            "expected each name once. Mend it",
        ) from error
    except UnicodeDecodeError as error:
        raise _at(
            file, line, f"is no UTF-8 (byte {raw[error.start]:#04x}); expected UTF-8. Convert it with `iconv`"
        ) from error
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, json.JSONDecodeError) else "a number or nesting beyond all bounds"
        raise _at(file, line, f"is no JSON ({said}); expected one JSON object a line{hint}") from error
    if not isinstance(row, dict):
        raise _at(file, line, f"is a JSON {json_type(row)}; expected an object with named fields{hint}")
    return row


class _Twice(Exception):
    """A JSON object that names a field twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises _Twice where a name stands twice, of which json keeps the last silently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")


def _with_line(example: Example | Preference, line: int) -> Example | Preference:
    # Frozen for everyone else; replace() would build every example twice.
    object.__setattr__(example, "line", line)
    return example


def _at(file: Path, line: int | None, what: str) -> AlignerProbeError:
    return AlignerProbeError(f"{file}, line {line}: {what}")
