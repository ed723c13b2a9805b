"""How large a reproduction on a base model other than the micro-world is: `laptop`, or `paper`.

`paper` has the paper's own sizes: all rows, eight epochs of Alpaca and three of MetaMath in batches of 64, and all
questions. `laptop` is a subset that a model of 135 million parameters finishes in an evening on two cores. `lacks` says
what a scale cannot decide.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aligner_probe.arms.names import ALIGNER_1, ALIGNER_10, ALIGNER_100, LLAMA_ADAPTER_10, LORA_8
from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction.cells import EXPERIMENTS, Experiment, Variant

ALIGNER_300 = "aligner-300"
Methods = Mapping[Experiment, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of a reproduction on any base model. Where a size is None, all rows are taken.

    Args:
        name: the name of the scale.
        seeds: seeds of the corrected recipe; each is the start seed and the order seed of a run.
        published_seed, other_seed: the seed of the recipe as published, and that of its arm "other-seed".
        methods: by experiment, the methods that are trained by the corrected recipe.
        published: by experiment, the methods that are trained as published.
        arms: further runs as published, of the experiments with SFT alone: pairs of a method and what it does
            differently.
        n_train: by experiment, the examples to train on; "safety" counts the pairs of DPO.
        n_validation: examples that are set apart from training, for each stage.
        steps: by experiment, optimiser steps of SFT by either recipe ("safety" of the SFT before DPO); None for the
            epochs of the recipe.
        dpo_steps: optimiser steps of DPO; None for the epochs of the recipe.
        batch_size, dpo_batch_size: examples and pairs in a batch by the corrected recipe; None leaves it open. With
            `steps`, the recipe as published has this batch, too, in as many micro-batches as the authors'.
        micro_batch_size, dpo_micro_batch_size: examples and pairs that go through the model at once by the corrected
            recipe; None for the whole batch.
        evaluations: how often a run of so many `steps` is validated.
        max_length, dpo_max_length: the most tokens of an example and of each answer of a pair to train on; longer ones
            are cut.
        n_loss, n_mmlu, n_math, n_pairs, n_harmful, n_questions: held-out examples of instructions, questions of MMLU
            and of GSM8K, held-out pairs, harmful requests, and Vicuna questions.
        max_new_tokens: the most tokens of an answer, by "questions", "math" and "harmful".
    """

    name: str
    seeds: tuple[int, ...]
    published_seed: int = 1337
    other_seed: int = 1338
    methods: Methods
    published: Methods
    arms: tuple[tuple[str, Variant], ...] = ()
    n_train: Mapping[Experiment, int | None]
    n_validation: int
    steps: Mapping[Experiment, int] | None = None
    dpo_steps: int | None = None
    batch_size: int | None = None
    dpo_batch_size: int | None = None
    micro_batch_size: int | None = None
    dpo_micro_batch_size: int | None = None
    evaluations: int = 3
    max_length: int
    dpo_max_length: int
    n_loss: int | None
    n_mmlu: int | None
    n_math: int | None
    n_pairs: int | None
    n_harmful: int | None
    n_questions: int | None
    max_new_tokens: Mapping[str, int]


#: Epochs, and epochs of warm-up, of the authors' SFT by experiment (SCIENCE: of Alpaca the better of the fifth and the
#: eighth epoch is theirs; MetaMath's warm-up is .3 or 1). Before DPO they train on Alpaca.
PUBLISHED_LENGTH: Mapping[Experiment, tuple[float, float]] = {
    "instructions": (8.0, 2.0),
    "math": (3.0, 0.3),
    "safety": (8.0, 2.0),
}
#: Micro-batches in a batch of the authors, which their warm-up counts.
PUBLISHED_MICRO_BATCHES = 8
FOUR = (ALIGNER_1, ALIGNER_10, LLAMA_ADAPTER_10, LORA_8)
SIX = (ALIGNER_1, ALIGNER_10, ALIGNER_100, ALIGNER_300, LLAMA_ADAPTER_10, LORA_8)

