"""Published data as the source of the experiments: any base model on Alpaca, MetaMath or GSM8K, MMLU and safety pairs.

    source = RealSource(scale=LAPTOP, data=data, base=base, chat=True)
    study_of(source.cells(), ReproductionBench(name, source)).make(out)

The data travel with the source, so that worker processes and the nodes of a cluster need no files.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.evaluation import generate
from aligner_probe.evaluation.content import words
from aligner_probe.reproduction.cells import EXPERIMENTS, Experiment, ReproductionCell
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.real_data import STOPS, Data
from aligner_probe.reproduction.real_plan import published_recipe, real_cells
from aligner_probe.reproduction.scales import Scale, lacks
from aligner_probe.reproduction.source import Material, Measured, Stage
from aligner_probe.sizes import BaseShape
from aligner_probe.tasks.chat import Conversation
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training import Recipe, recipe

#: Prompts that are answered together.
BATCH = 32
#: How long an answer of an item may be, by the item's rule; else as a mixed question's.
LIMITS = {"parts": "math", "refuse": "harmful"}
#: An answer goes round in circles where fewer of its runs of four words differ than this.
DISTINCT, RUN = 0.5, 4


@dataclass(frozen=True)
class RealSource:
    """What the experiments train on and ask on a real base model.

    Args:
        scale: the sizes and numbers of steps.
        data: the rows that were drawn.
        base: the sizes of the base model.
        chat: whether prompts are asked by the chat template of its tokenizer.
    """

    scale: Scale
    data: Data
    base: BaseShape
    chat: bool

    def cells(self) -> tuple[ReproductionCell, ...]:
        """The cells of the plan."""
        experiments: tuple[Experiment, ...] = tuple(
            one for one in EXPERIMENTS if self.data.materials.get(one) is not None
        )
        return real_cells(self.scale, experiments, self.base.d_model)

    def materials(self) -> dict[str, Material]:
        return self.data.materials

    def questions(self) -> tuple[Item, ...]:
        return self.data.questions

    def asks_questions(self, experiment: Experiment) -> bool:
        """The mixed questions are of instructions, and the harmless ones of safety."""
        return experiment != "math"

    def recipe_of(self, cell: ReproductionCell, stage: Stage) -> Recipe:
        scale, dpo = self.scale, stage.name == "dpo"
        steps = scale.dpo_steps if dpo else None if scale.steps is None else scale.steps[cell.experiment]
        size = scale.dpo_batch_size if dpo else scale.batch_size
        micro = scale.dpo_micro_batch_size if dpo else scale.micro_batch_size
        length = scale.dpo_max_length if dpo else scale.max_length
        if cell.recipe == "as-published":
            return published_recipe(cell, stage, steps, size, length)
        options: dict[str, Any] = {"lr": cell.lr[stage.name], "batch_size": size, "max_length": length}
        if micro is not None:
            options["micro_batch_size"] = micro
        if steps is not None:
            options |= {"steps": steps, "evaluate_every": max(1, steps // scale.evaluations)}
        return recipe("corrected", stage.train.kind, seed=cell.trained_seed, **options)

    @property
    def keeps_answers(self) -> bool:
        return True

    def answers(self, model: TransformerBridge, items: Sequence[Item]) -> list[str]:
        """Each answer ends before the end token, or with its limit of tokens; without a chat also before `STOPS`."""
        said: list[str] = [""] * len(items)
        limits = [self.scale.max_new_tokens[LIMITS.get(item.rule, "questions")] for item in items]
        for limit in dict.fromkeys(limits):
            chosen = [index for index, own in enumerate(limits) if own == limit]
            prompts = [self._prompt(items[index]) for index in chosen]
            stop = () if self.chat else STOPS
            answers = generate(model, prompts, max_new_tokens=limit, stop=stop, batch_size=BATCH)
            for index, answer in zip(chosen, answers, strict=True):
                said[index] = answer
        return said

    def measured_answers(self, model: TransformerBridge, answers: Sequence[str]) -> Measured:
        """The form of answers, for which no judge is needed: score "form", values "words" and "distinct".

        An answer has the form of a finished answer if it says something, ends before its limit of tokens, and does not
        go round in circles.
        """
        tokenizer, limit = own_tokenizer(model), self.scale.max_new_tokens["questions"]
        counts = [len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"]]
        distinct = [distinct_runs(answer) for answer in answers]
        finished = [
            bool(answer.strip()) and count < limit and share >= DISTINCT
            for answer, count, share in zip(answers, counts, distinct, strict=True)
        ]
        values = {
            "words": tuple(float(len(words(a))) for a in answers),
            "distinct": tuple(round(d, 4) for d in distinct),
        }
        return Measured({"form": "".join(str(int(one)) for one in finished)}, values)

    def plan_json(self, cells: Sequence[ReproductionCell], base: str) -> str:
        """The text of plan.json: base model, sizes, data, what the scale cannot decide, methods and all cells."""
        names = dict.fromkeys(cell.method for cell in cells if not cell.is_base)
        content = {
            "source": "published data",
            "base": base,
            "sizes": asdict(self.base),
            "chat": self.chat,
            "scale": asdict(self.scale),
            "lacks": lacks(self.scale),
            "data": self.data.about,
            "asks_questions": [e for e in EXPERIMENTS if e in self.data.materials and self.asks_questions(e)],
            "methods": {
                name: {"label": ARMS[name].label, "method": ARMS[name].method, "options": dict(ARMS[name].options)}
                for name in names
            },
            "runs": [asdict(cell) for cell in cells],
        }
        return json.dumps(content, indent=1, sort_keys=True) + "\n"

    def _prompt(self, item: Item) -> Any:
        return Conversation([{"role": "user", "content": item.prompt}]) if self.chat else item.prompt


def distinct_runs(text: str) -> float:
    """The share of a text's runs of four words that differ from the runs before them; 1 for a shorter text."""
    said = words(text)
    runs = [said[start : start + RUN] for start in range(len(said) - RUN + 1)]
    return float(np.mean([runs.index(run) == index for index, run in enumerate(runs)])) if runs else 1.0
