"""The runs of a reproduction as figures need them: scores, answers, prefix adapters, and the base model's sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from aligner_probe.arms.catalogue import ARMS, REPRODUCED_ARMS
from aligner_probe.arms.names import ALIGNER_100
from aligner_probe.artifacts import artifact, artifacts_folder, microworld_folder
from aligner_probe.checkpoints import PrefixCheckpoint, load_checkpoint
from aligner_probe.checkpoints.prefix import METHOD_NAMES
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.evaluation.intervals import Interval, difference_interval, mean_interval
from aligner_probe.figures.drawing import Input, MissingInputs
from aligner_probe.files import read_json, sha256
from aligner_probe.judging.runs import JudgedRuns, read_judged
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.results import RESULT, RUNS, FinishedRun, Results, load_results
from aligner_probe.sizes import BaseShape

REPRODUCTION, REBUILD = "reproduction", "aligner-probe reproduce"
WORLD = "micro-world"
#: What stands for the paper's two data sets of SFT, in its order.
FORM_AND_SKILL = ("instructions", "math")
RESAMPLES = 2000
LABELS = {BASE: "base, untrained"} | {name: arm.label for name, arm in ARMS.items()}
#: The methods of a reproduction on any base model, in the order of figures.
METHODS = (*REPRODUCED_ARMS[:3], ALIGNER_100, *REPRODUCED_ARMS[3:])
#: The one token, the methods it is compared with, and all methods whose answers are shown side by side.
ONE, RIVALS = "aligner-1", ("llama-adapter-10", "lora-8")
SHOWN = (BASE, ONE, "aligner-10", *RIVALS)


@dataclass(frozen=True, eq=False)
class Experiments:
    """All runs on one base model; `adapters` are its Aligners and LLaMA-Adapters by id of their run.

    `hashes` are of each run's results. `judged` is what a judge said of the answers; None on the micro-world, which has
    rules, and where none was asked.
    """

    results: Results
    adapters: dict[str, PrefixCheckpoint]
    hashes: dict[str, str]
    base: BaseShape
    judged: JudgedRuns | None = None

    @property
    def is_real(self) -> bool:
        """Whether the base model is another one than the micro-world's."""
        return self.results.is_real

    @property
    def make(self) -> str:
        """The command that makes the runs."""
        return f"{REBUILD} --model M" if self.is_real else REBUILD

    def methods(self, experiment: str, *, with_base: bool = True) -> list[str]:
        """Methods that have runs by the corrected recipe, in the order of figures; the untrained base first.

        Raises MissingInputs where there are none.
        """
        here = {run.method for run in (*self.results.select(experiment), *self.results.select(experiment, BASE))}
        if not here - {BASE}:
            raise MissingInputs([f"runs of {experiment} by the corrected recipe; make them: {self.make}"])
        return [m for m in (BASE, *METHODS) if m in here and (with_base or m != BASE)]

    def planned(self, experiment: str) -> list[str]:
        """The methods that the plan trains by the corrected recipe, in the order of figures."""
        if not self.is_real:
            return list(REPRODUCED_ARMS)
        rows = [row for row in self.results.plan["runs"] if row["experiment"] == experiment]
        methods = {row["method"] for row in rows if row["recipe"] == "corrected"}
        return [method for method in METHODS if method in methods]

    def missing(self, *experiments: str) -> tuple[str, ...]:
        """Methods planned that have no run, in words."""
        return tuple(
            f"{LABELS[method]} on {experiment}"
            for experiment in experiments
            for method in self.planned(experiment)
            if not self.results.select(experiment, method)
        )

    def inputs(self, runs: Sequence[FinishedRun]) -> tuple[Input, ...]:
        """What the manifest says of runs drawn."""
        return tuple(
            Input(
                f"{run.label} · {run.id}",
                f"{self.results.folder.name}/{RUNS}/{run.id}/{RESULT}",
                self.hashes[run.id],
            )
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
                    name = f"{self.base.name}, {recipe.replace('-', ' ')}"
                    about = {"data_set": experiment, "base_model": name}
                    yield replace(self.adapters[run.id], metadata=about)


def unchanged(runs: Sequence[FinishedRun]) -> str:
    """What a caption says of runs that training has left as they were; nothing where there are none."""
    said = "; ".join(f"{run.label} ({' and '.join(run.unchanged)})" for run in runs if run.unchanged)
    return f" No step lowered the validation loss, so that training changed nothing: {said}." if said else ""


def load_experiments(folder: Path | None = None) -> Experiments:
    """All runs in the folder of a reproduction, and the sizes of its base model; by default artifacts/reproduction.

    Raises AlignerProbeError, naming the file and the command that rebuilds it, where one is missing or damaged.
    """
    results = load_results(artifact(REPRODUCTION) if folder is None else folder)
    root = artifacts_folder() if folder is None else folder.parent
    adapters = {
        run.id: _adapter(run, root)
        for run in results.runs
        if run.adapter is not None and run.method in METHODS and ARMS[run.method].method in METHOD_NAMES
    }
    hashes = {run.id: sha256(results.folder / RUNS / run.id / RESULT) for run in results.runs}
    if not results.is_real:
        return Experiments(results, adapters, hashes, base_shape(microworld_folder()))
    return Experiments(results, adapters, hashes, BaseShape(**results.plan["sizes"]), read_judged(results.folder))


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


def _adapter(run: FinishedRun, root: Path) -> PrefixCheckpoint:
    assert run.adapter is not None
    try:
        checkpoint = load_checkpoint(run.adapter)
    except CheckpointError as error:
        raise AlignerProbeError(f"{error}. Remove the run's folder and make it again: {REBUILD}") from error
    # Not where the folder lies on this machine, but where the file lies in it.
    path = Path(checkpoint.source)
    return replace(checkpoint, source=str(path.relative_to(root)) if path.is_relative_to(root) else checkpoint.source)
