"""The task formats: which fields a row of a task's file has, and how it becomes an example.

Each format is declared once, in `TASK_FORMATS`. A format is recognised from the field names of a row, and from whether
they hold texts or lists of messages, never from the name of the file. `conversations.py` reads the lists of messages.

Completions are kept exactly as given: no space or newline is added before them, and none is removed. Where a published
format joins prompt and completion with nothing between them (Alpaca's "### Response:"), this one does so too. The
answers of HH-RLHF begin with a space of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import fields
from aligner_probe.tasks.conversations import WHOLE, is_listed, is_whole, read_completed, read_pair, read_whole
from aligner_probe.tasks.rows import (
    BadRow,
    Options,
    Row,
    Unusable,
    content_in,
    json_type,
    names_of,
    new_example,
    new_preference,
    prompt_of,
    refuse_contradiction,
    text_in,
)
from aligner_probe.tasks.task import Example, Kind, Preference
from aligner_probe.tasks.templates import ALPACA, ALPACA_WITH_INPUT, BARE_WITH_INPUT, QUESTION, fields_of

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
#: Known by what stands before the number that its answers end on.
GSM8K, GSM8K_MARK = "GSM8K", "####"
#: How messages are written.
MESSAGES = 'Messages are written [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
QUESTION_ANSWER = "question/answer"
#: The fields of the answer in formats of texts, beside which a list of messages is not read.
_COMPLETIONS = ("completion", "chosen", "rejected", "response", "output", "answer")
WAY_ON = "give --prompt-template and --completion-field (prompt_template=, completion_field= in Python)"


@dataclass(frozen=True)
class TaskFormat:
    """One way in which the rows of a data file are laid out: which fields they have, and how they are read.

    Args:
        name: What messages and `Task.format` call the format.
        kind: "sft" for rows with a completion, "preference" for rows with a chosen and a rejected one.
        required: Fields that every row has.
        read: The example that a row makes.
        template: The format's own prompt template; None where a row has its prompt as text.
        bare: The same without the words around the fields, for a chat model.
        is_transcript: Whether the prompt is a conversation in one text.
        one_of: Fields of which every row has at least one; empty for none.
        without: Fields that no row has.
        alone: Whether a row has no further fields, apart from those whose names tell what they mean
            (`fields.is_known`).
        also: Fields that are read where a row has them.
        asks: Fields that only the prompt is made from. A template from the user may leave them out.
        lists: Fields that hold lists of messages in this format. In other formats none of the required fields does.
            An answer to a prompt of messages may be a text, too.
        makes: Fields that a template may name although no row has them, because `read` makes them from others.
        chooses: Whether `only_safe_chosen` and `prefer` apply: a row has two answers, judged in several ways.
        may_repeat_prompt: Whether an answer that begins with its prompt is meant so, as in answers to published
            questions.
    """

    name: str
    kind: Kind
    required: tuple[str, ...]
    read: Callable[[Row, Options], Example | Preference]
    template: str | None = None
    bare: str | None = None
    is_transcript: bool = False
    one_of: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    alone: bool = False
    also: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    chooses: bool = False
    may_repeat_prompt: bool = False

    def used(self, template: str | None) -> frozenset[str]:
        """The fields that are read, with this prompt template from the user or without one."""
        names = {*self.required, *self.one_of, *self.also, "group"}
        return frozenset(names if template is None else (names - {*self.asks}) | {*fields_of(template)})

    def fits(self, row: Row) -> bool:
        """Whether a row is of this format."""
        return (
            not self.missing(row)
            and self._has_types_of(row)
            and not any(name in row for name in self.without)
            and not (self.alone and any(not fields.is_known(name) for name in set(row) - self.used(None)))
        )

    def _has_types_of(self, row: Row) -> bool:
        """Whether lists of messages stand where this format has them, and nowhere else."""
        if self.one_of == WHOLE:
            return any(is_whole(row.get(name)) for name in WHOLE)
        if not self.lists:
            return not any(is_listed(row[name]) for name in self.required)
        answers = [row[name] for name in self.required if name != "prompt"]
        asked = is_listed(row.get("prompt"))
        if "prompt" in self.required and not asked:
            return False
        # After a list of messages, a text is what the assistant says.
        return all(map(is_listed, answers)) or (asked and all(isinstance(answer, str) for answer in answers))

    def missing(self, row: Row) -> list[str]:
        """The fields of this format that a row lacks."""
        lacks = [name for name in self.required if name not in row]
        if self.one_of and not any(name in row for name in self.one_of):
            lacks.append(" or ".join(self.one_of))
        return lacks

    def __str__(self) -> str:
        names = [*self.required, *([" or ".join(self.one_of)] if self.one_of else [])]
        return f"{self.name} ({', '.join(names)})"


def recognise(row: Row, template: str | None, completion_field: str | None) -> TaskFormat:
    """The format of a file whose first row is `row`; with a template and a completion field, the one they describe.

    A template alone replaces that of a recognised format. Raises AlignerProbeError (without file and line, which the
    caller adds) where the fields fit no format or several, or lack a field that the options name.
    """
    if template is not None and completion_field is not None:
        names = tuple(dict.fromkeys([*fields_of(template), completion_field]))
        chosen = TaskFormat("template", "sft", names, _by_template, also=("content",))
    elif completion_field is not None:
        raise AlignerProbeError(
            "has no prompt template to go with --completion-field; give --prompt-template (prompt_template=) too"
        )
    else:
        found = [known for known in TASK_FORMATS if known.fits(row)]
        if not found and (fault := _fault_of_messages(row)):
            raise AlignerProbeError(f"{fault}. {MESSAGES}")
        if len(found) != 1:
            what = "fit " + " and ".join(known.name for known in found) if found else "fit none of the known formats"
            has = f"has the fields {names_of(row)}, which {what}" if row else "has no fields"
            raise AlignerProbeError(
                f"{has}; expected one of {'; '.join(map(str, TASK_FORMATS))}; or {WAY_ON}{_hint(row)}"
            )
        chosen = found[0]
    if template is not None and chosen.lists:
        raise AlignerProbeError(
            f"is of format {chosen.name}, whose prompts are conversations and no texts; expected no prompt template "
            "with them. Leave out --prompt-template (prompt_template=)"
        )
    if template is not None:
        for name in fields_of(template):
            if name not in row and name not in chosen.makes:
                raise AlignerProbeError(
                    f"has no field {name!r}, which the prompt template names; found {names_of(row)}; expected a "
                    "template of those"
                )
    if completion_field is not None and completion_field not in row:
        raise AlignerProbeError(
            f"has no field {completion_field!r} for --completion-field; found {names_of(row)}; expected one of those"
        )
    return chosen


def _hint(row: Row) -> str:
    """What else to do with a row of a known kind that is none of the formats."""
    known = {fields.normalised(name) for name in row}
    if "text" in known:
        return ". To learn whole texts: --prompt-template '' --completion-field text"
    fitting = [known_format for known_format in TASK_FORMATS if not known_format.missing(row)]
    if len(fitting) > 1:
        return ". Leave out the fields that are not meant, each with --ignore-field NAME (ignore_fields= in Python)"
    if fitting and fitting[0].alone:
        unknown = [name for name in row if name not in fitting[0].used(None) and not fields.is_known(name)]
        return (
            f". It has the fields of {fitting[0].name}, and beside them {names_of(dict.fromkeys(unknown))}, which may "
            f"belong to the question: {fields.consent(unknown[0])}, or name it in --prompt-template"
        )
    return fields.example_of_options(row)


def _fault_of_messages(row: Row) -> str:
    """What keeps a row that seems to hold messages from being a conversation; empty where it seems to hold none."""
    answers = [name for name in ("prompt", "completion", "chosen", "rejected") if name in row]
    if listed := [name for name in answers if isinstance(row[name], list)]:
        other = next((name for name in answers if name not in listed), None)
        if other is None:
            name = next(name for name in listed if not is_listed(row[name]))
            return f"has a JSON list of other things in {name}; expected a list of messages"
        what = json_type(row[other])
        return f"has a JSON list in {listed[0]} but a JSON {what} in {other}; expected texts or messages in both"
    whole = [name for name in WHOLE if name in row]
    if whole and not set(row) & set(_COMPLETIONS):
        value = row[whole[0]]
        what = "a JSON list of other things" if isinstance(value, list) else f"a JSON {json_type(value)}"
        return f"has {what} in {whole[0]}; expected a list of messages"
    return ""


def read_row(row: Row, chosen: TaskFormat, options: Options) -> Example | Preference:
    """One example. Raises BadRow where the row is not of the format, Unusable where it teaches nothing."""
    if missing := chosen.missing(row):
        raise BadRow(
            f"lacks {', '.join(missing)}, which the rows before it have ({chosen.name}); found {names_of(row)}; "
            "expected the same fields in every row"
        )
    return chosen.read(row, options)


def _by_template(row: Row, options: Options) -> Example:
    """Numbers count as text here, so labels may be 0 and 1."""
    assert options.completion_field is not None
    completion = text_in(row, options.completion_field, numbers=True)
    return new_example(row, prompt_of(row, options, None), completion, content_in(row, options))


def _trl(row: Row, options: Options) -> Example:
    return new_example(row, _checked_prompt(row, options), text_in(row, "completion"), content_in(row, options))


def _trl_preference(row: Row, options: Options) -> Preference:
    refuse_contradiction(row)
    return new_preference(row, _checked_prompt(row, options), text_in(row, "chosen"), text_in(row, "rejected"))


def _checked_prompt(row: Row, options: Options) -> str:
    text_in(row, "prompt")
    return prompt_of(row, options, None)


def _alpaca(row: Row, options: Options) -> Example:
    # Tables that are written as JSON have null where a row has no input.
    instruction, given = text_in(row, "instruction"), "" if row.get("input") is None else text_in(row, "input")
    own = options.usual(ALPACA, "{instruction}")
    if given:
        own = options.usual(ALPACA_WITH_INPUT, BARE_WITH_INPUT)
    prompt = prompt_of(row, options, own, {"instruction": instruction, "input": given})
    return new_example(row, prompt, text_in(row, "output"))


def _question_answer(row: Row, options: Options) -> Example:
    """GSM8K's fields; `named` says whether the file is that data set."""
    prompt = prompt_of(row, options, options.usual(QUESTION, "{question}"), {"question": text_in(row, "question")})
    return new_example(row, prompt, text_in(row, "answer"), content_in(row, options))


