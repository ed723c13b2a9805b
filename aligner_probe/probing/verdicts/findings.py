"""The rules of a verdict, applied to one kind of score: first those that forbid a verdict, then those that give one.

A rule returns a finding with its reason in a sentence, or None where it does not apply and the next rule is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    BASE,
    CONSTANT,
    FULL,
    PROMPT,
    REFERENCE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.measures import Measures, Which
from aligner_probe.probing.verdicts.power import size_of_test
from aligner_probe.probing.verdicts.thresholds import Thresholds
from aligner_probe.tasks.characters import LostCharacters

Name = Literal["form", "latent", "new", "known", "constant answer", "undetermined"]
Side = Literal["above", "below", "across"]


@dataclass(frozen=True)
class Finding:
    """What a kind of score shows, and why; "known" means that the base model has it without training."""

    name: Name
    reason: str

    @property
    def decided(self) -> bool:
        """Whether the finding names the nature of the task."""
        return self.name in ("form", "latent", "new", "known")


@dataclass(frozen=True)
class Case:
    """One kind of score of a task, with the evidence and the thresholds that the rules need."""

    which: Which
    measures: Measures
    evidence: Evidence
    thresholds: Thresholds

    @property
    def memory(self) -> bool:
        """Whether the tested content was trained, so that the finding cannot be form or latent."""
        return self.evidence.kind == "memory" and self.which != "format"

    @property
    def F(self) -> Interval:
        """R of the best prompt; `_missing` comes before every rule that asks for it."""
        return self.measures.recovered[PROMPT]

    @property
    def R1(self) -> Interval:
        """R of Aligner-1; `_missing` comes before every rule that asks for it."""
        return self.measures.recovered[ALIGNER_1]

    def score(self, arm: str) -> float:
        """The mean score of an arm."""
        return self.measures.scores[arm].value


def find(which: Which, measures: Measures, evidence: Evidence, thresholds: Thresholds) -> Finding:
    """The finding of the first rule that applies."""
    case = Case(which, measures, evidence, thresholds)
    rules: tuple[Callable[[Case], Finding | None], ...] = (
        _characters_lost,
        _missing,
        _known,
        _constant,
        _too_few_items,
        _nothing_learned,
        _not_converged,
        _contradicted,
        _memory,
        _shuffled_does_as_well,
        _crossing,
        _prompting_uninformative,
        _no_examples_shown,
    )
    for rule in rules:
        finding = rule(case)
        if finding is not None:
            return finding
    return _form_latent_or_new(case)


def side(interval: Interval, cut: float) -> Side:
    """On which side of a cut an interval lies; "across" where it contains the cut."""
    return "above" if interval.low > cut else "below" if interval.high < cut else "across"


def said(interval: Interval) -> str:
    """A value with its interval, for instance "0.64 [0.55, 0.72]"."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _undetermined(reason: str) -> Finding:
    return Finding("undetermined", reason)


def _characters_lost(case: Case) -> Finding | None:
    """A base model whose tokenizer loses characters of the task never sees the whole task."""
    lost = case.evidence.lost
    if lost is None or not forbids_a_verdict(lost, case.thresholds):
        return None
    return _undetermined(
        f"The base never sees the whole task. {lost.said} No verdict is given where more than "
        f"{case.thresholds.lost_examples:.0%} of the examples lose characters. {lost.way_on}"
    )


def forbids_a_verdict(lost: LostCharacters, thresholds: Thresholds) -> bool:
    """Whether the prompt template or too large a share of the examples loses characters for a verdict."""
    return lost.template is not None or len(lost.affected) > thresholds.lost_examples * lost.n


def _missing(case: Case) -> Finding | None:
    wanted = [*case.measures.floors, PROMPT, ALIGNER_1, REFERENCE]
    if case.which != "format" and not case.memory:
        wanted.append(ALIGNER_1_SHUFFLED)
    missing = [arm for arm in wanted if arm not in case.measures.scores]
    if case.evidence.prompting is None and not case.memory:
        missing.append(f"the positive control of prompting, on {case.thresholds.fewest_items} items or more")
    if not missing:
        return None
    return _undetermined(f"Not run: {', '.join(missing)}. Without them no verdict has its controls.")


