"""The micro-world as the source of the experiments: data drawn from a seed, and answers that are scored by a rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.evaluation import generate
from aligner_probe.microworld.world import World
from aligner_probe.reproduction.cells import Experiment, ReproductionCell
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.plan import Config, plan_json
from aligner_probe.reproduction.source import Material, Measured, Stage
from aligner_probe.reproduction.tasks import Maker
from aligner_probe.training import Recipe, recipe


@dataclass(frozen=True)
class WorldSource:
    """What the experiments train on and ask on the micro-world.

    Args:
        seed: the seed of the world that the base model was trained on.
        config: the sizes and numbers of steps.
    """

    seed: int
    config: Config

    def materials(self) -> dict[str, Material]:
        return self._maker().materials()

    def questions(self) -> tuple[Item, ...]:
        return self._maker().questions()

    def asks_questions(self, experiment: Experiment) -> bool:
        return True

    def recipe_of(self, cell: ReproductionCell, stage: Stage) -> Recipe:
        return recipe_of(cell, stage, self.config)

    @property
    def keeps_answers(self) -> bool:
        return False

    def answers(self, model: TransformerBridge, items: Sequence[Item]) -> list[str]:
        """Each answer goes up to the end of its line."""
        prompts = [item.prompt for item in items]
        return generate(model, prompts, max_new_tokens=self.config.max_new_tokens, stop=["\n"])

    def measured_answers(self, model: TransformerBridge, answers: Sequence[str]) -> Measured:
        return Measured()

    def plan_json(self, cells: Sequence[ReproductionCell], base: str) -> str:
        return plan_json(self.config, tuple(cells), base, self.seed)

    def _maker(self) -> Maker:
        return Maker(World.from_seed(self.seed), self.config)


def recipe_of(cell: ReproductionCell, stage: Stage, config: Config) -> Recipe:
    """The recipe of one stage of a run."""
    if cell.recipe == "as-published":
        return _as_published(cell, config)
    dpo = stage.name == "dpo"
    steps = config.dpo_steps if dpo else config.safety_steps if cell.experiment == "safety" else config.steps
    return recipe(
        "corrected",
        stage.train.kind,
        lr=cell.lr[stage.name],
        batch_size=config.batch_size,
        steps=whole_intervals(steps, config.evaluate_every),
        evaluate_every=config.evaluate_every,
        beta=config.dpo_beta,
        seed=cell.trained_seed,
    )


def whole_intervals(steps: int, evaluate_every: int) -> int:
    """The largest number of steps that is a multiple of `evaluate_every`, or `steps` where that is none.

    The stored runs went on for some steps more. There was no validation after those, so nothing of them was kept.
    """
    return steps - steps % evaluate_every or steps


def _as_published(cell: ReproductionCell, config: Config) -> Recipe:
    changes: dict[str, Any] = {"epochs": config.published_epochs, "warmup": config.published_warmup}
    if cell.method == "lora-8":
        # The authors' LoRA script counts its warm-up in steps. All else is as in the other arms, with which it is
        # compared.
        changes |= {"warmup": config.lora_published[1], "warmup_counts": "steps"}
    if cell.precision != "bf16-true":
        changes |= {"precision": cell.precision}
    return recipe("as-published", "sft", lr=cell.lr["sft"], seed=cell.trained_seed, **changes)
