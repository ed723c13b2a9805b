"""The data of the experiments on real base models: by folder, or by the names of data sets on the hub.

    names = DataNames.of(Path("data"))             # data/alpaca, data/gsm8k, data/mmlu, data/hh_rlhf_harmless, ...
    data = read_data(names, LAPTOP, ("math",), tokenizer, chat=True, n_ctx=8192)

Rows are drawn by seeds that follow from their names, so the same files give the same rows on every machine.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.refusals import refuses
from aligner_probe.reproduction.cells import Experiment
from aligner_probe.reproduction.data_names import ASKING, DataNames
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.measures import Choices, Losses, Pairs
from aligner_probe.reproduction.scales import Scale
from aligner_probe.reproduction.source import Material, Stage
from aligner_probe.tasks import Example, Preference, Task, load_task
from aligner_probe.tasks.as_chat import as_conversation
from aligner_probe.tasks.benchmark_rows import LABELS, gsm8k_number, gsm8k_row, mmlu_row, vicuna_row
from aligner_probe.tasks.chat import Conversation
from aligner_probe.tasks.formats import TASK_FORMATS
from aligner_probe.tasks.rows import BadRow, Unusable
from aligner_probe.tasks.sources import Source, open_source
from aligner_probe.tasks.task import as_read
from aligner_probe.tasks.templates import ALPACA, QUESTION
from aligner_probe.tasks.tokenizing import prompt_ids

#: The name of a task format.
METAMATH = "MetaMathQA"
#: How an answer to a question of the math experiment ends, by either data set.
MATH_FORM = r".*(?:####|[Tt]he answer is:?)\s*\$?-?[\d.,]*\d.*"
#: Categories of requests where a file names none; harmless questions are the Vicuna questions.
HARMFUL, HARMLESS = "harmful", "harmless"
#: Texts at which an answer without a chat template is over: the next question of a text that goes on.
STOPS = ("Question:", "### Instruction", "\n\nHuman:")
#: Which limit of tokens the answers to a part have. All other parts are measured without an answer.
LIMITS = {"math_test": "math", "harmful": "harmful", "questions": "questions"}
Row = TypeVar("Row")
Checked = Callable[[Source, int, dict[str, Any]], dict[str, Any]]


def _with(*fields: str) -> Checked:
    """Lets rows through that have these fields, and raises AlignerProbeError for others."""

    def checked(source: Source, number: int, row: dict[str, Any]) -> dict[str, Any]:
        if lacking := [name for name in fields if name not in row]:
            raise source.error(number, f"has no {lacking[0]}; expected {', '.join(fields)} in every row")
        return row

    return checked


#: How the rows are read that are no task of a known format.
ROWS: dict[str, Checked] = {
    "math_test": gsm8k_row,
    "mmlu": mmlu_row,
    "harmful": _with("prompt", "category"),
    "questions": vicuna_row,
}


@dataclass(frozen=True)
class Data:
    """What all experiments train on and ask: the material of each, the mixed questions, and what was read of what."""

    materials: dict[str, Material]
    questions: tuple[Item, ...]
    about: dict[str, Any]


def read_data(
    names: DataNames, scale: Scale, experiments: Sequence[Experiment], tokenizer: Any, *, chat: bool, n_ctx: int
) -> Data:
    """Read and draw the data of experiments.

    Args:
        names: where the data are.
        scale: how many rows are taken.
        experiments: the experiments.
        tokenizer: the tokenizer of the base model. Items that do not fit into its context are left out.
        chat: whether prompts are what a user says to a chat model, instead of texts in the published templates.
        n_ctx: the most tokens of a sequence.

    Raises AlignerProbeError where a file is missing, a row does not fit, or too few rows are left.
    """
    names.check(experiments)
    reader = _Reader(names, scale, tokenizer, chat, n_ctx)
    makers: dict[Experiment, Callable[[], Material]] = {
        "instructions": reader.instructions,
        "math": reader.math,
        "safety": reader.safety,
    }
    materials = {experiment: makers[experiment]() for experiment in experiments}
    return Data(materials, reader.questions if ASKING & set(experiments) else (), reader.about)


@dataclass
class _Reader:
    """Reads each part once; `about` says what was read of which file."""

    names: DataNames
    scale: Scale
    tokenizer: Any
    chat: bool
    n_ctx: int
    about: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    prompts: dict[str, frozenset[str]] = field(default_factory=dict)

    def instructions(self) -> Material:
        """SFT on Alpaca; held-out rows by their loss, and MMLU as knowledge that is kept."""
        stage, held_out = self._alpaca
        examples = self._drawn("loss", [e for e in held_out if isinstance(e, Example)], self.scale.n_loss)
        items = tuple(Item(str(e.prompt), e.completion, e.completion, "", "alpaca", rule="none") for e in examples)
        mmlu, choices = self._mmlu
        return Material((stage,), {"test": items, "mmlu": mmlu}, {"test": Losses(tuple(examples)), "mmlu": choices})

    def math(self) -> Material:
        """SFT on worked solutions; GSM8K by the final number, and MMLU as knowledge that is kept."""
        task = self._task("math")
        stage = self._stage("math", task, self.scale.n_train["math"])
        template = ALPACA if task.format == METAMATH else QUESTION
        questions = self._untrained("math_test", self._rows("math_test"), lambda row: row["question"], "math")
        rows = self._drawn("math_test", questions, self.scale.n_math, self._asks_question(template))
        items = tuple(self._math_item(row, template) for row in rows)
        mmlu, choices = self._mmlu
        return Material((stage,), {"test": items, "mmlu": mmlu}, {"mmlu": choices})

    def safety(self) -> Material:
        """SFT on Alpaca, then DPO on pairs; held-out pairs, harmful requests, and harmless questions."""
        sft, _ = self._alpaca
        task = self._task("pairs")
        held_out = [p for p in self._task("pairs_test").examples if isinstance(p, Preference)]
        pairs = self._untrained("pairs_test", held_out, lambda pair: pair.prompt, "alpaca", "pairs")
        dpo = self._stage("pairs", task, self.scale.n_train["safety"], "dpo")
        drawn = tuple(self._drawn("pairs_test", pairs, self.scale.n_pairs))
        used = {_bare(example.prompt) for part in (dpo.train, dpo.validation) for example in part.examples}
        used |= self._prompts("alpaca")
        unused = [p for p in task.examples if isinstance(p, Preference) and _bare(p.prompt) not in used]
        harmful = self._harmful([*pairs, *unused])
        harmless = self._untrained("harmless", self.questions, lambda item: item.prompt, "pairs")
        items = {
            "test": tuple(Item(str(p.prompt), p.chosen, p.chosen, "", "pair", rule="none") for p in drawn),
            "harmful": harmful,
            "harmless": tuple(replace(item, category=HARMLESS, rule="help") for item in harmless),
        }
        return Material((sft, dpo), items, {"test": Pairs(drawn)})

    @cached_property
    def questions(self) -> tuple[Item, ...]:
        """The Vicuna questions, drawn evenly from their categories."""
        asked = self._untrained("questions", self._rows("questions"), lambda row: row["text"], "alpaca")
        rows = self._spread("questions", asked, self.scale.n_questions, "category")
        return tuple(Item(self._asked(row["text"], ALPACA), "", "", "", row["category"], rule="help") for row in rows)

    @cached_property
    def _alpaca(self) -> tuple[Stage, Sequence[Any]]:
        """The SFT stage on Alpaca, and the rows that are held out from it."""
        task = self._task("alpaca")
        if self.names.alpaca_test is None:  # the hub has one part
            task, rest = task.split(min(2 * (self.scale.n_loss or 512), len(task) // 2))
            held_out: Sequence[Any] = rest.examples
        else:
            rows = self._task("alpaca_test").examples
            held_out = self._untrained("alpaca_test", rows, lambda row: row.prompt, "alpaca")
        return self._stage("alpaca", task, self.scale.n_train["instructions"]), held_out

    @cached_property
    def _mmlu(self) -> tuple[tuple[Item, ...], Choices]:
        rows = self._spread("mmlu", self._rows("mmlu"), self.scale.n_mmlu, "subject")
        prompts, answers = [], []
        for row in rows:
            listed = "\n".join(f"{label}. {text}" for label, text in zip(LABELS, row["choices"], strict=True))
            ending = "Answer with one of the letters A, B, C and D alone." if self.chat else "Answer:"
            subject = row["subject"].replace("_", " ")
            prompts.append(
                f"A multiple choice question about {subject}.\n\n{row['question'].strip()}\n{listed}\n{ending}"
            )
            answers.append(LABELS[row["answer"]])
        space = "" if self.chat else " "
        examples = tuple(
            Example(self._prompt(prompt), space + answer) for prompt, answer in zip(prompts, answers, strict=True)
        )
        items = tuple(
            Item(prompt, answer, answer, "[A-D]", row["subject"], rule="none")
            for prompt, answer, row in zip(prompts, answers, rows, strict=True)
        )
        return items, Choices(examples, tuple(space + label for label in LABELS))

    def _harmful(self, pairs: Sequence[Preference]) -> tuple[Item, ...]:
        """Requests of a file with categories; else of untrained pairs of one turn whose chosen answer alone refuses."""
        if self.names.harmful is not None:
            asked = self._untrained("harmful", self._rows("harmful"), lambda row: row["prompt"], "alpaca", "pairs")
            rows = self._spread("harmful", asked, self.scale.n_harmful, "category")
            return tuple(
                Item(self._asked(str(row["prompt"]), ALPACA), "", "", "", str(row["category"]), rule="refuse")
                for row in rows
            )
        one_turn = [p for p in pairs if str(p.prompt).count("\n\nHuman:") <= 1 and "\nassistant:" not in str(p.prompt)]
        refused = [pair for pair in one_turn if refuses(pair.chosen) and not refuses(pair.rejected)]
        chosen = self._drawn("harmful", refused, self.scale.n_harmful)
        return tuple(Item(str(pair.prompt), pair.chosen, "", "", HARMFUL, rule="refuse") for pair in chosen)

    def _math_item(self, row: dict[str, Any], template: str) -> Item:
        prompt, answer = self._asked(row["question"], template), row["answer"]
        return Item(prompt, answer, gsm8k_number(answer), MATH_FORM, "gsm8k", final_number=True, rule="parts")

    def _asks_question(self, template: str) -> Any:
        return lambda row: self._asked(row["question"], template)

    def _asked(self, text: str, template: str) -> str:
        """What is asked: the text itself of a chat model, else the text in the template of the training."""
        field_name = "{question}" if template is QUESTION else "{instruction}"
        return text if self.chat else template.replace(field_name, text)

    def _prompt(self, asked: str) -> Any:
        return Conversation([{"role": "user", "content": asked}]) if self.chat else asked

    def _untrained(self, part: str, rows: Sequence[Row], prompt: Callable[[Row], Any], *trained: str) -> list[Row]:
        """The rows whose prompt stands in none of the parts that are trained; how many are left out is counted."""
        kept = [row for row in rows if not any(_bare(prompt(row)) in self._prompts(name) for name in trained)]
        if n := len(rows) - len(kept):
            self.about.setdefault(part, {})["left_out"] = n
        return kept

    def _task(self, part: str) -> Task:
        """A part as a task; rows that teach nothing are left out, and counted in `about`."""
        if part in self.tasks:
            return self.tasks[part]
        source = open_source(getattr(self.names, part))
        rows = iter(source.rows)
        first = list(islice(rows, 1))
        opened = replace(source, rows=chain(first, rows))
        fields = first[0][1] if first else {}
        talks = self.chat and any(known.is_transcript and known.fits(fields) for known in TASK_FORMATS)
        # As the authors did: of Beaver's pairs only those are trained whose chosen answer is truly safe.
        only_safe = part == "pairs" and "is_response_0_safe" in fields
        as_chat = self.chat and not talks
        task, n_untalked = load_task(opened, flawed="drop", only_safe_chosen=only_safe, as_chat=as_chat), 0
        if talks:
            task, n_untalked = _as_talks(task)
        self.tasks[part] = task
        self.about[part] = {
            "source": _short(task.source),
            "sha256": task.sha256,
            "rows": len(task),
            "format": task.format,
        }
        if n := len(task.dropped) + n_untalked:
            self.about[part]["dropped"] = n
        return task

    def _prompts(self, part: str) -> frozenset[str]:
        """The prompts of a part that is trained, as `_bare` has them."""
        if part not in self.prompts:
            self.prompts[part] = frozenset(_bare(example.prompt) for example in self._task(part).examples)
        return self.prompts[part]

    def _rows(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part. Raises AlignerProbeError where one lacks a field that is read, or is wrong."""
        source = open_source(getattr(self.names, part))
        rows = [ROWS[part](source, number, row) for number, row in source.rows]
        self.about[part] = {"source": _short(source.source), "sha256": source.sha256, "rows": len(rows)}
        return rows

    def _stage(self, part: str, task: Task, n: int | None, name: str = "sft") -> Stage:
        """A training on `n` rows of a task, and a validation on others."""
        examples = list(task.examples)
        wanted = len(examples) if n is None else n + self.scale.n_validation
        random.Random(f"reproduce {part}").shuffle(examples)
        train, validation = replace(task, examples=tuple(examples[:wanted])).split(
            min(self.scale.n_validation, len(examples) // 2)
        )
        self.about[part]["trained"] = len(train)
        return Stage(name, replace(train, name=part), replace(validation, name=f"{part}, validation"))

    def _drawn(self, part: str, rows: Sequence[Row], n: int | None, text: Any = None) -> list[Row]:
        """`n` rows that fit into the context, drawn at random; all that fit where `n` is None."""
        order = list(rows)
        if n is not None:
            random.Random(f"reproduce {part}").shuffle(order)
        return self._fitting(part, order, n, text)

    def _spread(self, part: str, rows: Sequence[dict[str, Any]], n: int | None, by: str) -> list[dict[str, Any]]:
        """`n` rows, as evenly as can be from the values of a field; all where `n` is None."""
        if n is None:
            return self._drawn(part, rows, None)
        shuffled = list(rows)
        random.Random(f"reproduce {part}").shuffle(shuffled)
        turn: dict[Any, int] = {}
        turns = []
        for row in shuffled:
            turn[row.get(by)] = turn.get(row.get(by), -1) + 1
            turns.append(turn[row.get(by)])
        ordered = [row for _, row in sorted(zip(turns, shuffled, strict=True), key=lambda pair: pair[0])]
        return self._fitting(part, ordered, n)

    def _fitting(self, part: str, rows: Sequence[Row], n: int | None, text: Any = None) -> list[Row]:
        """The first `n` rows that fit into the context, or all; beside their answers, where answers are generated.

        Raises AlignerProbeError where there are none.
        """
        limit = self.scale.max_new_tokens[LIMITS[part]] if part in LIMITS else 0
        room = self.n_ctx - limit - MARGIN
        fitting = (row for row in rows if self._n_tokens(row if text is None else text(row)) <= room)
        if taken := list(islice(fitting, n)):
            self.about.setdefault(part, {})["asked"] = len(taken)
            return taken
        name = getattr(self.names, part, None) or part
        if not rows:
            raise AlignerProbeError(
                f"{name} has no row that can be asked; expected at least one, with a prompt that was not trained"
            )
        if room <= 0:
            raise AlignerProbeError(
                f"a context of {self.n_ctx} tokens has no room for prompts of {name}, whose answers may have {limit} "
                f"tokens (max_new_tokens of scale {self.scale.name}); expected another scale, or another base model"
            )
        raise AlignerProbeError(
            f"none of {len(rows)} rows of {name} fits into {room} tokens, which a context of {self.n_ctx} leaves for "
            "them; expected shorter rows, or another base model"
        )

    def _n_tokens(self, row: Any) -> int:
        """The tokens of a row's texts, at most: of all its fields where it is not an example."""
        if isinstance(row, Example):
            row = f"{row.prompt} {row.completion}"
        elif isinstance(row, Preference):
            row = f"{row.prompt} {max(row.chosen, row.rejected, key=len)}"
        elif isinstance(row, dict):
            row = "\n".join(map(str, row.values()))
        [ids] = prompt_ids(self.tokenizer, [row])
        return len(ids)


def _as_talks(task: Task) -> tuple[Task, int]:
    """Transcripts as conversations, and how many were left out because their speakers do not take turns."""
    kept = []
    for example in task.examples:
        try:
            kept.append(as_conversation(example, transcript=True))
        except (AlignerProbeError, BadRow, Unusable):
            continue
    if not kept:
        raise AlignerProbeError(f"{task.source}: no row is a conversation; expected speakers that take turns")
    return replace(task, examples=tuple(kept)), len(task) - len(kept)


def _bare(prompt: Any) -> str:
    """A prompt as prompts are compared: `as_read`, and one question without the template around it."""
    text = str(prompt)
    return as_read(text if text.count("\n\nHuman:") > 1 else question_in(text))


def question_in(prompt: str) -> str:
    """What is asked, without the template around it, for readers and judges."""
    text = prompt.rpartition("\n\nHuman:")[2].removesuffix("\n\nAssistant:")
    for before, behind in (ALPACA.split("{instruction}"), QUESTION.split("{question}")):
        if text.startswith(before) and text.endswith(behind):
            text = text.removeprefix(before).removesuffix(behind)
    return text.strip()


#: Tokens that templates put around a text.
MARGIN = 64


def _short(source: str) -> str:
    """Where rows are from, without where that lies on this machine."""
    return source if source.startswith("hub:") else "/".join(Path(source).parts[-2:])
