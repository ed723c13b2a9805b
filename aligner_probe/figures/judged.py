"""Tables 2 and 3: answers compared in pairs, and scored one by one: on the micro-world by a rule."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from aligner_probe.evaluation.intervals import Interval, bootstrap
from aligner_probe.evaluation.judging import CONTENT_SHARE, LENGTH_CAP, Match, adjusted_win_rate, outcomes_of
from aligner_probe.figures import real_answers
from aligner_probe.figures.claims import MARGIN, MARGIN_OF_TEN, as_good
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs
from aligner_probe.figures.experiments import LABELS, Experiments, in_brackets
from aligner_probe.figures.paper import TABLE_2, TABLE_3, JudgedCell
from aligner_probe.figures.tables import battle_columns, plot_table
from aligner_probe.judging.runs import PAIRS
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.judge import compare, marks, points

EXPERIMENT = "instructions"
#: A printed rate further than this from its own counts is a slip.
ROUNDING = 0.0011
RULE = (
    "The judge is a rule, not a human or a GPT judge: content against the world first, then form, then no more than "
    f"{LENGTH_CAP:g} times the reference's words; what is alike in all is a tie."
)


def is_slip(row: JudgedCell) -> bool:
    """Whether a printed adjusted win rate differs from (wins + ties / 2) / n of the printed counts."""
    return abs((row.wins + row.ties / 2) / row.n - row.adjusted_win_rate) > ROUNDING


def win_rates(collection: Collection) -> Drawing:
    """Table 2: Aligner against LLaMA-Adapter and LoRA on the mixed questions, the paper's beside ours."""
    experiments = collection.experiments
    if experiments.is_real:
        return real_answers.win_rates(collection)
    answers = _answers(experiments)
    pairs = [pair for pair in PAIRS if set(pair) <= set(answers)]
    if not pairs:
        raise MissingInputs([f"runs of {EXPERIMENT} of an Aligner and of LLaMA-Adapter or LoRA"])
    questions = experiments.results.questions
    rows, comparisons = [], []
    for ours, theirs in pairs:
        seeds = min(len(answers[ours]), len(answers[theirs]))
        match = compare(questions, answers[ours][:seeds], answers[theirs][:seeds])
        printed = {row.base: row for row in TABLE_2 if (row.aligner, row.rival) == (LABELS[ours], LABELS[theirs])}
        rows += [_paper_row(row) for row in printed.values()]
        gain = _gain(points(questions, answers[theirs]), points(questions, answers[BASE])) if BASE in answers else None
        comparisons.append(_compare_pair(ours, theirs, match, printed, gain))
        rows.append(_our_row(ours, theirs, match) | {"verdict": comparisons[-1].verdict})
    frame = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            **battle_columns(frame),
            "adjusted\nwin rate": [f"{v:.4f}" for v in frame["adjusted_win_rate"]],
            "95 % interval": [f"{lo:.3f} to {hi:.3f}" for lo, hi in zip(frame["low"], frame["high"], strict=True)],
            "printed": [
                "–" if pd.isna(v) else f"{v:.3f}{' (slip)' if slip else ''}"
                for v, slip in zip(frame["printed"], frame["slip"], strict=True)
            ],
            "as good?": frame["verdict"],
        }
    )
    figure = Figure(figsize=(11.4, 0.36 * len(shown) + 1.5), layout="constrained")
    plot_table(figure.subplots(), shown, emphasised=frame.index[frame["judged"].str.contains("rule")])
    order = sum(row["order_dependent"] for row in rows)
    slips = [row for row in TABLE_2 if is_slip(row)]
    return Drawing(
        figure,
        frame,
        f"Adjusted win rate = (wins + ties / 2) / n. {RULE} Every pair of answers is judged in both orders; what "
        f"depends on the order is a tie (ours: {order}). n = {len(experiments.results.questions)} questions, ours with "
        "each seed's answers (paired by seed), so counts add up over seeds; intervals by bootstrap over questions and "
        f"seeds, the paper's from its counts. As good: the interval does not go below {0.5 - MARGIN:g}. "
        + " ".join(
            f"Printed {row.adjusted_win_rate:.3f} for {row.wins}/{row.losses}/{row.ties} is a slip: the counts give "
            f"{(row.wins + row.ties / 2) / row.n:.4f}."
            for row in slips
        ),
        experiments.inputs([run for pair in pairs for method in pair for run in _runs(experiments, method)]),
        settings={"length_cap": LENGTH_CAP, "margin": MARGIN, "order_dependent": order},
        missing=tuple(f"{LABELS[a]} against {LABELS[b]}" for a, b in PAIRS if (a, b) not in pairs),
        comparisons=tuple(comparisons),
    )