def _known(case: Case) -> Finding | None:
    base = case.score(BASE)
    if base < case.thresholds.base_solves:
        return None
    return Finding(
        "known", f"The base already has it: it scores {base:.2f} without training or prompt (from "
        f"{case.thresholds.base_solves:g} on there is nothing left to learn)."
    )  # fmt: skip


def _constant(case: Case) -> Finding | None:
    if case.which == "format" or CONSTANT not in case.measures.scores or case.measures.floor_arm != CONSTANT:
        return None
    constant = case.score(CONSTANT)
    if constant < case.thresholds.constant_answer:
        return None
    return Finding("constant answer", f"One constant answer to everything scores {constant:.2f}.")


def _too_few_items(case: Case) -> Finding | None:
    """A memory task is never too small: its test has all the facts, and is no sample of them."""
    gap = case.measures.gap.value
    if case.memory or case.evidence.kind == "memory" or gap <= case.thresholds.least_gap:
        return None
    floor = case.measures.floor.value
    size = size_of_test(
        case.measures.n_units,
        kind=case.evidence.kind,
        floor=floor,
        reference=floor + gap,
        rows_an_item=case.evidence.rows_an_item,
        own_file=case.evidence.own_test,
        thresholds=case.thresholds,
    )
    return None if size.enough else _undetermined(f"The test set is too small: {size.said}.")


def _nothing_learned(case: Case) -> Finding | None:
    m, t = case.measures, case.thresholds
    if m.gap.low > t.least_gap:
        return None
    floors = {
        BASE: "the base",
        CONSTANT: "the best constant answer",
        REFERENCE_SHUFFLED: "the reference trained on shuffled answers",
    }
    reason = (
        f"The reference learned nothing item-specific: it scores {case.score(REFERENCE):.2f}, {floors[m.floor_arm]} "
        f"{m.floor.value:.2f}, a gap of {said(m.gap)}, whose lower bound must be above {t.least_gap:g}."
    )
    train = max((one.train for one in case.evidence.trainings if one.train is not None), default=None)
    if case.evidence.kind == "general" and train is not None and train >= t.memorised:
        reason += (
            f" It scores {train:.2f} on items that it was trained on, so it memorised them. Where the task is facts, "
            "test them in other words: --kind memory."
        )
    return _undetermined(reason + _run_on(case))


def _run_on(case: Case) -> str:
    share = case.evidence.run_on
    if share < case.thresholds.run_on:
        return ""
    return f" {share:.2f} of its answers begin with what is wanted and run on: say what ends an answer, --ending TEXT."


def _not_converged(case: Case) -> Finding | None:
    t, tried = case.thresholds, case.evidence.trainings
    if not tried:
        return _undetermined("How the reference was trained is not known, so neither is whether it had learned.")
    if any(one.validation >= t.learned for one in tried):
        return None
    moving = [one for one in tried if one.late_gain is None or one.late_gain >= t.late_gain]
    reached = ", ".join(f"{one.method} {one.validation:.2f}" for one in tried)
    if moving:
        last = moving[-1]
        how = "was not followed" if last.late_gain is None else f"gained {last.late_gain:.3f}"
        return _undetermined(
            f"The reference has not learned (validation {reached}, expected {t.learned:g}) and had not stopped: over "
            f"the last 40 % of its steps {last.method} {how}, expected under {t.late_gain:g}. Give it "
            f"more steps.{_run_on(case)}"
        )
    if not any(one.method == FULL for one in tried):
        return _undetermined(
            f"The reference has not learned (validation {reached}, expected {t.learned:g}), and full fine-tuning was "
            f"not tried: --budget standard.{_run_on(case)}"
        )
    return None


def _contradicted(case: Case) -> Finding | None:
    """Strict scores and log-likelihoods, each on its own scale from floor to reference, on different sides of a cut."""
    other = case.evidence.likelihood
    if case.which != "strict" or other is None or not other.gap.low > 0:
        return None
    cuts = {"F": case.thresholds.F_cut} if case.memory else {"F": case.thresholds.F_cut, "R1": case.thresholds.R1_cut}
    for name, cut in cuts.items():
        ours, theirs = getattr(case.measures, name), getattr(other, name)
        if theirs is not None and {side(ours, cut), side(theirs, cut)} == {"above", "below"}:
            return _undetermined(
                f"Strict scores and log-likelihoods contradict each other: {name} is {said(ours)} by the one and "
                f"{said(theirs)} by the other, on either side of {cut:g}."
            )
    return None


