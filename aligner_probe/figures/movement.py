"""How far tokens and gates move in training, and what each does alone: the control arms of Aligner-1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.evaluation.intervals import Interval, bootstrap
from aligner_probe.figures.claims import as_good, below
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.dots import REST, ROW, Score, plot_scores, to_frame
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs, panels
from aligner_probe.figures.experiments import FORM_AND_SKILL, LABELS, Experiments, gap_of, in_brackets, mean_of
from aligner_probe.figures.looks import GREY, LOOKS
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.results import FinishedRun

#: "Hardly move": less than this share of the token's own length.
HARDLY = 0.1
#: What is scored, in words.
KINDS = {"content": "content", "strict": "content and form"}
#: Control arms: what they are, recipe and arm, and the arm they are held against.
ARMS = {
    "Aligner-1": ("corrected", "main"),
    "gates only": ("corrected", "gates"),
    "tokens only": ("corrected", "tokens"),
    "as published": ("as-published", "main"),
    "as published, other seed": ("as-published", "other-seed"),
    "as published, float32": ("as-published", "float32"),
}
AGAINST = {
    "gates only": "Aligner-1",
    "tokens only": "Aligner-1",
    "as published, other seed": "as published",
    "as published, float32": "as published",
}
CLAIMS = {
    "gates only": "gates on a frozen random token carry the task",
    "tokens only": "a token under constant gates carries the task",
    "as published, other seed": "another start learns as well",
    "as published, float32": "float32 learns as well as bfloat16",
}


@dataclass(frozen=True)
class RunMovement:
    """Root mean square change of a run's token parameters and of its gates, from the start to the end of training.

    Token parameters start N(0, 1), so their change is also a share of their own size. Gates start at zero. `cosine` is
    that of all token parameters at the start and at the end.
    """

    run: FinishedRun
    tokens: float
    gates: float
    cosine: float


def movement(run: FinishedRun, checkpoint: PrefixCheckpoint) -> RunMovement | None:
    """How far a run moved; None where its checkpoint does not tell the start."""
    if checkpoint.initial_prefix is None or checkpoint.initial_gates is None:
        return None
    start, end = checkpoint.initial_prefix.double().flatten(), checkpoint.prefix.double().flatten()
    change = checkpoint.gates.double() - checkpoint.initial_gates.double()
    return RunMovement(
        run,
        tokens=float((end - start).norm() / start.norm()),
        gates=float(change.square().mean().sqrt()),
        cosine=float(start @ end / (start.norm() * end.norm())),
    )


def plot_movement(ax: Axes, movements: Sequence[RunMovement]) -> Axes:
    """Change of tokens against change of gates, one point for each run, on log axes.

    On the dashed line a parameter of a token and a gate move equally far.
    """
    labelled = set()
    for moved in movements:
        color, marker = LOOKS[moved.run.method]
        is_published = moved.run.recipe == "as-published"
        label = f"{LABELS[moved.run.method]}{', as published' if is_published else ''}"
        ax.scatter(
            [moved.tokens],
            [moved.gates],
            s=34,
            marker=marker,
            facecolor="none" if is_published else color,
            edgecolor=color if is_published else "white",
            linewidth=1.2 if is_published else 0.5,
            label=None if label in labelled else label,
            zorder=3,
        )
        labelled.add(label)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):  # the default names every digit of a short range, one over the other
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_formatter(NullFormatter())
    positive = [value for m in movements for value in (m.tokens, m.gates) if value > 0]
    low, high = (min(positive) / 1.5, max(positive) * 1.5) if positive else (0.1, 1.0)
    ax.plot(
        [low, high],
        [low, high],
        color=GREY,
        linestyle="--",
        linewidth=0.8,
        zorder=1,
        label="gates and tokens move alike",
    )
    ax.set(
        xlabel="tokens: RMS change / RMS at the start (no unit)",
        ylabel="gates: RMS change from 0 (no unit)",
    )
    return ax


def tokens_and_gates(collection: Collection) -> Drawing:
    """Token movement against gate movement, a panel an experiment."""
    experiments = collection.experiments
    by_experiment = {experiment: _movements(experiments, experiment) for experiment in FORM_AND_SKILL}
    by_experiment = {experiment: movements for experiment, movements in by_experiment.items() if movements}
    if not by_experiment:
        raise MissingInputs(["runs of Aligner or LLaMA-Adapter that keep the parameters they began from"])
    figure, axes = panels(len(by_experiment), height=3.8, sharex=True, sharey=True)
    for ax, (experiment, movements) in zip(axes, by_experiment.items(), strict=True):
        plot_movement(ax, movements)
        ax.set_title(experiment)
        ax.label_outer()
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, frameon=False)
    every = [m for movements in by_experiment.values() for m in movements]
    frame = pd.DataFrame(
        [
            {
                "run": m.run.id,
                "experiment": m.run.experiment,
                "method": m.run.method,
                "recipe": m.run.recipe,
                "seed": m.run.seed,
                "tokens_rms": m.tokens,
                "gates_rms": m.gates,
                "token_cosine": m.cosine,
            }
            for m in every
        ]
    )
    return Drawing(
        figure,
        frame,
        "Root mean square (RMS) change from the start to the end of training. Both axes are ratios without a unit: the "
        "parameters of a token start N(0, 1), so that a change of 1 is as large as the token itself; gates are factors "
        "that start at zero. Dashed: a parameter of each moves as far. Open: the "
        f"published recipe in bfloat16. n = {len(every)} runs.",
        (*experiments.inputs([m.run for m in every]), *(experiments.adapters[m.run.id] for m in every)),
        comparisons=tuple(
            comparison
            for experiment, movements in by_experiment.items()
            for comparison in _hardly(experiment, movements)
        ),
    )


def control_arms(collection: Collection) -> Drawing:
    """Scores of Aligner-1's control arms beside Aligner-1, by experiment."""
    experiments = collection.experiments
    scores = {(experiment, arm): _scores(experiments, experiment, arm) for experiment in FORM_AND_SKILL for arm in ARMS}
    missing = [f"Aligner-1, {arm}, on {experiment}" for (experiment, arm), arm_runs in scores.items() if not arm_runs]
    # On other base models than the micro-world, held-out instructions are measured by their loss alone.
    shown = [e for e in FORM_AND_SKILL if any(map(_is_scored, (run for arm in ARMS for run in scores[e, arm])))]
    if not shown:
        raise MissingInputs(missing)
    figure, axes = panels(len(shown), height=REST + 1.6 * ROW * len(ARMS), sharey=True)
    frames = []
    for ax, experiment in zip(axes, shown, strict=True):
        dots = [
            Score.of(arm, "aligner-1", kind, np.stack([run.scores["test"][kind] for run in runs]), said)
            for arm in ARMS
            for runs in [scores[experiment, arm]]
            if runs
            for kind, said in KINDS.items()
        ]
        plot_scores(ax, dots, hollow="strict")
        ax.set_title(experiment)
        ax.set_xlabel(f"share of items right, n = {dots[0].n_items}")
        frames.append(to_frame(dots).assign(experiment=experiment))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    runs = [run for arm_runs in scores.values() for run in arm_runs]
    return Drawing(
        figure,
        pd.concat(frames, ignore_index=True),
        "Aligner-1 with half of it frozen: gates only on the random token it starts with, tokens only under constant "
        "gates; and the published recipe from another seed and in float32. Filled: content; hollow: content and form. "
        "Large: the mean of all seeds with its 95 % bootstrap interval over items and seeds; small: each seed.",
        experiments.inputs(runs),
        missing=tuple(missing),
        comparisons=tuple(
            _against(experiments, experiment, arm, scores[experiment, arm], scores[experiment, AGAINST[arm]])
            for experiment in shown
            for arm in AGAINST
            if scores[experiment, arm] and scores[experiment, AGAINST[arm]]
        ),
    )


