"""Where the cuts of F, R_soft and R1 lie, set by tasks of known nature; and files that keep cuts for a base model.

cuts = cuts_from(known_shares)
write_cuts(cuts, "cuts.json")
probe_task(model, task, cuts="cuts.json")
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import read_own_json, write_text
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds

FORMAT = "aligner_probe cuts 1"
#: The measures that have cuts, with the natures above the cut.
ABOVE = {"F": ("form",), "R_soft": ("form", "latent"), "R1": ("form", "latent")}
MEASURES = tuple(ABOVE)
#: The thresholds that tasks of known nature set.
CUTS = tuple(f"{name}_cut" for name in MEASURES)
#: A cut lies between these, whatever the tasks say.
LOWEST, HIGHEST = 0.05, 0.95


@dataclass(frozen=True)
class KnownShares:
    """A task of known nature ("form", "latent" or "new") with its measures by name.

    A measure is None if it was not measured. All are None if the reference learned nothing, because then there is no
    gap to take a share of.
    """

    nature: str
    kind: str
    shares: dict[str, float | None]


def cuts_from(tasks: Sequence[KnownShares], thresholds: Thresholds = THRESHOLDS) -> Thresholds:
    """The thresholds with the cuts that these tasks set.

    Memory tasks take no part in the cuts of R_soft and R1, because they test what was trained, and a few vectors may
    just hold that. Where no task has R_soft, its cut stays.

    Raises AlignerProbeError where all tasks lie on one side of F or of R1.
    """
    general = [one for one in tasks if one.kind == "general"]
    soft = any(one.shares.get("R_soft") is not None for one in general)
    return replace(
        thresholds,
        F_cut=_cut("F", tasks),
        R_soft_cut=_cut("R_soft", general) if soft else thresholds.R_soft_cut,
        R1_cut=_cut("R1", general),
    )


def cut_between(values: Float[np.ndarray, " tasks"], above: Bool[np.ndarray, " tasks"]) -> float:
    """The cut that tells with the best balanced accuracy which tasks lie above it; of several, that in the widest gap.

    Raises AlignerProbeError where all tasks lie on one side.
    """
    if above.all() or not above.any():
        raise AlignerProbeError(
            f"{len(values)} tasks that all lie on one side say nothing of a cut; probe tasks of other natures too"
        )
    ordered = np.unique(values)
    middles = (ordered[1:] + ordered[:-1]) / 2
    if not len(middles):
        raise AlignerProbeError("all tasks have the same value, so no cut tells them apart")
    said = values[None, :] > middles[:, None]
    accuracy = (said[:, above].mean(axis=1) + (~said[:, ~above]).mean(axis=1)) / 2
    return float(middles[np.lexsort((np.diff(ordered), accuracy))[-1]])


def write_cuts(thresholds: Thresholds, file: str | Path) -> None:
    """Write the cuts of these thresholds, and on what they were set, to a file."""
    content = {"format": FORMAT, "calibration": thresholds.calibration}
    content |= {name: getattr(thresholds, name) for name in CUTS}
    write_text(Path(file), json.dumps(content, indent=1) + "\n")


def read_cuts(file: str | Path) -> Thresholds:
    """The thresholds with the cuts of a file of `write_cuts`.

    Raises AlignerProbeError for a file that is none, or whose cuts are not between 0 and 1.
    """
    expected = f"a file with {', '.join(CUTS)}, as benchmarks/real_probes.py --cuts FILE writes it"
    content = read_own_json(Path(file), FORMAT, what="cuts", expected=expected)
    cuts = {name: content.get(name) for name in CUTS}
    said = content.get("calibration")
    wrong = [f"{name} {value!r}" for name, value in cuts.items() if type(value) is not float]
    if wrong or not isinstance(said, str) or not said.strip():
        raise AlignerProbeError(
            f"{file}: {', '.join(wrong) or f'calibration {said!r}'}; expected cuts between 0 and 1, and as calibration "
            "on what they were set"
        )
    return replace(THRESHOLDS, **cuts, calibration=said)


def _cut(name: str, tasks: Sequence[KnownShares]) -> float:
    """The cut of a measure between the natures above it and the others."""
    measured = [(value, one.nature in ABOVE[name]) for one in tasks if (value := one.shares.get(name)) is not None]
    measured = [(value, above) for value, above in measured if np.isfinite(value)]
    if not measured:
        raise AlignerProbeError(f"no task with {name}; probe tasks of known nature first")
    values, above = np.array([value for value, _ in measured]), np.array([side for _, side in measured])
    return round(float(np.clip(cut_between(values, above), LOWEST, HIGHEST)), 4)
