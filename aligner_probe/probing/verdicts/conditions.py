"""The rules that forbid a verdict on one kind of score, or make one needless: each gives a finding, or None."""

from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    BASE,
    CANDIDATES,
    CONSTANT,
    FULL,
    PROMPT,
    REFERENCE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.evaluation.intervals import said
from aligner_probe.probing.verdicts.cases import Case, Finding, side, undetermined
from aligner_probe.probing.verdicts.power import size_of_test
from aligner_probe.probing.verdicts.thresholds import Thresholds
from aligner_probe.tasks.characters import LostCharacters


def characters_lost(case: Case) -> Finding | None:
    """A base model whose tokenizer loses characters of the task never sees the whole task."""
    lost = case.evidence.lost
    if lost is None or not forbids_a_verdict(lost, case.thresholds):
        return None
    return undetermined(
        f"The base never sees the whole task. {lost.said} No verdict is given where more than "
        f"{case.thresholds.lost_examples:.0%} of the examples lose characters. {lost.way_on}"
    )


def forbids_a_verdict(lost: LostCharacters, thresholds: Thresholds) -> bool:
    """Whether the prompt template or too large a share of the examples loses characters for a verdict."""
    return lost.template is not None or len(lost.affected) > thresholds.lost_examples * lost.n


def missing(case: Case) -> Finding | None:
    """Controls that were not run."""
    wanted = [*case.measures.floors, PROMPT, ALIGNER_1, REFERENCE]
    if case.which != "format" and not case.memory:
        wanted.append(ALIGNER_1_SHUFFLED)
    lacking = [arm for arm in wanted if arm not in case.measures.scores]
    if case.evidence.prompting is None and not case.memory:
        lacking.append(f"the positive control of prompting, on {case.thresholds.fewest_items} items or more")
    if not lacking:
        return None
    return undetermined(f"Not run: {', '.join(lacking)}. Without them no verdict has its controls.")


def known(case: Case) -> Finding | None:
    """What the base model does without training."""
    base = case.score(BASE)
    if base < case.thresholds.base_solves:
        return None
    return Finding(
        "known", f"The base already has it: it scores {base:.2f} without training or prompt (from "
        f"{case.thresholds.base_solves:g} on there is nothing left to learn)."
    )  # fmt: skip


def constant(case: Case) -> Finding | None:
    """One answer that is right on nearly everything."""
    if case.which == "format" or CONSTANT not in case.measures.scores or case.measures.floor_arm != CONSTANT:
        return None
    score = case.score(CONSTANT)
    if score < case.thresholds.constant_answer:
        return None
    return Finding("constant answer", f"One constant answer to everything scores {score:.2f}.")


def too_few_items(case: Case) -> Finding | None:
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
    return None if size.enough else undetermined(f"The test set is too small: {size.said}.")


def nothing_learned(case: Case) -> Finding | None:
    """A reference that is not clearly above the floor."""
    m, t = case.measures, case.thresholds
    if m.has_gap(t.least_gap):
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
    return undetermined(reason + _run_on(case))


def content_lost(case: Case) -> Finding | None:
    """Known items whose content the reference loses: then a wrong answer may still have the right form."""
    right, wanted = case.score(REFERENCE), case.thresholds.content_left
    if case.which != "known" or right >= wanted:
        return None
    return undetermined(
        f"The reference is right on {right:.2f} of the items whose content the base knows (expected {wanted:g} or "
        "more): it loses the content, so these items do not tell of the form."
    )


def ceiling_unknown(case: Case) -> Finding | None:
    """The reference may have learned less than training can teach.

    It counts where a candidate has learned the task. Below that it counts where every candidate has stopped and either
    full fine-tuning is among them, or another capacity agrees with the reference.
    """
    t, tried = case.thresholds, case.evidence.trainings
    if not tried:
        return undetermined("How the reference was trained is not known, so neither is whether it had learned.")
    # Of the form alone, and where the base knows the content, the ceiling may be reached though it is not on the whole.
    if case.evidence.has_learned(t) or (case.which in ("format", "known") and t.is_learned(case.score(REFERENCE))):
        return None
    reached = f"validation {', '.join(f'{one.method} {one.validation:.2f}' for one in tried)}, expected {t.learned:g}"
    if moving := [one for one in tried if not one.has_stopped(t)]:
        last = moving[-1]
        how = (
            "its score was not followed" if last.late_gain is None
            else f"its score gained {last.late_gain:.3f}, or {last.least_gain:.3f} at least (under {t.late_gain:g})"
        )  # fmt: skip
        if last.late_fall is not None:
            how += f" and its loss made {last.late_fall:.0%} of its fall (under {t.late_fall:.0%})"
        return undetermined(
            f"The reference has not learned ({reached}) and had not stopped: over the last 40 % of the steps of "
            f"{last.method} {how}, where brackets say what is wanted. Give it more steps.{_run_on(case)}"
        )
    if any(one.method == FULL for one in tried):
        return None
    others = {arm: share for arm in CANDIDATES if (share := case.measures.recovered.get(arm)) is not None}
    others.pop(case.evidence.reference, None)
    if not others:
        return undetermined(
            f"The reference has not learned ({reached}), and no second capacity was tried that could agree with it: "
            f"--budget standard.{_run_on(case)}"
        )
    if any(1 - t.agreement < share.low and share.high < 1 + t.agreement for share in others.values()):
        return None
    shares = ", ".join(f"{arm} recovers {said(share)} of its gap" for arm, share in others.items())
    return undetermined(
        f"The reference has not learned ({reached}), and no other capacity agrees with it: {shares}, expected between "
        f"{1 - t.agreement:g} and {1 + t.agreement:g}. The ceiling is unknown; the standard budget tries full "
        f"fine-tuning too.{_run_on(case)}"
    )


def _run_on(case: Case) -> str:
    share = case.evidence.run_on
    if share < case.thresholds.run_on:
        return ""
    return f" {share:.2f} of its answers begin with what is wanted and run on: say what ends an answer, --ending TEXT."


def contradicted(case: Case) -> Finding | None:
    """Strict scores and log-likelihoods, each on its own scale from floor to reference, on different sides of a cut."""
    other = case.evidence.likelihood
    if case.which != "strict" or other is None or not other.gap.low > 0:
        return None
    shares = {"F": (case.F, other.F, case.thresholds.F_cut)}
    if not case.memory:
        name, share, cut = case.elicited
        shares[name] = (share, getattr(other, name), cut)
    for name, (ours, theirs, cut) in shares.items():
        if theirs is not None and {side(ours, cut), side(theirs, cut)} == {"above", "below"}:
            return undetermined(
                f"Strict scores and log-likelihoods contradict each other: {name} is {said(ours)} by the one and "
                f"{said(theirs)} by the other, on either side of {cut:g}."
            )
    return None
