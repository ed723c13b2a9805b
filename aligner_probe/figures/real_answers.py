"""Tables 2 and 3 and Figures 2 and 4 of a base model other than the micro-world: what its runs answered."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aligner_probe.evaluation.intervals import Interval, bootstrap
from aligner_probe.evaluation.refusals import refuses
from aligner_probe.figures.answer_grid import COLUMN, Answer, plot_responses
from aligner_probe.figures.claims import MARGIN, Claim, as_good, reaches
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs
from aligner_probe.figures.experiments import (
    LABELS,
    ONE,
    RESAMPLES,
    RIVALS,
    SHOWN,
    Experiments,
    in_brackets,
    mean_of,
    unchanged,
)
from aligner_probe.figures.paper import TABLE_2, TABLE_3, JudgedCell
from aligner_probe.figures.tables import battle_columns, plot_table
from aligner_probe.judging.points import mean_points, points_difference, scaled
from aligner_probe.judging.runs import PAIRS, JudgedPair, JudgedRuns, first_runs
from aligner_probe.judging.verdicts import HIGHEST
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.real_data import HARMLESS, question_in
from aligner_probe.reproduction.results import QUESTIONS, FinishedRun

JUDGE_IT = "answers that a judge compared; judge them: aligner-probe reproduce --model M ... --judge J"
ANSWERS = "answers, which a copy by `aligner-probe reproduce --share` leaves out; draw it from the folder of the runs"
#: Questions that a figure shows.
ROWS = 6


def win_rates(collection: Collection) -> Drawing:
    """Table 2 of this base model: pairs as the judge decided them, the paper's beside ours."""
    experiments = collection.experiments
    judged = _judged(experiments)
    runs = first_runs(experiments.results, "instructions")
    rows, comparisons = [], []
    for pair in judged.pairs:
        rows += [
            {
                "aligner": row.aligner,
                "rival": row.rival,
                "judged": f"{row.base}, GPT-4",
                "wins": row.wins,
                "losses": row.losses,
                "ties": row.ties,
                "undecided": 0,
                "adjusted_win_rate": (row.wins + row.ties / 2) / row.n,
                "printed": row.adjusted_win_rate,
            }
            for row in _printed(pair)
        ]
        comparison, row = _pair(pair, experiments.base.name, judged)
        comparisons.append(comparison)
        rows.append(row)
    if not judged.pairs:
        raise MissingInputs([JUDGE_IT])
    frame = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            **battle_columns(frame),
            "no verdict": frame["undecided"],
            "adjusted\nwin rate": [_or_dash(v, 3) for v in frame["adjusted_win_rate"]],
            "printed": [_or_dash(v, 3) for v in frame["printed"]],
        }
    )
    figure = Figure(figsize=(11.4, 0.36 * len(shown) + 1.5), layout="constrained")
    plot_table(figure.subplots(), shown, emphasised=frame.index[frame["judged"].str.startswith(experiments.base.name)])
    there = {(pair.ours, pair.theirs) for pair in judged.pairs}
    missing = [f"{LABELS[a]} against {LABELS[b]}" for a, b in PAIRS if (a, b) not in there]
    return Drawing(
        figure,
        frame,
        "Adjusted win rate = (wins + ties / 2) / n. Both orders of every pair are judged, and where they disagree it "
        f"is a tie (ours: {sum(pair.order_dependent for pair in judged.pairs)}). Judge: {judged.judge}; "
        f"{_accuracy(judged)}. n = {len(judged.pairs[0].values)} questions, one seed; battles without a verdict are "
        "left out of the rate. The paper's judge was GPT-4, so rates compare in order, not in size. As good: the "
        f"interval does not go below {0.5 - MARGIN:g}.",
        experiments.inputs([runs[m] for pair in judged.pairs for m in (pair.ours, pair.theirs) if m in runs]),
        settings={"judge": judged.judge, "accuracy": judged.accuracy, "margin": MARGIN},
        missing=tuple(missing),
        comparisons=tuple(comparisons),
    )


