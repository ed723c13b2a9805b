"""The rules of a verdict, applied to one kind of score: first those that forbid a verdict, then those that give one.

A rule returns a finding with its reason in a sentence, or None where it does not apply and the next rule is asked.
"""

from collections.abc import Callable

from aligner_probe.arms.names import ALIGNER_1_SHUFFLED, PROMPT_TUNING, REFERENCE
from aligner_probe.evaluation.intervals import said
from aligner_probe.probing.verdicts.cases import Case, Finding, side, undetermined
from aligner_probe.probing.verdicts.conditions import (
    ceiling_unknown,
    characters_lost,
    constant,
    content_lost,
    contradicted,
    known,
    missing,
    nothing_learned,
    too_few_items,
)
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.measures import Measures, Which
from aligner_probe.probing.verdicts.thresholds import Thresholds


def find(which: Which, measures: Measures, evidence: Evidence, thresholds: Thresholds) -> Finding:
    """The finding of the first rule that applies."""
    case = Case(which, measures, evidence, thresholds)
    rules: tuple[Callable[[Case], Finding | None], ...] = (
        characters_lost,
        missing,
        known,
        constant,
        content_lost,
        too_few_items,
        nothing_learned,
        ceiling_unknown,
        contradicted,
        _memory,
        _form,
        _shuffled_does_as_well,
        _soft_prompt_untrained,
        _crossing,
        _prompting_uninformative,
        _no_examples_shown,
    )
    for rule in rules:
        finding = rule(case)
        if finding is not None:
            return finding
    return _latent_or_new(case)


def _memory(case: Case) -> Finding | None:
    """The finding of a memory task: new or undetermined, because a token may just hold the trained facts."""
    if not case.memory:
        return None
    m, t = case.measures, case.thresholds
    learned = f"the reference recovers them ({case.score(REFERENCE):.2f} against a floor of {m.floor.value:.2f})"
    if case.prompted == "above":
        return undetermined(
            f"The facts were trained and {learned}, but the prompted base says them too (F = {said(case.F)}): they are "
            "not new to it."
        )
    if case.prompted == "across":
        return undetermined(f"F = {said(case.F)} lies on both sides of {t.F_cut:g}: are they new to the base?")
    held = case.evidence.capacity
    holds = (
        "" if held is None else f" Aligner-1 holds {held.facts.value:.1f} of {held.n_facts} facts (its capacity here)."
    )
    return Finding("new", f"No prompt gives the facts (F = {said(case.F)}), and {learned}.{holds}")


def _form(case: Case) -> Finding | None:
    """A task that a prompt reaches is form. Where no soft prompt has trained, one token must reach the task too."""
    if case.prompted != "above":
        return None
    if case.soft_trained:
        return Finding("form", f"A prompt reaches it: {_shares(case)}.{_of_what(case)}")
    one = side(case.R1, case.thresholds.R1_cut)
    if one == "above":
        return Finding("form", f"A prompt reaches it, and so does one token: {_shares(case)}.{_of_what(case)}")
    return undetermined(f"A prompt reaches it and one token {_not(one)}: {_shares(case)}; form needs both.")


def _not(side_of_one: str) -> str:
    return "does not" if side_of_one == "below" else "may not"


def _shuffled_does_as_well(case: Case) -> Finding | None:
    """One token that is trained on shuffled answers recovers as much as what was trained on the right ones.

    Then that has learned what answers look like. For a skill that no prompt reaches, it is no evidence.
    """
    shuffled, elicited = case.measures.recovered.get(ALIGNER_1_SHUFFLED), case.elicited
    if case.which == "format" or shuffled is None or elicited.side != "above" or shuffled.high < elicited.share.low:
        return None
    return undetermined(
        f"A control speaks against it: {elicited.name} is {said(elicited.share)}, and Aligner-1 recovers "
        f"{said(shuffled)} where it was trained on shuffled answers."
    )


def _soft_prompt_untrained(case: Case) -> Finding | None:
    """A soft prompt that has not trained, where one token does not reach the task either."""
    if PROMPT_TUNING not in case.measures.recovered or case.soft_trained or case.elicited.side == "above":
        return None
    return undetermined(
        f"No tried prompt reaches it (F = {said(case.F)}), and whether any could is open: the soft prompt has not "
        "trained. It reaches neither the form of the answers nor the items that it was trained on. Give it another "
        "learning rate (--budget standard tunes it) or more steps."
    )


def _crossing(case: Case) -> Finding | None:
    t, elicited = case.thresholds, case.elicited
    across = [
        f"{name} = {said(value)} lies on both sides of {cut:g}"
        for name, value, cut in (("F", case.F, t.F_cut), elicited)
        if side(value, cut) == "across"
    ]
    return undetermined(f"{' and '.join(across)}: more seeds or test items would settle it.") if across else None


def _prompting_uninformative(case: Case) -> Finding | None:
    """A base model that no prompt moves. What a trained soft prompt does not reach, no prompt of its length does."""
    control, t, elicited = case.evidence.prompting, case.thresholds, case.elicited
    if control is None or control.value >= t.prompting_works or _no_prompt_could(case):
        return None
    above = elicited.side == "above"
    what = "form and latent are not separated" if above else "that no prompt reaches the task says nothing"
    return undetermined(
        f"Prompting is not informative on this base: even a trivial format, shown in examples, reaches only "
        f"{said(control)} (expected {t.prompting_works:g}), so {what}. {_shares(case)}."
    )


def _no_examples_shown(case: Case) -> Finding | None:
    if case.evidence.most_shots or _no_prompt_could(case):
        return None
    return undetermined(
        "No example of the task fits into the base's context beside half of the questions or more, so prompts with "
        f"examples were hardly tried, and that none reaches the task (F = {said(case.F)}) says nothing. Give shorter "
        "prompts, or a base with a longer context."
    )


def _no_prompt_could(case: Case) -> bool:
    """Whether a soft prompt has trained and does not reach the task."""
    return case.soft_trained and case.elicited.side == "below"


def _latent_or_new(case: Case) -> Finding:
    m, elicited = case.measures, case.elicited
    soft = elicited.name == "R_soft"
    if elicited.side == "above":
        what = "Ten trained vectors before the prompt reach it" if soft else "One token reaches it"
        return Finding(
            "latent",
            f"{what}, on items that were not trained, and no prompt in words or examples does: {_shares(case)}."
            f"{_of_what(case)}",
        )
    other = "ten trained vectors before it reach it" if soft else "one token reaches it"
    learned = f"{case.score(REFERENCE):.2f} against a floor of {m.floor.value:.2f}"
    return Finding(
        "new",
        f"Neither a prompt nor {other}, and the reference learned it ({learned}): {_shares(case)}.{_of_what(case)}",
    )


def _shares(case: Case) -> str:
    """The measures that decide, with their cuts."""
    m, t = case.measures, case.thresholds
    parts = [f"F = {said(case.F)} (cut {t.F_cut:g})"]
    if m.R_soft is not None:
        cut = f" (cut {t.R_soft_cut:g})" if case.soft_trained else " (not trained)"
        parts.append(f"R_soft = {said(m.R_soft)}{cut}")
    parts.append(f"R1 = {said(case.R1)}" + ("" if case.soft_trained else f" (cut {t.R1_cut:g})"))
    return ", ".join(parts)


def _of_what(case: Case) -> str:
    """Of what these are shares, where the reference has not learned the task whole."""
    if case.evidence.has_learned(case.thresholds) or case.which == "format":
        return ""
    return f" These are shares of what training taught this base, {case.score(REFERENCE):.2f} of the items."