def named(chosen: TaskFormat, completions: Sequence[str], template: str | None) -> tuple[str, str]:
    """The name of a file's format, and what is to be said of how it was read (empty where nothing is).

    Rows of question and answer are GSM8K where every answer has its mark before the number. Others are wrapped in the
    same template, and that is said: the field names alone do not say how a base is to be asked.
    """
    if chosen.name != GSM8K or all(GSM8K_MARK in completion for completion in completions):
        return chosen.name, ""
    if template is not None:
        return QUESTION_ANSWER, ""
    return QUESTION_ANSWER, (
        f"Questions were wrapped in {QUESTION!r}, which the rows do not ask for; give --prompt-template "
        "(prompt_template=) to ask otherwise, for instance '{question}' to ask them as they stand."
    )


def _metamath(row: Row, options: Options) -> Example:
    """In Alpaca's template without an input, as MetaMath was trained, less its "Let's think step by step."

    The authors of Aligner used another one: `templates.AUTHORS["MetaMathQA"]`.
    """
    query = text_in(row, "query")
    prompt = prompt_of(row, options, options.usual(ALPACA, "{query}"), {"query": query, "instruction": query})
    return new_example(row, prompt, text_in(row, "response"))


def _hh(row: Row, options: Options) -> Preference:
    """The prompt is the transcript up to and including the last "Assistant:", which both must share.

    Where the answers are no transcripts, it is what the user's template makes of other fields.
    """
    refuse_contradiction(row)
    chosen, rejected = text_in(row, "chosen"), text_in(row, "rejected")
    cut = chosen.rfind(ASSISTANT)
    if cut < 0 or HUMAN not in chosen[:cut]:
        if options.template is not None and "prompt" not in fields_of(options.template):
            return new_preference(row, prompt_of(row, options, None), chosen, rejected)
        raise BadRow(
            f"has a chosen without {HUMAN!r} and {ASSISTANT!r}; expected a transcript (HH-RLHF), or a prompt field of "
            "its own (TRL), or one that --prompt-template makes of other fields, for instance '{question}'"
        )
    prompt = chosen[: cut + len(ASSISTANT)]
    # A further turn in the rejected one: the two answer different questions.
    if not rejected.startswith(prompt) or ASSISTANT in rejected[len(prompt) :]:
        raise Unusable("chosen and rejected do not share their prompt")
    return new_preference(
        row, prompt_of(row, options, None, {"prompt": prompt}), chosen[len(prompt) :], rejected[len(prompt) :]
    )