LAPTOP = Scale(
    name="laptop",
    seeds=(0,),
    methods={
        "instructions": FOUR,
        "math": (ALIGNER_1, ALIGNER_10, ALIGNER_100, LLAMA_ADAPTER_10, LORA_8),
        "safety": (ALIGNER_1, LLAMA_ADAPTER_10, LORA_8),
    },
    published={"instructions": (ALIGNER_1,), "math": (ALIGNER_1,), "safety": ()},
    n_train={"instructions": 960, "math": 960, "safety": 320},
    n_validation=24,
    steps={"instructions": 48, "math": 48, "safety": 24},
    dpo_steps=24,
    batch_size=16,
    dpo_batch_size=8,
    micro_batch_size=4,  # so that two processes fit into 8 GB
    dpo_micro_batch_size=2,
    max_length=256,
    dpo_max_length=256,
    n_loss=48,
    n_mmlu=171,  # three of each subject
    n_math=60,
    n_pairs=80,
    n_harmful=40,
    n_questions=40,
    max_new_tokens={"questions": 96, "math": 160, "harmful": 48},
)
PAPER = Scale(
    name="paper",
    seeds=(0, 1, 2),
    methods={"instructions": FOUR, "math": SIX, "safety": FOUR},
    published={"instructions": FOUR, "math": SIX, "safety": FOUR},
    arms=((ALIGNER_1, "other-seed"), (ALIGNER_1, "float32"), (ALIGNER_10, "tenth-rate")),
    n_train={"instructions": None, "math": None, "safety": None},
    n_validation=512,
    batch_size=32,
    dpo_batch_size=32,
    micro_batch_size=8,
    dpo_micro_batch_size=2,
    max_length=512,
    dpo_max_length=1024,
    n_loss=512,
    n_mmlu=None,
    n_math=None,
    n_pairs=2000,
    n_harmful=None,
    n_questions=None,
    max_new_tokens={"questions": 512, "math": 512, "harmful": 256},
)
SCALES = {scale.name: scale for scale in (LAPTOP, PAPER)}


def scale_named(name: str) -> Scale:
    """A scale by its name. Raises AlignerProbeError for an unknown one."""
    if name not in SCALES:
        raise AlignerProbeError(f"no scale is named {name!r}; there are {', '.join(SCALES)}")
    return SCALES[name]


def lacks(scale: Scale) -> list[str]:
    """What a reproduction of this scale cannot decide, in sentences."""
    said = [
        "Tables 2 and 3 need a judge (--judge), and another judge than the paper's GPT-4 of 2023 compares with it in "
        "order only. Without a judge there are the held-out loss, the form of answers, and MMLU.",
        "Refusals are recognised by their words (in English), which is no judge of harm; without a file of harmful "
        "requests these are those of pairs whose chosen answer alone refuses, and not all of them are harmful.",
        "LLaMA-Adapter has 10 tokens and LoRA rank 8 in all experiments; the paper's safety experiment has 17 and 4.",
    ]
    sizes = {"MMLU": scale.n_mmlu, "GSM8K": scale.n_math, "harmful requests": scale.n_harmful}
    few = [f"{n} items of {what}: {half_width(n):.2f}" for what, n in sizes.items() if n is not None]
    if few:
        said.append(
            f"Few items: half of a 95 % interval at .5 is ({'; '.join(few)}). Smaller differences stay undecided."
        )
    if len(scale.seeds) == 1:
        said.append("One seed: how much runs differ by their start and order is not seen.")
    if scale.steps is not None:
        shown = ", ".join(f"{e} {scale.steps[e] * (scale.batch_size or 1):,}" for e in EXPERIMENTS)
        said.append(
            f"Short runs ({shown} examples by either recipe, where the authors' Alpaca has 416,000): what is not "
            "learned here may be learned later. A run as published shows the course of their learning rate, not how "
            "well they train."
        )
    said.append(
        "Learning rates follow from method and width; none is tuned, so that a method's rank may be its rate's."
    )
    return said


def half_width(n: int) -> float:
    """Half of the width of a 95 % interval of a share of .5 among n items."""
    return 1.96 * math.sqrt(0.25 / n)
