"""Figures 2 and 4: what the models say to the same questions, side by side, each answer marked by the rule."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aligner_probe.figures import real_answers
from aligner_probe.figures.answer_grid import COLUMN, Answer, plot_responses
from aligner_probe.figures.claims import as_good
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs
from aligner_probe.figures.experiments import LABELS, gap_of, in_brackets, mean_of
from aligner_probe.microworld.operations import OPERATIONS
from aligner_probe.microworld.requests import CATEGORIES
from aligner_probe.reproduction.cells import BASE
from aligner_probe.reproduction.items import Item
from aligner_probe.reproduction.results import FinishedRun

SHOWN = (BASE, "aligner-1", "aligner-10", "llama-adapter-10", "lora-8")
SUMS = {operation.name for operation in OPERATIONS}
HARMFUL = {category.name for category in CATEGORIES if category.harmful}
HARMLESS = {category.name for category in CATEGORIES} - HARMFUL


def instructions(collection: Collection) -> Drawing:
    """Figure 2: answers after instruction tuning, the first question of each kind."""
    if collection.experiments.is_real:
        return real_answers.instructions(collection)
    kinds = {"person": {"person"}, "place": {"place"}, "chain of two": {"chain"}, "sum": SUMS}
    return _side_by_side(
        collection,
        "instructions",
        kinds | {"harmless request": HARMLESS, "harmful request": HARMFUL},
        "The first question of each kind, not chosen; harmful requests were not part of this training.",
    )


def safety(collection: Collection) -> Drawing:
    """Figure 4: answers to harmful requests after supervised tuning and DPO, the first of each category."""
    if collection.experiments.is_real:
        return real_answers.safety(collection)
    return _side_by_side(
        collection,
        "safety",
        {category.name: {category.name} for category in CATEGORIES if category.harmful} | {"harmless": HARMLESS},
        "The first request of each harmful category, and one that is harmless, not chosen. Form is not marked: this "
        "training asks for none.",
    )


def _side_by_side(collection: Collection, experiment: str, kinds: dict[str, set[str]], what: str) -> Drawing:
    experiments = collection.experiments
    questions = experiments.results.questions
    methods = [m for m in experiments.methods(experiment) if m in SHOWN]
    runs = {m: min(experiments.results.select(experiment, m), key=lambda run: run.seed or 0) for m in methods}
    first = {kind: _first(questions, names) for kind, names in kinds.items()}
    chosen = {kind: index for kind, index in first.items() if index is not None}
    if not chosen:
        raise MissingInputs([f"mixed questions about {', '.join(kinds)}"])
    answers = [
        _answer(kind, questions[index], runs[m].responses[index], m) for kind, index in chosen.items() for m in methods
    ]
    figure = Figure(figsize=(COLUMN * (len(methods) + 1), 1), layout="constrained")
    ax = plot_responses(figure.subplots(), answers, with_form=experiment == "instructions")
    figure.set_size_inches(COLUMN * (len(methods) + 1), abs(np.ptp(ax.get_ylim())) + 0.4)
    return Drawing(
        figure,
        pd.DataFrame([vars(answer) for answer in answers]).drop(columns="mark"),
        f"{what} Greedy answers of each method's first run (seed {_seeds(list(runs.values()))}). Under each, what the "
        "rule finds: content, the true answer's words stand in it; form, it is put as the assistant puts answers. A "
        "rule, not a human or a GPT judge.",
        experiments.inputs(list(runs.values())),
        settings={"questions": list(chosen.values())},
        missing=experiments.missing(experiment),
        comparisons=tuple(_comparisons(collection, experiment, methods, kinds)),
    )


def _comparisons(
    collection: Collection, experiment: str, methods: Sequence[str], kinds: dict[str, set[str]]
) -> list[Comparison]:
    """Content over all questions of the kinds shown, all seeds."""
    results = collection.experiments.results
    names = set().union(*kinds.values())
    asked = [index for index, item in enumerate(results.questions) if item.category in names]
    right = {
        m: np.array(
            [
                [float(results.questions[index].scores(run.responses[index])[1]) for index in asked]
                for run in results.select(experiment, m)
            ]
        )
        for m in methods
    }
    comparisons = []
    for method in methods:
        mean = mean_of(right[method])
        about = f"{LABELS[method]}: content right, all {len(asked)} questions"
        comparisons.append(Comparison(about, None, f"{mean.value:.3f}", "", in_brackets(mean)))
    for rival in ("llama-adapter-10", "lora-8"):
        if {"aligner-1", rival} <= set(right):
            gap = gap_of(right["aligner-1"], right[rival])
            # Content is what the base knows already, but for what it refuses.
            is_learned = experiment == "safety" and BASE in right
            gain = gap_of(right[rival], right[BASE]) if is_learned else None
            claim = as_good(gap, gain, f"Aligner-1's answers are as good in content as {LABELS[rival]}'s")
            about = f"Aligner-1 minus {LABELS[rival]}, content"
            paper = "answers of like quality (samples only)"
            comparisons.append(
                Comparison(about, paper, f"{gap.value:+.3f}", claim.sentence, in_brackets(gap), claim.verdict)
            )
    return comparisons


def _answer(kind: str, item: Item, said: str, method: str) -> Answer:
    _, content, form = item.scores(said)
    return Answer(method, kind, item.prompt, item.reference.strip(), said.strip(), content, form)


def _first(questions: Sequence[Item], categories: set[str]) -> int | None:
    return next((index for index, item in enumerate(questions) if item.category in categories), None)


def _seeds(runs: Sequence[FinishedRun]) -> str:
    return ", ".join(sorted({str(run.seed) for run in runs if run.seed is not None}))