def single_scores(collection: Collection) -> Drawing:
    """Table 3 of this base model: points by a judge, where one was asked, and what needs none: loss and form."""
    experiments = collection.experiments
    judged, runs = experiments.judged, first_runs(experiments.results, "instructions")
    if set(runs) <= {BASE}:
        raise MissingInputs([f"runs of instructions by the corrected recipe; make them: {experiments.make}"])
    methods = [method for method in experiments.methods("instructions") if method in runs]
    points = {} if judged is None else {m: mean_points(own, n_resamples=RESAMPLES) for m, own in judged.points.items()}
    rows = []
    for method in methods:
        run = runs[method]
        loss = bootstrap(lambda mean: mean, run.values["test"]["loss"])
        finished = run.scores[QUESTIONS]["form"]
        rows.append(
            {
                "method": LABELS[method],
                "points": np.nan if (mean := points.get(method)) is None else mean.value,
                "loss": loss.value,
                "loss_low": loss.low,
                "loss_high": loss.high,
                "finished": float(finished.mean()),
                "words": float(run.values[QUESTIONS]["words"].mean()),
                "n_held_out": len(run.values["test"]["loss"]),
                "n_questions": len(finished),
                **{base: scores.get(LABELS[method]) for base, scores in TABLE_3.items()},
            }
        )
    frame = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "points of 10\n(judge)": [_or_dash(v, 2) for v in frame["points"]],
            "held-out loss,\nnats a token": [
                f"{v:.3f} [{lo:.3f}, {hi:.3f}]"
                for v, lo, hi in zip(frame["loss"], frame["loss_low"], frame["loss_high"], strict=True)
            ],
            "finished\nanswers": [f"{v:.2f}" for v in frame["finished"]],
            "words": [f"{v:.0f}" for v in frame["words"]],
            **{f"paper, GPT-4\n{base}": [_or_dash(v, 3) for v in frame[base]] for base in TABLE_3},
        }
    )
    figure = Figure(figsize=(10.6, 0.36 * len(shown) + 1.6), layout="constrained")
    plot_table(figure.subplots(), shown)
    said = "No judge was asked." if judged is None else f"Judge: {judged.judge}; {_accuracy(judged)}."
    return Drawing(
        figure,
        frame,
        f"{said} The loss is that of {frame['n_held_out'][0]} held-out rows of Alpaca, with its 95 % bootstrap "
        "interval over rows; it needs no judge, and says how well the form of Alpaca is met. Finished: of "
        f"{frame['n_questions'][0]} answers to the Vicuna questions, those that end before their limit of tokens and "
        "do not go round in circles. First seed of the corrected recipe."
        + unchanged([runs[method] for method in methods]),
        experiments.inputs([runs[method] for method in methods]),
        missing=(*experiments.missing("instructions"), *(() if judged is not None else (JUDGE_IT,))),
        comparisons=tuple(_compare_losses(runs, methods)),
    )


def instructions(collection: Collection) -> Drawing:
    """Figure 2 of this base model: the first question of each category, and what each method answers."""
    experiments = collection.experiments
    runs = _of_shown(experiments, "instructions")
    first: dict[str, int] = {}
    for index, item in enumerate(experiments.results.questions):
        first.setdefault(item.category, index)
    chosen = list(first.items())[:ROWS]
    cells = [
        (category, experiments.results.questions[index].prompt, method, run.responses[index], "")
        for category, index in chosen
        for method, run in runs.items()
    ]
    what = "The first Vicuna question of each category, not chosen. Greedy answers of the first seed, cut for the page."
    return _side_by_side(experiments, "instructions", runs, cells, what)


def safety(collection: Collection) -> Drawing:
    """Figure 4 of this base model: the first harmful requests, one harmless question, and what each method answers."""
    experiments = collection.experiments
    runs = {method: run for method, run in _of_shown(experiments, "safety").items() if "harmful" in run.answers}
    items = experiments.results.items["safety"]
    cells = []
    for kind, n in (("harmful", ROWS - 1), (HARMLESS, 1)):
        for index, item in enumerate(items[kind][:n]):
            for method, run in runs.items():
                said = run.answers[kind][index]
                cells.append((kind, item.prompt, method, said, "refuses" if refuses(said) else "does not refuse"))
    what = "The first harmful requests and the first harmless question, not chosen. Refusals are recognised by words."
    return _side_by_side(experiments, "safety", runs, cells, what)


def _side_by_side(
    experiments: Experiments, experiment: str, runs: dict[str, FinishedRun], cells: Sequence[tuple], what: str
) -> Drawing:
    answers = [
        Answer(method, kind, question_in(prompt), "", said.strip(), content=True, form=True, mark=mark)
        for kind, prompt, method, said, mark in cells
    ]
    figure = Figure(figsize=(COLUMN * (len(runs) + 1), 1), layout="constrained")
    ax = plot_responses(figure.subplots(), answers)
    figure.set_size_inches(COLUMN * (len(runs) + 1), abs(np.ptp(ax.get_ylim())) + 0.4)
    frame = pd.DataFrame([vars(answer) for answer in answers]).drop(columns=["reference", "content", "form"])
    comparisons = []
    for method, run in runs.items():
        for name, said in (("harmful", "refused"), (HARMLESS, "answered")) if experiment == "safety" else ():
            share = mean_of(run.scores[name]["content"])
            comparisons.append(
                Comparison(f"{LABELS[method]}, {name}: {said}", None, f"{share.value:.3f}", "", in_brackets(share))
            )
    return Drawing(
        figure, frame, what, experiments.inputs(list(runs.values())), missing=experiments.missing(experiment),
        comparisons=tuple(comparisons),
    )  # fmt: skip


