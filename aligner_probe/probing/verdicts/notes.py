"""What the measures of a probe show beside its verdict, a sentence each."""

from aligner_probe.arms.names import ALIGNER_1, ALIGNER_1_SHUFFLED, LORA_8
from aligner_probe.evaluation.intervals import Interval, said
from aligner_probe.probing.verdicts.cases import side
from aligner_probe.probing.verdicts.conditions import forbids_a_verdict
from aligner_probe.probing.verdicts.evidence import Evidence
from aligner_probe.probing.verdicts.thresholds import Thresholds


def notes(evidence: Evidence, outcome: str, t: Thresholds) -> list[str]:
    """What else the measures show, a sentence each."""
    strict, lines = evidence.strict, []
    if evidence.lost is not None and evidence.lost.affected and not forbids_a_verdict(evidence.lost, t):
        lines.append(evidence.lost.said)
    if strict.B is None:
        lines.append("B was not run: whether constant shifts could do more than one token is open.")
    elif strict.R1 is not None and side(strict.B, t.R1_cut) == "above" and side(strict.R1, t.R1_cut) == "below":
        lines.append(
            f"Free constant shifts reach it (B = {said(strict.B)}): one token lacks parameters, not attention."
        )
    if strict.delta is None:
        lines.append("Delta was not run: whether any few parameters would do as well as the token is open.")
    elif strict.R1 is not None and side(strict.R1, t.R1_cut) == "above":
        credit = "the global token itself" if strict.delta.low > 0 else "few parameters, whichever they are"
        lines.append(f"Delta = {said(strict.delta)}: what is reached is to the credit of {credit}.")
    if strict.R_soft is None:
        lines.append("R_soft was not run: whether any prompt could reach the task is open.")
    shuffled = strict.recovered.get(ALIGNER_1_SHUFFLED)
    if outcome == "form" and shuffled is not None and side(shuffled, t.R1_cut) == "above":
        lines.append(f"Shuffled answers teach one token as much (R = {said(shuffled)}): their form is all it takes.")
    lines += _kept(evidence, outcome, t)
    if evidence.kind == "memory" and evidence.capacity is None:
        lines.append("How many facts Aligner-1 holds was not counted.")
    if evidence.known_share is not None:
        lines.append(f"The base knows the content of {evidence.known_share:.2f} of the test items, asked for it alone.")
    lines.append(f"The cuts were set on {t.calibration}.")
    return lines


def _kept(evidence: Evidence, outcome: str, t: Thresholds) -> list[str]:
    if evidence.kept is None:
        return ["K was not run: what training does to other knowledge is open."]
    before = evidence.kept.content[0]
    if before.value < t.known_before:
        return [f"K says nothing: the base is right on {said(before)} of the off-domain items before any training."]
    if ALIGNER_1 not in evidence.most_kept:
        at_rate = said(evidence.kept.kept)
        return [
            f"K was not run: at the rate that suits the task Aligner-1 keeps {at_rate}, at others it may keep more."
        ]
    most = evidence.most_kept[ALIGNER_1]
    if most.kept is None:
        return [f"K of Aligner-1 is not known: {most.said}."]
    return [_side_of_k(most.kept, outcome, t), *_against_lora(evidence)]


def _side_of_k(kept: Interval, outcome: str, t: Thresholds) -> str:
    """What K of Aligner-1 says, on one side of its threshold or on both."""
    if kept.high < t.kept:
        reached = "form reached, knowledge damaged" if outcome in ("form", "latent") else "knowledge damaged"
        return f"K = {said(kept)} under {t.kept:g}: {reached}, whichever rate and length of those tried."
    if kept.low < t.kept:
        return f"K = {said(kept)} lies on both sides of {t.kept:g}: whether knowledge was kept is open."
    return f"K = {said(kept)}: some run that reaches the form keeps the knowledge of another domain."


def _against_lora(evidence: Evidence) -> list[str]:
    """Which of Aligner-1 and LoRA keeps more at equal form."""
    difference = evidence.kept_against_lora
    if difference is None:
        return []
    lora = evidence.most_kept[LORA_8].said
    if difference.high < 0:
        return [f"At equal form LoRA r=8 keeps more than one token: {lora}."]
    if difference.low > 0:
        return [f"At equal form one token keeps more than LoRA r=8, which keeps {lora}."]
    return [f"At equal form LoRA r=8 keeps {lora}; which of the two keeps more is open."]