def _beaver(row: Row, options: Options) -> Preference:
    """Alpaca's template without an input; the authors of Aligner also used `templates.AUTHORS["Beaver"]`.

    The chosen answer is the safer one, as in the authors' training, unless the row or the options say better.
    """
    field = f"{options.prefer or ('safer' if 'safer_response_id' in row else 'better')}_response_id"
    choice = row.get(field)
    if field not in row:
        raise BadRow(f"lacks {field}; found {names_of(row)}; expected it in every row, or another prefer=")
    if type(choice) is not int or choice not in (0, 1):
        raise BadRow(f"has {field} {choice!r}; expected 0 or 1")
    prompt = text_in(row, "prompt")
    answers = text_in(row, "response_0"), text_in(row, "response_1")
    if options.only_safe_chosen:
        safe = row.get(f"is_response_{choice}_safe")
        if not isinstance(safe, bool):
            raise BadRow(f"has no true or false in is_response_{choice}_safe, which only_safe_chosen needs")
        if not safe:
            raise Unusable(NOT_SAFE)
    asked = prompt_of(row, options, options.usual(ALPACA, "{prompt}"), {"prompt": prompt, "instruction": prompt})
    return new_preference(row, asked, answers[choice], answers[1 - choice])


#: Dropped whenever it was asked for, whatever is done with flawed rows.
NOT_SAFE = "the chosen answer is not safe"