def _of_shown(experiments: Experiments, experiment: str) -> dict[str, FinishedRun]:
    runs = first_runs(experiments.results, experiment)
    shown = {method: runs[method] for method in experiments.methods(experiment) if method in runs and method in SHOWN}
    if not (answering := {method: run for method, run in shown.items() if run.responses}):
        raise MissingInputs([ANSWERS])
    return answering


def _judged(experiments: Experiments) -> JudgedRuns:
    if experiments.judged is None:
        raise MissingInputs([JUDGE_IT])
    return experiments.judged


def _printed(pair: JudgedPair) -> list[JudgedCell]:
    """The rows of the paper's Table 2 for a pair."""
    return [row for row in TABLE_2 if (row.aligner, row.rival) == (LABELS[pair.ours], LABELS[pair.theirs])]


def _pair(pair: JudgedPair, base: str, judged: JudgedRuns) -> tuple[Comparison, dict]:
    rates = pair.rates
    what = f"{LABELS[pair.ours]} against {LABELS[pair.theirs]}: win/loss/tie, adjusted win rate"
    printed = [f"{r.base} {r.wins}/{r.losses}/{r.ties}, {r.adjusted_win_rate:.3f}" for r in _printed(pair)]
    paper = "; ".join(printed) or None
    counts = f"{rates.wins}/{rates.losses}/{rates.ties}"
    row = {
        "aligner": LABELS[pair.ours],
        "rival": LABELS[pair.theirs],
        "judged": f"{base}, {judged.judge}",
        "wins": rates.wins,
        "losses": rates.losses,
        "ties": rates.ties,
        "undecided": rates.undecided,
        "adjusted_win_rate": np.nan if rates.rate is None else rates.rate.value,
        "printed": np.nan,
    }
    if rates.rate is None:
        return Comparison(what, paper, counts, "No battle has a result: not judged."), row
    half = Interval(rates.rate.value - 0.5, rates.rate.low - 0.5, rates.rate.high - 0.5)
    claimed = f"{LABELS[pair.ours]} is as good as {LABELS[pair.theirs]} (win rate less one half)"
    gain = _gain(judged.points, pair.theirs)
    if gain is None:
        why = "the judge gave the base model no points, so it is not known whether the other learned anything"
        claim = Claim("undecided", f"Undecided here: {claimed} ({why}).")
    else:
        claim = as_good(half, gain, claimed)
    ours = f"{counts}, {rates.rate.value:.3f}"
    return Comparison(what, paper, ours, claim.sentence, in_brackets(rates.rate), claim.verdict), row


def _gain(points: Mapping[str, Sequence[float | None]], method: str) -> Interval | None:
    """Points of a method over those of the base model, as a share of all; None where no question has both."""
    if not {method, BASE} <= points.keys():
        return None
    gap = points_difference(points[method], points[BASE], n_resamples=RESAMPLES)
    return None if gap is None else scaled(gap, 1 / HIGHEST)


def _compare_losses(runs: dict[str, FinishedRun], methods: Sequence[str]) -> list[Comparison]:
    """Held-out losses on the same rows: each method against the base model, then one token against its rivals."""
    losses = {method: runs[method].values["test"]["loss"] for method in methods}
    comparisons = []
    for method in (m for m in methods if m != BASE and BASE in losses):
        gap = bootstrap(lambda a, b: a - b, losses[method], losses[BASE])
        what = f"{LABELS[method]}: held-out loss of Alpaca, less that of the base model, nats a token"
        comparisons.append(Comparison(what, None, f"{gap.value:+.3f}", "", in_brackets(gap)))
    for rival in RIVALS:
        if not {BASE, ONE, rival} <= losses.keys():
            continue
        gained = bootstrap(lambda base, theirs: base - theirs, losses[BASE], losses[rival])
        share = bootstrap(
            lambda base, ours, theirs: (base - ours) / (base - theirs), losses[BASE], losses[ONE], losses[rival]
        )
        what = f"{LABELS[ONE]}: share of the fall in held-out loss that {LABELS[rival]} reaches"
        claim = reaches(share, gained, f"the loss falls with {LABELS[ONE]} nearly as far as with {LABELS[rival]}")
        comparisons.append(
            Comparison(what, "comparable", f"{share.value:.3f}", claim.sentence, in_brackets(share), claim.verdict)
        )
    return comparisons


def _accuracy(judged: JudgedRuns) -> str:
    return "; ".join(f"right on known {kind}: {said}" for kind, said in judged.accuracy.items())


def _or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"
