"""The known-answer panel, as `aligner-probe microworld panel` writes it: a folder a task, and panel.json."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.files import read_json

PANEL = Path(__file__).parent


@dataclass(frozen=True)
class PanelTask:
    """A task of the panel: `load_task("panel:NAME")` reads its training examples.

    `nature` is what the task is known to be to the micro-world (form, latent, new, mixed, open or control), and `why`
    says why. `kind` is "general" where other examples are tested than were trained, "memory" where the same facts are
    tested in other words. The last three are numbers of examples.
    """

    name: str
    nature: str
    kind: str
    why: str
    n_train: int
    n_validation: int
    n_test: int


@cache
@accepts()
def list_tasks() -> tuple[PanelTask, ...]:
    """Every task of the panel, in the order of its panel.json.

    Returns:
        One entry per task, with its name, its nature, the reason for its nature, and the numbers of its examples.
    """
    return tuple(
        PanelTask(name, row["nature"], row["kind"], row["why"], *(row["n"][p] for p in ("train", "validation", "test")))
        for name, row in read_json(PANEL / "panel.json").items()
    )


def panel_task(name: str) -> Path:
    """The folder of a task of the panel. Raises AlignerProbeError, naming those there are, for any other name."""
    there = sorted(file.parent.name for file in PANEL.glob("*/train.jsonl"))
    if name not in there:
        hint = did_you_mean(name, there)
        raise AlignerProbeError(
            f"the panel has no task {name!r}; expected one of {', '.join(there)} ({hint}What each is: "
            "`aligner-probe probe tasks`, or ap.list_tasks())"
        )
    return PANEL / name
