"""Chooses the micro-world's learning rates on validation, with equally many trials for every method.

Trials have fewer steps than the runs. The rates of the instructions and math experiments come first. The rate of the
safety experiment is that of its DPO, after SFT at the rate of the instructions. Finished trials are kept beside the
results, so that a sweep that was stopped goes on.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aligner_probe.arms.catalogue import ARMS, REPRODUCED_ARMS
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate
from aligner_probe.files import write_text
from aligner_probe.jobs.pool import each
from aligner_probe.models import fingerprint
from aligner_probe.reproduction.cells import FREEZING, ReproductionCell
from aligner_probe.reproduction.plan import Config, rate_key
from aligner_probe.reproduction.run import ReproductionBench, new_adapter
from aligner_probe.reproduction.world import WorldSource, whole_intervals
from aligner_probe.tasks import Preference
from aligner_probe.training import fit
from aligner_probe.training.rates import DPO_SHARE


@dataclass(frozen=True)
class Trial:
    """One learning rate that is tried. `key` is the name under which the chosen rate is stored (`rate_key`)."""

    run: ReproductionCell
    key: str
    rate: float

    @property
    def name(self) -> str:
        """The name for the progress bar."""
        return f"{self.run.experiment} {self.key} {self.rate:.6g}"


def sweep(
    bench: ReproductionBench, file: Path, command: Sequence[str], n_processes: int, *, show_progress: bool = True
) -> None:
    """Try every learning rate, and write a file with all validation losses and the best rates.

    Raises AlignerProbeError where every rate of a method fails, or the file cannot be written.
    """
    config = _world(bench).config
    kept = file.with_suffix(".trials.jsonl")
    made_by = json.dumps({"base": fingerprint(bench.model), "config": asdict(config)}, sort_keys=True)
    losses = _read(kept, made_by)
    first = [trial for experiment in ("instructions", "math") for trial in trials(experiment, config, {})]
    n_safety = len(REPRODUCED_ARMS) * config.sweep_rates
    with tqdm(total=len(first) + n_safety, desc="learning rates", disable=not show_progress) as bar:
        _try(first, losses, bench, kept, made_by, n_processes, bar)
        sft = chosen(losses)["instructions"]
        _try(trials("safety", config, sft), losses, bench, kept, made_by, n_processes, bar)
    content = {"command": " ".join(command), **json.loads(made_by), "validation_loss": losses, "chosen": chosen(losses)}
    write_text(file, json.dumps(content, indent=1) + "\n")
    kept.unlink(missing_ok=True)


def trials(experiment: Any, config: Config, sft: dict[str, float]) -> list[Trial]:
    """All trials of an experiment; `sft` has the rates of the first stage of the safety experiment."""
    result = []
    for method in (ARMS[name] for name in REPRODUCED_ARMS):
        arms = ("main", *FREEZING) if method.name == "aligner-1" and experiment != "safety" else ("main",)
        for arm in arms:
            for rate in (method.sweep_rates or method.tried_rates)[: config.sweep_rates]:
                key = rate_key(method.name, arm)
                rate = float(f"{rate * DPO_SHARE:.2g}") if experiment == "safety" else rate
                lr = {"sft": sft[key], "dpo": rate} if experiment == "safety" else {"sft": rate}
                run = ReproductionCell("", experiment, method.name, "corrected", arm, "float32", config.seeds[0], lr)
                result.append(Trial(run, key, rate))
    return result


def chosen(losses: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The rate with the lowest validation loss, by experiment and key."""
    best: dict[str, dict[str, float]] = {}
    for experiment, keys in losses.items():
        for key, by_rate in keys.items():
            rate, loss = min(by_rate.items(), key=lambda tried: tried[1])
            if loss == float("inf"):
                raise AlignerProbeError(f"no learning rate trains {key} on {experiment}; tried {', '.join(by_rate)}")
            best.setdefault(experiment, {})[key] = float(rate)
    return best


def try_out(bench: ReproductionBench, trial: Trial) -> float:
    """Train with a learning rate, and return the best validation loss of the last stage; infinite where it diverges.

    If the last stage is DPO, the result is the share of validation prompts whose answer is not the preferred one,
    plus a thousandth of the loss, which decides between equal shares. The loss alone is no good measure there: it also
    falls when both answers become less likely.
    """
    cell, config = trial.run, _world(bench).config
    material = bench.materials[cell.experiment]
    model = bench.model_for(cell)
    adapter = new_adapter(cell, model, material.stages[0].train)
    loss = float("inf")
    for stage in material.stages:
        how = bench.source.recipe_of(cell, stage)
        steps = min(how.total_steps(len(stage.train)), config.sweep_steps)
        every = max(1, steps // 4)
        how = replace(how, steps=whole_intervals(steps, every), evaluate_every=every)
        try:
            run = fit(model, adapter, stage.train, validation=stage.validation, recipe=how, show_progress=False)
        except AlignerProbeError as error:
            if "the loss is" in str(error):
                return float("inf")
            raise
        if run.best_validation_loss is not None:
            loss = run.best_validation_loss
    validation = material.stages[-1].validation
    preferred = [example.chosen for example in validation.examples if isinstance(example, Preference)]
    if not preferred:
        return loss
    with adapter.attached():
        said = generate(model, validation.prompts, max_new_tokens=config.max_new_tokens, stop=["\n"])
    wrong = sum(text != answer for text, answer in zip(said, preferred, strict=True))
    return wrong / len(preferred) + loss / 1000


def _world(bench: ReproductionBench) -> WorldSource:
    if not isinstance(bench.source, WorldSource):
        raise AlignerProbeError("learning rates are chosen on the micro-world only; leave out --sweep")
    return bench.source


def _try(
    wanted: list[Trial], losses: Any, bench: ReproductionBench, kept: Path, made_by: str, n_processes: int, bar: tqdm
) -> None:
    missing = [t for t in wanted if f"{t.rate:.6g}" not in losses[t.run.experiment][t.key]]
    bar.update(len(wanted) - len(missing))
    if not missing:
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    for trial, loss in each(try_out, bench, missing, n_processes):
        if isinstance(loss, AlignerProbeError):
            raise loss
        losses[trial.run.experiment][trial.key][f"{trial.rate:.6g}"] = loss
        row = {"of": made_by, "experiment": trial.run.experiment, "key": trial.key, "rate": trial.rate, "loss": loss}
        with kept.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        bar.update()
        bar.set_postfix_str(trial.name)


def _read(kept: Path, made_by: str) -> Any:
    losses: Any = defaultdict(lambda: defaultdict(dict))
    if kept.is_file():
        for line in kept.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line that was not finished when the process was killed
            if row["of"] == made_by:
                losses[row["experiment"]][row["key"]][f"{row['rate']:.6g}"] = row["loss"]
    return losses
