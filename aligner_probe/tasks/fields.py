"""Fields beside those that a format reads: which of them change what a row means, and what then happens.

One table per way in which a field can change a row's meaning. A row whose field changes its meaning is refused by name,
or it is honoured: a row that is marked as a bad example is dropped and counted where flawed rows are to be dropped. The
user can leave a field out on purpose (`ignore_fields`). Every other field is listed once for the whole file and changes
nothing.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["sft", "preference"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What belongs to the prompt, or may be the whole prompt or answer in another form. It is left out where the user
#: gives a prompt template that does not name it: then the user has said what the prompt is.
CONTEXT = _words("""
    system system_prompt system_message sys_prompt context contexts background passage document documents
    instruction instructions input inputs history chat_history messages conversation conversations dialog dialogue
    turns tools functions choices options completions few_shot_examples prefix suffix
""")
#: Those of CONTEXT that hold the text of a system message. A conversation begins with it.
SYSTEM = _words("system system_prompt system_message sys_prompt")
#: Those of CONTEXT that hold lists: a number in one of them only says how many there are.
LISTS = _words("""
    contexts documents history chat_history messages conversations turns tools functions choices options completions
    few_shot_examples
""")
#: What a model of texts cannot read.
MEDIA = _words("image images audio audios video videos image_path audio_path video_path pixel_values")
#: What changes what a chat template makes of a conversation.
TEMPLATING = _words("""
    chat_template chat_template_kwargs chat_template_args template_kwargs add_generation_prompt continue_final_message
    enable_thinking
""")
#: What says which tokens of the row are trained.
MASKS = _words("""
    mask masks loss_mask train_mask completion_mask assistant_mask labels token_labels
    train_on_prompt train_on_input train_on_inputs masked
""")
#: How much the row counts, which is once here.
WEIGHTS = _words("""
    weight weights sample_weight example_weight loss_weight importance importance_weight repeat repeats multiplicity
""")
#: By how much a pair's answers are to differ, which DPO here does not use.
MARGINS = _words("margin margins")
#: A row is a good example where these are true, and a bad one where they are false.
GOOD = _words("""
    label kto_tag is_correct correct is_good good accepted is_accepted approved is_approved desirable is_desirable valid
    is_valid passed is_positive thumbs_up safe is_safe is_chosen is_preferred train is_train trainable use keep include
    included
""")
#: A row is a bad example where these are true.
BAD = _words("""
    incorrect is_incorrect wrong is_wrong bad is_bad is_rejected toxic is_toxic unsafe is_unsafe harmful is_harmful
    hallucinated is_hallucination exclude excluded is_excluded skip ignore ignored deleted is_deleted discarded
    is_discarded flagged is_flagged spam is_spam thumbs_down
""")
#: What became of the row when it was reviewed (Argilla). Only the words of REVIEWED_BAD mark a bad example.
STATUSES = _words("status record_status response_status review_status annotation_status")
REVIEWED_BAD = _words("discarded rejected deleted")
#: Which part of the data the row belongs to, and the words of the parts that are not for training.
SPLITS = _words("split data_split dataset_split")
HELD_OUT = _words("test dev val valid validation eval evaluation heldout holdout held hold")
#: How good the answer is. Rows whose numbers differ would all be trained alike.
RANKINGS = _words("""
    score rating rank ranking reward quality quality_score stars upvotes votes preference_score human_score helpfulness
    correctness
""")
#: Names that say nothing about how a row is to be learned. They are listed as any other field is.
HARMLESS = _words("""
    id idx index uid uuid num row source category subject topic subset language lang type task task_type dataset
    domain difficulty level tag tags license url timestamp date created_at author model name title prompt_id question_id
    meta metadata