def _movements(experiments: Experiments, experiment: str) -> list[RunMovement]:
    runs = [run for run in experiments.results.select(experiment, recipe=None) if run.id in experiments.adapters]
    return [moved for run in runs if (moved := movement(run, experiments.adapters[run.id])) is not None]


def _hardly(experiment: str, movements: Sequence[RunMovement]) -> list[Comparison]:
    """Whether tokens hardly move, for each method and recipe."""
    groups: dict[tuple[str, str | None], list[RunMovement]] = {}
    for moved in movements:
        groups.setdefault((moved.run.method, moved.run.recipe), []).append(moved)
    rows = []
    for (method, recipe), group in groups.items():
        tokens, gates = (np.array([getattr(m, name) for m in group]) for name in ("tokens", "gates"))
        about = f"{experiment}: {LABELS[method]}, {recipe}: tokens move, n = {len(group)} runs"
        ours = f"{tokens.mean():.3f} of their size (gates {gates.mean():.3f})"
        if len(group) == 1:
            rows.append(Comparison(about, None, ours, "One run has no interval: not judged."))
            continue
        interval = bootstrap(lambda mean: mean, tokens)
        claim = below(interval, HARDLY, "tokens hardly move from their random start")
        rows.append(Comparison(about, None, ours, claim.sentence, in_brackets(interval), claim.verdict))
    return rows


def _is_scored(run: FinishedRun) -> bool:
    return "strict" in run.scores.get("test", {})


def _scores(experiments: Experiments, experiment: str, arm: str) -> list[FinishedRun]:
    recipe, name = ARMS[arm]
    return experiments.results.select(experiment, "aligner-1", recipe=recipe, arm=name)


def _against(
    experiments: Experiments, experiment: str, arm: str, runs: Sequence[FinishedRun], others: Sequence[FinishedRun]
) -> Comparison:
    """By the strict score, which has what instructions teach (form) and what math teaches (content)."""
    base = experiments.results.select(experiment, BASE)
    a, b = (np.stack([run.scores["test"]["strict"] for run in group]) for group in (runs, others))
    gain = gap_of(b, np.stack([run.scores["test"]["strict"] for run in base])) if base else None
    gap: Interval = gap_of(a, b)
    claim = as_good(gap, gain, CLAIMS[arm])
    about = f"{experiment}: {arm} minus {AGAINST[arm]}, content and form"
    ours = f"{gap.value:+.3f} ({mean_of(a).value:.3f} and {mean_of(b).value:.3f})"
    return Comparison(about, None, ours, claim.sentence, in_brackets(gap), claim.verdict)