TASK_FORMATS = (
    TaskFormat("TRL", "sft", ("prompt", "completion"), _trl, also=("content",), asks=("prompt",)),
    TaskFormat("TRL preference", "preference", ("prompt", "chosen", "rejected"), _trl_preference, asks=("prompt",)),
    TaskFormat(
        "Alpaca", "sft", ("instruction", "output"), _alpaca, ALPACA, "{instruction}", also=("input",),
        asks=("instruction", "input"),
    ),
    # Names so general that other sets have them too, with more fields that matter (MMLU: its choices).
    TaskFormat(
        GSM8K, "sft", ("question", "answer"), _question_answer, QUESTION, "{question}", alone=True, also=("content",),
        asks=("question",),
    ),
    TaskFormat(
        "MetaMathQA", "sft", ("query", "response"), _metamath, ALPACA.replace("{instruction}", "{query}"), "{query}",
        asks=("query",),
    ),
    TaskFormat(
        "HH-RLHF", "preference", ("chosen", "rejected"), _hh, is_transcript=True, without=("prompt",), makes=("prompt",)
    ),
    TaskFormat(
        "Beaver",
        "preference",
        ("prompt", "response_0", "response_1"),
        _beaver,
        ALPACA.replace("{instruction}", "{prompt}"),
        "{prompt}",
        one_of=("safer_response_id", "better_response_id"),
        also=("is_response_0_safe", "is_response_1_safe"),
        asks=("prompt",),
        chooses=True,
        may_repeat_prompt=True,
    ),
    TaskFormat(
        "chat messages", "sft", (), read_whole, one_of=WHOLE, lists=WHOLE, also=("prompt", "content"),
        without=_COMPLETIONS,
    ),
    TaskFormat(
        "chat completion", "sft", ("prompt", "completion"), read_completed, also=("content",),
        lists=("prompt", "completion"),
    ),
    TaskFormat(
        "chat preference", "preference", ("chosen", "rejected"), read_pair, also=("prompt", "messages"),
        lists=("chosen", "rejected"),
    ),
)  # fmt: skip
