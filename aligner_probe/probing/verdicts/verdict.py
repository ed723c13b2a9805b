"""The verdict on a task: form, latent, new, mixed, constant answer or undetermined, with its reasons.

The strict score decides. Completions may hold form and content apart. Where these two are of different natures (one
has to be learned, and the other can be prompted or is there already), the verdict is mixed, and its parts say which is
which. Where training teaches no content, the form is judged on the items whose content the base model knows. The
definition follows arXiv 2312.05503: form is what prompting or in-context learning can reach in principle.
"""

from dataclasses import dataclass
from typing import Any, Literal

from aligner_probe.html import Shown
from aligner_probe.probing.verdicts.cases import Finding
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.findings import find
from aligner_probe.probing.verdicts.measures import Measures, Which
from aligner_probe.probing.verdicts.notes import notes
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds

Outcome = Literal["form", "latent", "new", "mixed", "constant answer", "undetermined"]


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """The verdict on one task, for one base model and supervised fine-tuning.

    Args:
        outcome: the verdict.
        reason: why, in sentences.
        parts: the finding of each kind of score: "strict", "content", "format" where it is scored by itself, and
            "known" where the items whose content the base model knows are judged by themselves.
        notes: what else the measures show, a sentence each.
        decided_by: the kind of score whose finding is the verdict, "strict" also where two parts make it mixed.
    """

    outcome: Outcome
    reason: str
    parts: dict[str, Finding]
    notes: tuple[str, ...]
    decided_by: Which = "strict"

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
        "known": evidence.known,
    }
    parts: dict[str, Finding] = {
        which: find(which, measures, evidence, thresholds) for which, measures in kinds.items() if measures is not None
    }
    outcome, reason, decided_by = _combined(parts, evidence, thresholds)
    return Verdict(outcome, reason, parts, tuple(notes(evidence, outcome, thresholds)), decided_by)


def _combined(parts: dict[str, Finding], evidence: Evidence, thresholds: Thresholds) -> tuple[Outcome, str, Which]:
    strict, content, form = parts["strict"], parts["content"], parts.get("format")
    if strict.name == "known":
        return "undetermined", strict.reason, "strict"
    # This comes before the strict finding. In a mixed task most of the likelihood comes from the part that is known, so
    # strict scores contradict likelihoods.
    if form is not None and strict.name != "constant answer":
        natures = {content.name, form.name}
        if content.decided and form.decided and "new" in natures and len(natures) > 1 and not _plain(content, form):
            return "mixed", f"Its content is {_with_reason(content)} Its format is {_with_reason(form)}", "strict"
    # Where the base model knows the content, only the form is left to decide, and the strict score decides it.
    if strict.decided and content.decided and content.name not in ("known", strict.name):
        both = f"Its content alone is {_with_reason(content)} Form and content together: {strict.reason}"
        return "mixed", both, "strict"
    if strict.name in ("new", "undetermined") and not evidence.content.has_gap(thresholds.least_gap):
        return _of_the_form(parts, evidence) or (strict.name, strict.reason, "strict")
    return strict.name, strict.reason, "strict"


def _of_the_form(parts: dict[str, Finding], evidence: Evidence) -> tuple[Outcome, str, Which] | None:
    """The verdict on a task whose training teaches no content, so that its form is all there is to judge.

    An adapter may lose content that the base model had. By the strict score a form then looks like something that
    nothing small reaches. None where the form is not decided by itself.
    """
    known, form = parts.get("known"), parts.get("format")
    if known is not None and known.decided and known.name != "known":
        where = f"On the {evidence.known_share:.2f} of the items whose content the base knows"
        outcome: Outcome = "mixed" if known.name == "new" else known.name
        return outcome, f"Training teaches no content. {where}: {known.reason}", "known"
    if form is not None and form.name in ("form", "latent"):
        return form.name, f"Training teaches no content, and its format is {_with_reason(form)}", "format"
    return None


def _plain(content: Finding, form: Finding) -> bool:
    """Whether new content stands in a form that the base model writes anyway, so that nothing is mixed."""
    return content.name == "new" and form.name == "known"


def _with_reason(finding: Finding) -> str:
    return f"{finding.name}: {finding.reason}"