""")
KNOWN = CONTEXT | MEDIA | TEMPLATING | MASKS | WEIGHTS | MARGINS | GOOD | BAD | STATUSES | SPLITS | RANKINGS | HARMLESS

FALSE_TEXTS = _words("false 0 bad wrong incorrect rejected undesirable")
TRUE_TEXTS = _words("true 1")
#: Only under a name that asks a question (`is_correct`, `valid`); a `label` of "no" may be the class of an answer.
NO_TEXTS, YES_TEXTS = _words("no n"), _words("yes y")
#: Text that stands for nothing, as tables and data sets write it.
NOTHING_TEXTS = _words("[] {} null None nan NaN")

#: What other tools call the fields of a prompt and of its answer, the more telling names first.
ASKING = ("instruction", "question", "prompt", "query", "input", "inputs", "source_text", "user", "context")
ANSWERING = (
    "completion", "response", "output", "answer", "target", "targets", "label_text", "summary", "assistant", "chosen",
)  # fmt: skip


class Refused(Exception):
    """A row whose field changes its meaning in a way that is not honoured: the file is refused."""


@dataclass(frozen=True)
class Mark:
    """A field that says of some rows that they are no good examples: the lines of those, and one of the values."""

    name: str
    lines: tuple[int, ...]
    value: str

    @property
    def reason(self) -> str:
        return f"its {shown_name(self.name)} is {self.value}, which marks a bad example"


class BadExamples(Exception):
    """A file with rows that a field marks as bad examples; `line` is the first of them."""

    def __init__(self, mark: Mark, n_rows: int) -> None:
        super().__init__(
            f"{mark.reason}, as that of {len(mark.lines)} of {n_rows} rows does; it would be trained as a good one. "
            'Drop and count such rows with --flawed drop (flawed="drop" in Python), or give pairs of chosen and '
            f"rejected answers; or {consent(mark.name)}"
        )
        self.line = mark.lines[0]


@dataclass
class Others:
    """Collects, row by row, the fields that a file has and its format does not read.

    `used` holds the fields that the format reads. `asked_for` is True if the user gave the prompt template. `kind` is
    the kind of the task. `asks` holds the fields from which the format builds the prompt. `takes_system` is True if a
    system message in a field of its own is read, and `holds_chats` if the rows hold conversations. `names` holds all
    other fields, in the order in which they first appear.
    """

    used: frozenset[str]
    asked_for: bool
    kind: Kind
    asks: tuple[str, ...] = ()
    takes_system: bool = False
    holds_chats: bool = False
    names: dict[str, None] = field(default_factory=dict)
    _marks: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    _rankings: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    _splits: dict[str, list[str]] = field(default_factory=dict)

    def see(self, line: int, row: Mapping[str, Any]) -> None:
        """Take in one row. Raises Refused where one of its fields changes its meaning and is not honoured."""
        for name in row:
            known, value = normalised(name), row[name]
            if name in self.used or (self.takes_system and known in SYSTEM):
                continue
            self.names.setdefault(name)
            if known in MEDIA and not is_empty(value):
                raise Refused(_refusal(name, "which a model of texts cannot read"))
            if known in TEMPLATING and not _is_absent(value):
                raise Refused(_refusal(name, "which changes what a chat template makes of the row and is not honoured"))
            if known in CONTEXT and not self.asked_for and not is_empty(value) and not _is_count(known, value):
                what = "which belongs to what is asked or answered and would be left out"
                raise Refused(_refusal(name, what, self._in_a_template(name, value)))
            if _is_mask(known, value):
                raise Refused(_refusal(name, "which says what of the row is trained; that is --loss-on here"))
            if known in WEIGHTS and changes(value, 1.0):
                raise Refused(_refusal(name, f"{shown(value)}, and every row counts once here"))
            if known in MARGINS and changes(value, 0.0):
                raise Refused(_refusal(name, f"{shown(value)}, and DPO has no margin here"))
            if known in GOOD | BAD | STATUSES:
                self._marks.setdefault(name, []).append((line, value))
            if known in RANKINGS and self.kind == "sft" and (number := _number(value)) is not None:
                self._rankings.setdefault(name, []).append((line, number))
            if known in SPLITS and isinstance(value, str) and value.strip():
                self._splits.setdefault(name, []).append(value)

    def _in_a_template(self, name: str, value: Any) -> str:
        """How a field of the context becomes part of the prompt."""
        if self.holds_chats:
            return "write it out as text in a message"
        if isinstance(value, list | dict):
            return "write it out as text in the prompt"
        asks = " ".join(f"{{{one}}}" for one in (name, *(asked for asked in self.asks if asked != "input")))
        return f"make it part of the prompt, for instance with --prompt-template {shown_name(asks)!r}"

    def bad_examples(self) -> list[Mark]:
        """The rows that a field marks as bad examples, by field. Raises Refused where rows are ranked."""
        for name, seen in self._rankings.items():
            values = [value for _, value in seen]
            if min(values) < max(values):
                raise Refused(
                    f"the field {shown_name(name)} ranks the rows, from {min(values):g} to {max(values):g}, and all "
                    f"rows would be trained alike; keep only the rows to learn from, or {consent(name)}"
                )
        for name, parts in self._splits.items():
            held_out = [part for part in parts if not HELD_OUT.isdisjoint(normalised(part).split("_"))]
            if held_out and len(held_out) < len(parts):
                raise Refused(
                    f"the field {shown_name(name)} says that {len(held_out)} of its rows are not for training, for "
                    f"instance {shown(held_out[0])}, and all rows would be trained; put the rows of each part into a "
                    f"file of their own, or {consent(name)}"
                )
        found = []
        for name, seen in self._marks.items():
            bad = _marked(normalised(name), seen)
            if bad:
                found.append(Mark(name, tuple(line for line, _ in bad), shown(bad[0][1])))
        return found


def normalised(name: str) -> str:
    """A field's name as the tables have it: "systemPrompt", "System Prompt" and "system-prompt" are "system_prompt"."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


def is_known(name: str) -> bool:
    """Whether a field of this name needs no guessing: it is harmless, or it is refused or honoured by its name."""
    return normalised(name) in KNOWN


def consent(name: str) -> str:
    """How a user leaves a field out on purpose."""
    return f"leave it out with --ignore-field {shown_name(name)} (ignore_fields=[{name!r}] in Python)"


