"""What a reproduction takes where the base model is not on this machine: arithmetic from sizes, and nothing is loaded.

The base model is frozen, so training takes about 4 floating-point operations for each of its parameters and tokens (2
forward, 2 backward for the activations). DPO also computes its reference once, before the first step: 2 more for each
parameter and token of the pairs. Generation reads all parameters for each token of a batch. Seconds are those of one
GPU that reaches `Machine.share` of its speed; memory is the estimate of `training/memory.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_probe.adapters.lora import LoRA
from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.arms.catalogue import arm_named
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import read_json
from aligner_probe.reproduction.cells import START_LAYER, Experiment, ReproductionCell
from aligner_probe.reproduction.scales import PUBLISHED_LENGTH, Scale
from aligner_probe.sizes import (
    LLAMA2_7B,
    LLAMA2_13B,
    BaseShape,
    aligner_parameters,
    llama_adapter_parameters,
    lora_parameters,
)
from aligner_probe.training.memory import BaseSizes, MemoryEstimate, memory_of
from aligner_probe.training.recipe import EPOCHS


@dataclass(frozen=True)
class Machine:
    """A GPU: operations a second in bfloat16, bytes a second of its memory, and the share of both that is reached."""

    name: str
    operations: float
    bytes_a_second: float
    share: float


A100 = Machine("one A100 with 80 GB", 312e12, 2.0e12, 0.4)
#: Rows, and tokens of a row (of a pair: of both sequences), of the data sets that scale "paper" reads. Lengths are
#: those of rows like them in the data folder, rounded. PKU-SafeRLHF has 73,907 rows in default:train on the hub (83,400
#: in all by its card; the authors name 160,000 pairs). Only pairs whose chosen answer is safe are trained. How many
#: these are is not known here, so the number of pairs is an upper bound.
ALPACA, METAMATH, PAIRS = (52_002, 130), (395_000, 250), (73_907, 320)
#: What is asked: how many items, tokens of a prompt, and tokens of an answer (0 where nothing is generated).
MMLU, GSM8K, QUESTIONS = (14_042, 130, 0), (1_319, 110, 200), (80, 60, 300)
HELD_OUT, HELD_OUT_PAIRS, HARMFUL = (512, 130, 0), (2_000, 320, 0), (700, 60, 150)
#: Sizes of the MLP and the vocabulary, where no config.json is at hand.
_LLAMA2 = {
    LLAMA2_7B.name: (LLAMA2_7B, 11_008, 32_000, re.compile(r"llama-?2.*\b7b|7b.*llama-?2", re.IGNORECASE)),
    LLAMA2_13B.name: (LLAMA2_13B, 13_824, 32_000, re.compile(r"llama-?2.*\b13b|13b.*llama-?2", re.IGNORECASE)),
}
#: How the files of a base model's weights are named.
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
#: Answers that are generated together.
TOGETHER = 32


@dataclass(frozen=True)
class Sizes:
    """The sizes of a base model that is not loaded: what an adapter's size depends on, its MLP, and its vocabulary."""

    shape: BaseShape
    d_mlp: int
    d_vocab: int

    def in_memory(self, itemsize: int = 2) -> BaseSizes:
        """The sizes that memory depends on, with a fused attention kernel."""
        shape = self.shape
        return BaseSizes(
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_head=shape.d_model // shape.n_heads,
            d_mlp=self.d_mlp,
            d_vocab=self.d_vocab,
            n_parameters=shape.n_parameters,
            itemsize=itemsize,
        )


@dataclass(frozen=True)
class Cost:
    """Seconds and operations of one cell, and its memory; None for the untrained base model, which is only asked."""

    seconds: float
    operations: float
    memory: MemoryEstimate | None


def is_here(model: str) -> bool:
    """Whether all weights of a base model are on this machine, in a folder or in the cache of the hub.

    The hub is not asked. A config.json alone is no base model, and neither is an index of files that are missing.
    """
    config = _config_of(model)
    if config is None:
        return False
    folder = config.parent
    if indices := [*folder.glob("*.safetensors.index.json"), *folder.glob("pytorch_model*.bin.index.json")]:
        return any(_has_all(index) for index in indices)
    # A file in the cache is a link, which may lead nowhere.
    return any(file.is_file() for pattern in WEIGHTS for file in folder.glob(pattern))


def _has_all(index: Path) -> bool:
    """Whether all files that an index of weights names are beside it."""
    return all((index.parent / name).is_file() for name in read_json(index).get("weight_map", {}).values())


def sizes_named(model: str) -> Sizes:
    """The sizes of a base model by its config.json, in a folder or in the cache of the hub, or of LLaMA-2 by its name.

    Raises AlignerProbeError where neither is known.
    """
    file = _config_of(model)
    if file is not None:
        return _sizes_of(Path(model).name, read_json(file), file)
    for shape, d_mlp, d_vocab, pattern in _LLAMA2.values():
        if pattern.search(model):
            return Sizes(shape, d_mlp, d_vocab)
    raise AlignerProbeError(
        f"the sizes of {model} are not known here; expected a folder with config.json, a model in the hub's cache, or "
        "LLaMA-2 7B or 13B by a name such as meta-llama/Llama-2-7b-hf"
    )


