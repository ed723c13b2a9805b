"""The micro-world's runs as figures need them: scores, answers, prefix adapters, and the base model's sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from aligner_probe.arms.catalogue import ARMS, REPRODUCED_ARMS
from aligner_probe.artifacts import artifact, artifacts_folder, microworld_folder
from aligner_probe.checkpoints import PrefixCheckpoint, load_checkpoint
from aligner_probe.checkpoints.prefix import METHOD_NAMES
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.evaluation.intervals import Interval, difference_interval, mean_interval
from aligner_probe.figures.drawing import Input, MissingInputs
from aligner_probe.files import read_json, sha256
from aligner_probe.reproduction.plan import BASE
from aligner_probe.reproduction.results import RESULT, RUNS, FinishedRun, Results, load_results
from aligner_probe.sizes import BaseShape

REPRODUCTION, REBUILD = "reproduction", "aligner-probe reproduce"
WORLD = "micro-world"
#: What stands for the paper's two data sets of SFT, in its order.
FORM_AND_SKILL = ("instructions", "math")
RESAMPLES = 2000
LABELS = {BASE: "base, untrained"} | {name: ARMS[name].label for name in REPRODUCED_ARMS}


@dataclass(frozen=True, eq=False)
class Experiments:
    """All runs of the micro-world; `adapters` are its Aligners and LLaMA-Adapters by id of their run.

    `hashes` are of each run's results.
    """

    results: Results
    adapters: dict[str, PrefixCheckpoint]
    hashes: dict[str, str]
    base: BaseShape

    def methods(self, experiment: str, *, with_base: bool = True) -> list[str]:
        """Methods that have runs by the corrected recipe, in the order of figures; the untrained base first.

        Raises MissingInputs where there are none.
        """
        here = {run.method for run in (*self.results.select(experiment), *self.results.select(experiment, BASE))}
        if not here - {BASE}:
            raise MissingInputs([f"runs of {experiment} by the corrected recipe; make them: {REBUILD}"])
        return [m for m in (BASE, *REPRODUCED_ARMS) if m in here and (with_base or m != BASE)]

    def missing(self, *experiments: str) -> tuple[str, ...]:
        """Methods planned that have no run, in words."""
        return tuple(
            f"{LABELS[method]} on {experiment}"
            for experiment in experiments
            for method in REPRODUCED_ARMS
            if not self.results.select(experiment, method)
        )

    def inputs(self, runs: Sequence[FinishedRun]) -> tuple[Input, ...]:
        """What the manifest says of runs drawn."""
        return tuple(
            Input(f"{run.label} · {run.id}", f"{REPRODUCTION}/{RUNS}/{run.id}/{RESULT}", self.hashes[run.id])
            for run in dict.fromkeys(runs)
        )

    def weights(self) -> Iterator[PrefixCheckpoint]:
        """Adapters for the paper's figures of weights: as published, and by the corrected recipe from its first seed.

        Runs of different recipes are not compared, so each recipe is a base of its own in the figures' grouping.
        """
        for experiment in FORM_AND_SKILL:
            for recipe in ("as-published", "corrected"):
                runs = [r for r in self.results.select(experiment, recipe=recipe) if r.id in self.adapters]
                first = min((run.seed for run in runs if run.seed is not None), default=None)
                for run in (run for run in runs if run.seed == first and run.n_tokens != 300):
                    name = f"{WORLD}, {recipe.replace('-', ' ')}"
                    about = {"data_set": experiment, "base_model": name}
                    yield replace(self.adapters[run.id], metadata=about)


def load_experiments() -> Experiments:
    """Everything in artifacts/reproduction, and the base's sizes.

    Raises AlignerProbeError, naming the file and the command that rebuilds it, where one is missing or damaged.
    """
    results = load_results(artifact(REPRODUCTION))
    adapters = {
        run.id: _adapter(run)
        for run in results.runs
        if run.adapter is not None and run.method in REPRODUCED_ARMS and ARMS[run.method].method in METHOD_NAMES
    }
    hashes = {run.id: sha256(results.folder / RUNS / run.id / RESULT) for run in results.runs}
    return Experiments(results, adapters, hashes, base_shape(microworld_folder()))


def base_shape(folder: Path) -> BaseShape:
    """Sizes of a Llama in a Hugging Face folder, from its configuration and the header of its weights."""
    from safetensors import SafetensorError, safe_open

    try:
        config = read_json(folder / "config.json")
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            n_parameters = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
        sizes = (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"])
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AlignerProbeError(
            f"{folder}: config.json or model.safetensors is damaged ({error}); rebuild them: "
            "aligner-probe microworld pretrain"
        ) from error
    return BaseShape(WORLD, *sizes, n_parameters)


def mean_of(scores: Float[np.ndarray, "..."]) -> Interval:
    """Mean score over seeds and items, with its 95 % bootstrap interval over both."""
    return mean_interval(scores, n_resamples=RESAMPLES)


def gap_of(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> Interval:
    """Mean score of `a` minus that of `b` on the same items, with its 95 % bootstrap interval."""
    return difference_interval(a, b, n_resamples=RESAMPLES)


def in_brackets(interval: Interval) -> str:
    """The interval alone, for tables."""
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def _adapter(run: FinishedRun) -> PrefixCheckpoint:
    assert run.adapter is not None
    try:
        checkpoint = load_checkpoint(run.adapter)
    except CheckpointError as error:
        raise AlignerProbeError(f"{error}. Remove the run's folder and make it again: {REBUILD}") from error
    # Not where the project lies on this machine, but where the file lies in the project.
    path = Path(checkpoint.source)
    root = artifacts_folder()
    return replace(checkpoint, source=str(path.relative_to(root)) if path.is_relative_to(root) else checkpoint.source)
