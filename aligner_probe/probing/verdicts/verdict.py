"""The verdict on a task: form, latent, new, mixed, constant answer or undetermined, with its reasons.

The strict score decides. Completions may hold form and content apart. Where these two are of different natures (one
has to be learned, and the other can be prompted or is there already), the verdict is mixed, and its parts say which is
which. The definition follows arXiv 2312.05503: form is what prompting or in-context learning can reach in principle.
"""

from dataclasses import dataclass
from typing import Any, Literal

from aligner_probe.arms.names import ALIGNER_1_SHUFFLED, PROMPT_TUNING
from aligner_probe.html import Shown
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.findings import Finding, find, forbids_a_verdict, said, side
from aligner_probe.probing.verdicts.measures import Measures, Which
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds

Outcome = Literal["form", "latent", "new", "mixed", "constant answer", "undetermined"]


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """The verdict on one task, for one base model and supervised fine-tuning.

    Args:
        outcome: the verdict.
        reason: why, in sentences.
        parts: the finding of each kind of score: "strict", "content" and, where it is scored by itself, "format".
        notes: what else the measures show, a sentence each.
    """

    outcome: Outcome
    reason: str
    parts: dict[str, Finding]
    notes: tuple[str, ...]

    def shown(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            "notes": self.notes,
        }


def judge(evidence: Evidence, thresholds: Thresholds = THRESHOLDS) -> Verdict:
    """Decide the verdict on a task from its evidence."""
    kinds: dict[Which, Measures | None] = {
        "strict": evidence.strict,
        "content": evidence.content,
        "format": evidence.format,
    }
    parts: dict[str, Finding] = {
        which: find(which, measures, evidence, thresholds) for which, measures in kinds.items() if measures is not None
    }
    outcome, reason = _combined(parts)
    return Verdict(outcome, reason, parts, tuple(_notes(evidence, outcome, thresholds)))


def _combined(parts: dict[str, Finding]) -> tuple[Outcome, str]:
    strict, content, form = parts["strict"], parts["content"], parts.get("format")
    if strict.name == "known":
        return "undetermined", strict.reason
    # This comes before the strict finding. In a mixed task most of the likelihood comes from the part that is known, so
    # strict scores contradict likelihoods.
    if form is not None and strict.name != "constant answer":
        natures = {content.name, form.name}
        if content.decided and form.decided and "new" in natures and len(natures) > 1 and not _plain(content, form):
            return "mixed", f"Its content is {_with_reason(content)} Its format is {_with_reason(form)}"
    # Where the base model knows the content, only the form is left to decide, and the strict score decides it.
    if strict.decided and content.decided and content.name not in ("known", strict.name):
        return "mixed", f"Its content alone is {_with_reason(content)} Form and content together: {strict.reason}"
    return strict.name, strict.reason


def _plain(content: Finding, form: Finding) -> bool:
    """Whether new content stands in a form that the base model writes anyway, so that nothing is mixed."""
    return content.name == "new" and form.name == "known"


def _with_reason(finding: Finding) -> str:
    return f"{finding.name}: {finding.reason}"


def _notes(evidence: Evidence, outcome: Outcome, t: Thresholds) -> list[str]:
    strict, notes = evidence.strict, []
    if evidence.lost is not None and evidence.lost.affected and not forbids_a_verdict(evidence.lost, t):
        notes.append(evidence.lost.said)
    if strict.B is None:
        notes.append("B was not run: whether constant shifts could do more than one token is open.")
    elif strict.R1 is not None and side(strict.B, t.R1_cut) == "above" and side(strict.R1, t.R1_cut) == "below":
        notes.append(f"Free constant shifts reach it (B = {said(strict.B)}): one token lacks numbers, not attention.")
    if strict.delta is None:
        notes.append("Delta was not run: whether any few numbers would do as well as the token is open.")
    elif strict.R1 is not None and side(strict.R1, t.R1_cut) == "above":
        credit = "the global token itself" if strict.delta.low > 0 else "few numbers, not the token among them"
        notes.append(f"Delta = {said(strict.delta)}: what is reached is to the credit of {credit}.")
    soft = strict.recovered.get(PROMPT_TUNING)
    if soft is not None and strict.F is not None and side(strict.F, t.F_cut) == "below":
        reached = {"above": "reaches it", "below": "does not reach it either", "across": "may reach it"}
        notes.append(
            f"A prompt of ten trained vectors {reached[side(soft, t.F_cut)]} (R = {said(soft)}), a bound on "
            "what prompts of that length do."
        )
    shuffled = strict.recovered.get(ALIGNER_1_SHUFFLED)
    if outcome == "form" and shuffled is not None and side(shuffled, t.R1_cut) == "above":
        notes.append(f"Shuffled answers teach one token as much (R = {said(shuffled)}): their form is all it takes.")
    notes += _kept(evidence, outcome, t)
    if evidence.kind == "memory" and evidence.capacity is None:
        notes.append("How many facts Aligner-1 holds was not counted.")
    return notes


def _kept(evidence: Evidence, outcome: Outcome, t: Thresholds) -> list[str]:
    if evidence.kept is None:
        return ["K was not run: what training does to other knowledge is open."]
    before = evidence.kept.content[0]
    if before.value < t.known_before:
        return [f"K says nothing: the base is right on {said(before)} of the off-domain items before any training."]
    kept = evidence.kept.kept
    if kept.high < t.kept:
        reached = "form reached, knowledge damaged" if outcome in ("form", "latent") else "knowledge damaged"
        return [f"K = {said(kept)} under {t.kept:g}: {reached}; not orthogonal to what the base knows."]
    if kept.low < t.kept:
        return [f"K = {said(kept)} lies on both sides of {t.kept:g}: whether knowledge was kept is open."]
    return [f"K = {said(kept)}: knowledge of another domain is kept."]