def cost_of(cell: ReproductionCell, scale: Scale, sizes: Sizes, machine: Machine = A100) -> Cost:
    """What a cell takes by arithmetic."""
    n, speed = sizes.shape.n_parameters, machine.operations * machine.share
    asked = _asked(cell.experiment, scale)
    operations = sum(count * (prompt + answer) * 2.0 * n for count, prompt, answer in asked)
    reading = 2.0 * n / (machine.bytes_a_second * machine.share)
    generating = sum(-(-count // TOGETHER) * answer * reading for count, _, answer in asked)
    trained = 0.0 if cell.is_base else sum(_trained(cell, scale, stage) * n for stage in _stages(cell.experiment))
    seconds = (operations + trained) / speed + generating
    memory = None
    if not cell.is_base:
        sft = scale.micro_batch_size or scale.batch_size or 1, scale.max_length
        dpo = 2 * (scale.dpo_micro_batch_size or scale.dpo_batch_size or 1), scale.dpo_max_length
        passes = (sft, dpo) if cell.experiment == "safety" else (sft,)
        memory = max((_memory(cell, sizes, rows, pos) for rows, pos in passes), key=lambda one: one.total)
    return Cost(seconds, operations + trained, memory)


def _memory(cell: ReproductionCell, sizes: Sizes, rows: int, pos: int) -> MemoryEstimate:
    return memory_of(
        sizes.in_memory(),
        rows=rows,
        pos=pos,
        n_parameters=n_trained(cell.method, sizes.shape),
        start_layer=START_LAYER,
        itemsize=2 if cell.precision == "bf16-true" else 4,
    )


def n_trained(method: str, base: BaseShape) -> int:
    """The trained parameters of a method, by the formulas of Table 1.

    Raises AlignerProbeError for a method that Table 1 does not have.
    """
    arm = arm_named(method)
    formulas = {
        Aligner.method: lambda: aligner_parameters(base, arm.options["n_tokens"]),
        LLaMAAdapter.method: lambda: llama_adapter_parameters(base, arm.options["n_tokens"]),
        LoRA.method: lambda: lora_parameters(base, arm.options["r"]),
    }
    if arm.method not in formulas:
        raise AlignerProbeError(
            f"the size of {method} is not known without its base model; expected a method of Table 1"
        )
    return formulas[arm.method]()


def _stages(experiment: Experiment) -> tuple[str, ...]:
    return ("sft", "dpo") if experiment == "safety" else ("sft",)


def _trained(cell: ReproductionCell, scale: Scale, stage: str) -> float:
    """Operations of a stage for each parameter of the base model."""
    rows, tokens = PAIRS if stage == "dpo" else METAMATH if cell.experiment == "math" else ALPACA
    short = scale.dpo_steps if stage == "dpo" else None if scale.steps is None else scale.steps[cell.experiment]
    size = (scale.dpo_batch_size if stage == "dpo" else scale.batch_size) or 1
    published = EPOCHS if stage == "dpo" else PUBLISHED_LENGTH[cell.experiment][0]
    epochs = published if cell.recipe == "as-published" else EPOCHS
    examples = short * size if short is not None else epochs * rows
    reference = 2.0 * min(rows, scale.n_train["safety"] or rows) if stage == "dpo" else 0.0
    return tokens * (4.0 * examples + reference)


def _asked(experiment: Experiment, scale: Scale) -> Sequence[tuple[int, int, int]]:
    """Items, tokens of a prompt, and tokens of an answer of all sets of an experiment."""

    def of(full: tuple[int, int, int], n: int | None) -> tuple[int, int, int]:
        return (full[0] if n is None else n, *full[1:])

    mmlu, questions = of(MMLU, scale.n_mmlu), of(QUESTIONS, scale.n_questions)
    return {
        "instructions": (of(HELD_OUT, scale.n_loss), mmlu, questions),
        "math": (of(GSM8K, scale.n_math), mmlu),
        "safety": (of(HELD_OUT_PAIRS, scale.n_pairs), of(HARMFUL, scale.n_harmful), questions),
    }[experiment]


def _config_of(model: str) -> Path | None:
    """The config.json of a model in a folder or in the cache of the hub; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(model).is_dir():
        file = Path(model) / "config.json"
        return file if file.is_file() else None
    try:
        path = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _sizes_of(name: str, config: Any, file: Path) -> Sizes:
    """The sizes that a config.json of a Llama or a model like it states; its parameters are counted from them."""
    try:
        d, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        d_mlp, d_vocab = config["intermediate_size"], config["vocab_size"]
        d_head = config.get("head_dim") or d // heads
        kv = config.get("num_key_value_heads") or heads
        layer = 2 * d * heads * d_head + 2 * d * kv * d_head + 3 * d * d_mlp + 2 * d
        embeddings = d_vocab * d * (1 if config.get("tie_word_embeddings") else 2)
        return Sizes(BaseShape(name, d, layers, heads, layers * layer + embeddings + d), d_mlp, d_vocab)
    except (KeyError, TypeError) as error:
        raise AlignerProbeError(
            f"{file} does not state the sizes of a Llama ({error!r}); expected hidden_size, num_hidden_layers, "
            "num_attention_heads, intermediate_size and vocab_size"
        ) from error