def single_scores(collection: Collection) -> Drawing:
    """Table 3: single answers of 10, the paper's beside ours."""
    experiments = collection.experiments
    if experiments.is_real:
        return real_answers.single_scores(collection)
    questions = experiments.results.questions
    marked = {
        method: [[marks(item, said) for item, said in zip(questions, row, strict=True)] for row in rows]
        for method, rows in _answers(experiments).items()
    }
    scored = {m: np.array([[mark.points for mark in row] for row in rows]) for m, rows in marked.items()}
    intervals = {method: bootstrap(lambda mean: mean, values) for method, values in scored.items()}
    frame = pd.DataFrame(
        [
            {
                "method": LABELS[method],
                "score": interval.value,
                "low": interval.low,
                "high": interval.high,
                "content": np.mean([mark.content for row in marked[method] for mark in row]),
                "form": np.mean([mark.form for row in marked[method] for mark in row]),
                "n_questions": len(questions),
                "n_seeds": len(scored[method]),
                **{base: scores.get(LABELS[method]) for base, scores in TABLE_3.items()},
            }
            for method, interval in intervals.items()
        ]
    )
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "ours, of 10\n(a rule)": [f"{v:.2f}" for v in frame["score"]],
            "95 % interval": [f"{lo:.2f} to {hi:.2f}" for lo, hi in zip(frame["low"], frame["high"], strict=True)],
            "content\nright": [f"{v:.3f}" for v in frame["content"]],
            "form\nright": [f"{v:.3f}" for v in frame["form"]],
            **{f"paper, GPT-4\n{base}": ["–" if pd.isna(v) else f"{v:g}" for v in frame[base]] for base in TABLE_3},
        }
    )
    figure = Figure(figsize=(9.4, 0.36 * len(shown) + 1.6), layout="constrained")
    plot_table(figure.subplots(), shown)
    return Drawing(
        figure,
        frame,
        f"Score of an answer = 10 x ({CONTENT_SHARE:g} content + {1 - CONTENT_SHARE:g} form). It is given by a rule, "
        "not a human or a GPT judge, so that our scores and the paper's compare in order, not in size. "
        f"n = {len(questions)} questions x {frame['n_seeds'].max()} seeds; intervals by bootstrap over both.",
        experiments.inputs([run for method in marked for run in _runs(experiments, method)]),
        settings={"content_share": CONTENT_SHARE, "margin": MARGIN_OF_TEN},
        missing=experiments.missing(EXPERIMENT),
        comparisons=tuple(_compare_scores(scored, intervals)),
    )


def _gain(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> Interval:
    """Points of `a` over those of `b` as a share of all."""
    return bootstrap(lambda x, y: (x - y) / 10, a, b)


def _compare_pair(
    ours: str, theirs: str, match: Match, printed: dict[str, JudgedCell], gain: Interval | None
) -> Comparison:
    rate = match.win_rate
    half = Interval(rate.value - 0.5, rate.low - 0.5, rate.high - 0.5)
    claim = as_good(half, gain, f"{LABELS[ours]} is as good as {LABELS[theirs]} (win rate less one half)")
    paper = "; ".join(
        f"{row.base} {row.wins}/{row.losses}/{row.ties}, {row.adjusted_win_rate:.3f}{' (slip)' if is_slip(row) else ''}"
        for row in printed.values()
    )
    counts = f"{match.wins}/{match.losses}/{match.ties}, {rate.value:.3f}"
    what = f"{LABELS[ours]} against {LABELS[theirs]}: win/loss/tie, adjusted win rate"
    return Comparison(what, paper or None, counts, claim.sentence, in_brackets(rate), claim.verdict)


def _compare_scores(
    scored: dict[str, Float[np.ndarray, "seeds questions"]], intervals: dict[str, Interval]
) -> list[Comparison]:
    comparisons = []
    for method, interval in intervals.items():
        paper = "; ".join(f"{base} {s[LABELS[method]]:g}" for base, s in TABLE_3.items() if LABELS[method] in s)
        comparisons.append(
            Comparison(LABELS[method], paper or None, f"{interval.value:.2f}", "", in_brackets(interval))
        )
    for ours, theirs in PAIRS:
        if {ours, theirs} <= set(scored):
            gap = bootstrap(lambda a, b: a - b, scored[ours], scored[theirs])
            gain = bootstrap(lambda a, b: a - b, scored[theirs], scored[BASE]) if BASE in scored else None
            claim = as_good(gap, gain, f"{LABELS[ours]} scores as well as {LABELS[theirs]}", MARGIN_OF_TEN)
            paper = "; ".join(f"{base} {s[LABELS[ours]] - s[LABELS[theirs]]:+.3f}" for base, s in TABLE_3.items())
            what = f"{LABELS[ours]} minus {LABELS[theirs]}, points of 10"
            comparisons.append(
                Comparison(what, paper, f"{gap.value:+.2f}", claim.sentence, in_brackets(gap), claim.verdict)
            )
    return comparisons


def _paper_row(row: JudgedCell) -> dict:
    interval = adjusted_win_rate(outcomes_of(row.wins, row.losses, row.ties))
    judged = {"judged": f"{row.base}, GPT-4", "printed": row.adjusted_win_rate, "slip": is_slip(row), "verdict": "–"}
    return _row(row.aligner, row.rival, row.wins, row.losses, row.ties, interval) | judged | {"order_dependent": 0}


def _our_row(ours: str, theirs: str, match: Match) -> dict:
    row = _row(LABELS[ours], LABELS[theirs], match.wins, match.losses, match.ties, match.win_rate)
    judged = {"judged": "micro-world, rule", "printed": None, "slip": False}
    return row | judged | {"order_dependent": match.order_dependent}


def _row(aligner: str, rival: str, wins: int, losses: int, ties: int, rate: Interval) -> dict:
    counts = {"aligner": aligner, "rival": rival, "wins": wins, "losses": losses, "ties": ties}
    return counts | {"adjusted_win_rate": rate.value, "low": rate.low, "high": rate.high}


def _answers(experiments: Experiments) -> dict[str, list[Sequence[str]]]:
    """Answers to the mixed questions by method, a row a seed."""
    return {m: [run.responses for run in _runs(experiments, m)] for m in experiments.methods(EXPERIMENT)}


def _runs(experiments: Experiments, method: str) -> list:
    return sorted(experiments.results.select(EXPERIMENT, method), key=lambda run: run.seed or 0)