def example_of_options(row: Mapping[str, Any]) -> str:
    """The options for a row whose prompt and answer have names that other tools use; empty where they have none."""
    texts = {normalised(name): name for name, value in row.items() if isinstance(value, str) and _plain(name)}
    answer = next((texts[name] for name in ANSWERING if name in texts), None)
    asked = next((texts[name] for name in ASKING if name in texts), None)
    if answer is None or asked is None or "rejected" in row:
        return ""
    context = next((texts[name] for name in ("context", "input") if texts.get(name, asked) != asked), None)
    template = " ".join(f"{{{name}}}" for name in (context, asked) if name is not None)
    return f", for instance --prompt-template '{template}' --completion-field {answer}"


def _plain(name: str) -> bool:
    """Whether a name can stand in a template and in a shell as it is."""
    return re.fullmatch(r"[\w.-]+", name) is not None


def contradiction(row: Mapping[str, Any]) -> str | None:
    """Why the scores of a pair speak against its order, for instance a score_chosen below the score_rejected."""
    numbers: dict[tuple[str, str], tuple[str, float]] = {}
    for name, value in row.items():
        parts = normalised(name).split("_")
        for which in ("chosen", "rejected"):
            rest = "_".join(part for part in parts if part != which)
            if which in parts and rest in RANKINGS and (number := _number(value)) is not None:
                numbers[rest, which] = (name, number)
    for (what, which), (name, number) in numbers.items():
        if which == "rejected" or (what, "rejected") not in numbers:
            continue
        other, against = numbers[what, "rejected"]
        worse = number > against if what in ("rank", "ranking") else number < against
        if worse:
            side = "above" if what in ("rank", "ranking") else "below"
            return f"its {shown_name(name)} is {side} its {shown_name(other)}, so the rejected answer is the better one"
    return None


def _refusal(name: str, what: str, way_on: str = "") -> str:
    return f"has the field {shown_name(name)}, {what}; {f'{way_on}; or ' if way_on else ''}{consent(name)}"


def shown_name(name: str) -> str:
    """A field's name for a message, shortened; control characters, which a file may hold, are escaped."""
    return repr(name)[1:-1] if len(name) <= 40 else f"{name[:37]!r}..."


def shown(value: Any) -> str:
    """A value as JSON for a message, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing: null, false, not a number, blank text, or lists and objects of nothing else.

    Such a value may be written as text ("[]").
    """
    if isinstance(value, str):
        return not value.strip() or value.strip() in NOTHING_TEXTS
    if isinstance(value, list):
        return all(map(is_empty, value))
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    return value is None or value is False or (isinstance(value, float) and math.isnan(value))


def _is_absent(value: Any) -> bool:
    """Whether an option of the row is not given at all; unlike in `is_empty`, false is a value."""
    if isinstance(value, dict):
        return all(map(_is_absent, value.values()))
    return value is not False and is_empty(value)


def _number(value: Any) -> float | None:
    """A finite number, also one written as text; None for anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_mask(known: str, value: Any) -> bool:
    """Whether a field says which tokens are trained; labels that are no list are those of classes."""
    if known not in MASKS or (known.endswith("labels") and not isinstance(value, list)):
        return False
    return not (is_empty(value) or _number(value) == 0)


def changes(value: Any, neutral: float) -> bool:
    """Whether a weight or a margin is another than the neutral one. An absent one is not; true is 1, and false 0."""
    if isinstance(value, bool):
        return value != neutral
    return not is_empty(value) and _number(value) != neutral


def _is_class_index(values: Iterable[Any]) -> bool:
    """Whether the numbers of a mark are those of classes (0 to 3, say): then they judge nothing."""
    numbers = [number for value in values if (number := _number(value)) is not None]
    return any(number not in (-1, 0, 1) for number in numbers)


def _marked(known: str, seen: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The lines and values of a field, of those that were seen, that mark a bad example."""
    if known in STATUSES:
        return [(line, value) for line, value in seen if _is_one_of(value, REVIEWED_BAD)]
    if _is_class_index(value for _, value in seen):
        return []
    if known in BAD:
        return [(line, value) for line, value in seen if _says(value, True, TRUE_TEXTS | YES_TEXTS, (1,))]
    texts = FALSE_TEXTS if known == "label" else FALSE_TEXTS | NO_TEXTS
    return [(line, value) for line, value in seen if _says(value, False, texts, (0, -1))]


def _says(value: Any, truth: bool, texts: frozenset[str], numbers: tuple[int, ...]) -> bool:
    """Whether a value is this truth value, or one of the texts or numbers that stand for it."""
    return value is truth or _is_one_of(value, texts) or _number(value) in numbers


def _is_one_of(value: Any, texts: frozenset[str]) -> bool:
    return isinstance(value, str) and value.strip().lower() in texts


def _is_count(known: str, value: Any) -> bool:
    """Whether a field of a list holds a number instead, as the 2 in `"turns": 2`."""
    return known in LISTS and isinstance(value, int | float)