def _memory(case: Case) -> Finding | None:
    """The finding of a memory task: new or undetermined, because a token may just hold the trained facts."""
    if not case.memory:
        return None
    m, t = case.measures, case.thresholds
    learned = f"the reference recovers them ({case.score(REFERENCE):.2f} against a floor of {m.floor.value:.2f})"
    prompted = side(case.F, t.F_cut)
    if prompted == "above":
        return _undetermined(
            f"The facts were trained and {learned}, but the prompted base says them too (F = {said(case.F)}): they are "
            "not new to it."
        )
    if prompted == "across":
        return _undetermined(f"F = {said(case.F)} lies on both sides of {t.F_cut:g}: are they new to the base?")
    held = case.evidence.capacity
    holds = (
        "" if held is None else f" Aligner-1 holds {held.facts.value:.1f} of {held.n_facts} facts (its capacity here)."
    )
    return Finding("new", f"No prompt gives the facts (F = {said(case.F)}), and {learned}.{holds}")


def _shuffled_does_as_well(case: Case) -> Finding | None:
    """One token recovers as much where it is trained on shuffled answers.

    Then it has learned what answers look like. For a form that is all there is to learn. For a skill that no prompt
    reaches, it is no evidence.
    """
    m, t = case.measures, case.thresholds
    shuffled = m.recovered.get(ALIGNER_1_SHUFFLED)
    if (
        case.which == "format"
        or shuffled is None
        or side(case.R1, t.R1_cut) != "above"
        or side(case.F, t.F_cut) == "above"
    ):
        return None
    if shuffled.high < case.R1.low:
        return None
    return _undetermined(
        f"A control speaks against it: Aligner-1 recovers {said(case.R1)}, and {said(shuffled)} where it was trained "
        "on shuffled answers."
    )


def _crossing(case: Case) -> Finding | None:
    t = case.thresholds
    across = [
        f"{name} = {said(value)} lies on both sides of {cut:g}"
        for name, value, cut in (("F", case.F, t.F_cut), ("R1", case.R1, t.R1_cut))
        if side(value, cut) == "across"
    ]
    return _undetermined(f"{' and '.join(across)}: more seeds or test items would settle it.") if across else None


def _prompting_uninformative(case: Case) -> Finding | None:
    control, t = case.evidence.prompting, case.thresholds
    if control is None or control.value >= t.prompting_works or side(case.F, t.F_cut) == "above":
        return None
    one = side(case.R1, t.R1_cut)
    what = "form and latent are not separated" if one == "above" else "that no prompt reaches the task says nothing"
    return _undetermined(
        f"Prompting is not informative on this base: even a trivial format, shown in examples, reaches only "
        f"{said(control)} (expected {t.prompting_works:g}), so {what}. F = {said(case.F)}, R1 = "
        f"{said(case.R1)}."
    )


def _no_examples_shown(case: Case) -> Finding | None:
    if case.evidence.most_shots or side(case.F, case.thresholds.F_cut) == "above":
        return None
    return _undetermined(
        "No example of the task fits into the base's context beside half of the questions or more, so prompts with "
        f"examples were hardly tried, and that none reaches the task (F = {said(case.F)}) says nothing. Give shorter "
        "prompts, or a base with a longer context."
    )


def _form_latent_or_new(case: Case) -> Finding:
    m, t = case.measures, case.thresholds
    prompt, one = side(case.F, t.F_cut), side(case.R1, t.R1_cut)
    numbers = f"F = {said(case.F)} (cut {t.F_cut:g}), R1 = {said(case.R1)} (cut {t.R1_cut:g})"
    if prompt == "above" and one == "above":
        return Finding("form", f"A prompt reaches it, and so does one token: {numbers}.")
    if one == "above":
        return Finding(
            "latent", f"One token reaches it, on items it was not trained on, and no prompt does: {numbers}."
        )
    if prompt == "above":
        return _undetermined(f"A prompt reaches it and one token does not: {numbers}; form needs both.")
    return Finding(
        "new",
        f"Neither a prompt nor one token reaches it, and the reference learned it ({case.score(REFERENCE):.2f} against "
        f"a floor of {m.floor.value:.2f}): {numbers}.",
    )
