"""Read a task: rows of a file or a data set (`sources.py`), in any format of `formats`. Strangers' files are data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from aligner_probe.arguments import accepts, refuse
from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.tasks import formats
from aligner_probe.tasks.as_chat import ALREADY, as_conversation, note_on, task_as_chat
from aligner_probe.tasks.conversations import system_in, unread_names
from aligner_probe.tasks.fields import BadExamples, Others, Refused
from aligner_probe.tasks.given import EXPECTED, IN_MEMORY, rows_of
from aligner_probe.tasks.hub import is_hub
from aligner_probe.tasks.repeats import Repeated, Unclear, without_repeats
from aligner_probe.tasks.rows import BadRow, Options, Preferred, Row, Unusable
from aligner_probe.tasks.sources import Source, beside, in_memory, open_source, part_of, path_of
from aligner_probe.tasks.task import Dropped, Example, Preference, Task, as_read
from aligner_probe.tasks.templates import fields_of

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
    answer, MetaMathQA, HH-RLHF and Beaver (PKU-SafeRLHF), each with its usual prompt template, and conversations as
    lists of messages (TRL, ShareGPT). Any other file is read with `prompt_template` and `completion_field`. Completions
    are kept exactly as given.

    Two optional fields: rows with the same `group` (text or whole number) are kept together by `Task.split`; `content`
    is what the completion says without its form, for content scores. Other fields are listed in `Task.ignored_fields`.
    Fields that are known to change what a row means (`fields.py`: `system`, `label`, `weight`, ...) are refused by
    name, unless they are taken into account or named in `ignore_fields`.

    Args:
        path: A file of JSONL, JSON, CSV or Parquet, a folder with a train.jsonl (or .csv, ...), "panel:NAME", or
            "hub:NAME[:CONFIG][:SPLIT]" for a data set of Hugging Face; or one of these, opened by `open_source`. Rows
            in memory (a list of dicts, a data frame, a data set) are read by the same rules; examples become a task; a
            task is returned as it is.
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
    if rows is None and not isinstance(path, str | Path | Source):
        raise refuse(path, "load_task(path=)", EXPECTED)
    options = Options(prompt_template, completion_field, only_safe_chosen, preferred, as_chat, system)
    if prompt_template is not None:
        fields_of(prompt_template)
    source = path if isinstance(path, Source) else open_source(path) if rows is None else in_memory(rows)
    read = _Read()
    for line, row in source.rows:
        read.ignored |= {name: None for name in row if name in ignore_fields}
        kept = {name: value for name, value in row.items() if name not in ignore_fields} if ignore_fields else row
        try:
            read.take(line, kept, options)
        except Unusable as reason:
            if with_flawed == "refuse" and str(reason) != formats.NOT_SAFE:
                raise source.error(line, f"{reason}; {TEACHES}") from reason
            read.dropped.append(Dropped(line, str(reason)))
        except (BadRow, Refused, AlignerProbeError) as reason:
            raise source.error(line, str(reason)) from reason
    chosen = read.format
    if chosen is None or read.others is None:
        raise AlignerProbeError(f"{source.said}: is empty; expected at least one row")
    try:
        read.drop_bad_examples(with_flawed)
        n_repeated = read.take_prompts_off(with_repeated)
        wrapped = read.wrap(options, with_flawed)
    except Refused as reason:
        raise AlignerProbeError(f"{source.said}: {reason}") from reason
    except (BadExamples, Unclear, _Faulty) as reason:
        raise source.error(reason.line, str(reason)) from reason
    if not read.examples:
        raise AlignerProbeError(
            f"{source.said}: none of its {len(read.dropped)} rows is left to learn from, the first ({source.unit} "
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
        name=name or source.name,
        kind=chosen.kind,
        examples=tuple(read.examples),
        template=template,
        format=known_as,
        source=source.source,
        sha256=source.sha256,
        dropped=tuple(read.dropped),
        ignored_fields=tuple({**read.others.names, **read.ignored}),
        notes=tuple(notes),
        unit=source.unit,
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
                made = as_conversation(example, own, options.system, transcript=transcript)
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
    """Training and test examples: the parts of a folder or of a hub's data set (if it has a test), or two files.

    Options are those of `load_task`; `only_safe_chosen` applies in training only. Raises AlignerProbeError as that
    does, and where the two are of different kinds, where one holds conversations and the other texts, and where they
    share a prompt; with a template that names no field, a completion.
    """
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
    path = path_of(path)
    if test is None and (is_hub(path) or Path(path).is_dir()):
        test = beside(path, "test")
    elif test is not None and not is_hub(test) and Path(test).is_dir():
        # A folder given as the test means its test.jsonl.
        test = part_of(Path(test), "test") or Path(test) / "test.jsonl"
    if test is None:
        return train, None
    held_out = load_task(test, **options)
    if train.kind != held_out.kind:
        raise AlignerProbeError(
            f"{train.source} is of kind {train.kind!r} ({train.format}) but {held_out.source} of kind "
            f"{held_out.kind!r} ({held_out.format}); expected one kind in both"
        )
    refuse_mixed(train, held_out)
    refuse_shared(train, held_out)
    return train, held_out


def refuse_mixed(train: Task, other: Task) -> None:
    """Raise AlignerProbeError where one of two parts of a task holds conversations, and the other texts."""
    parts = sorted((train, other), key=lambda part: isinstance(part.examples[0].prompt, str))
    if type(parts[0].examples[0].prompt) is not type(parts[1].examples[0].prompt):
        raise AlignerProbeError(
            f"{parts[0].source} holds conversations but {parts[1].source} texts ({parts[1].format}); expected the same "
            "in both. Read texts as what a user says with --as-chat (as_chat=True)"
        )


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
            f"trained, the first on {test.unit} {shared[0].line} of {test.source} and {train.unit} {trained[text]} of "
            f"{train.source}: "
            f"{text[-60:]!r}; expected none. Remove them from one, or give one file and split it by a share"
        )


def _recognise(row: Row, options: Options) -> formats.TaskFormat:
    chosen = formats.recognise(row, options.template, options.completion_field)
    if not chosen.chooses and (options.only_safe_chosen or options.prefer):
        raise BadRow(f"is {chosen.name}; expected Beaver's fields with only_safe_chosen or prefer. Leave these out")
    return chosen


def _with_line(example: Example | Preference, line: int) -> Example | Preference:
    # Frozen for everyone else; replace() would build every example twice.
    object.__setattr__(example, "line", line)
    return example
