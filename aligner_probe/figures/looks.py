"""The one palette of all figures: which colour and marker an arm, a checkpoint or a verdict has.

Every figure, the report page and the notebooks take colours from here, so a colour means the same thing everywhere:

- blue is Aligner, orange is LLaMA-Adapter (as in the paper), green is LoRA, pink is prompt tuning, brown are the two
  constant shifts (free output bias and random subspace), black is full fine-tuning, grey is the untrained base model;
- violet, teal and red-brown are the natures and verdicts *form*, *latent* and *new*; no method has these colours.

The shades are those of Okabe and Ito or close to them, which colour-blind readers tell apart. Markers differ too, so
that no figure depends on colour alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

from aligner_probe.arms.names import BASE, CONSTANT, OUTPUT_BIAS, PROMPT, PROMPT_TUNING, RANDOM_SUBSPACE
from aligner_probe.checkpoints.prefix import PrefixCheckpoint

BLUES = ("#0072B2", "#56B4E9", "#003A5C", "#7F9DB9", "#3D5A9E")
ORANGES = ("#E69F00", "#8F6200", "#C77C02")
GREEN, PINK, BROWN = "#009E73", "#CC79A7", "#7A5230"
BLACK, GREY, LIGHT_GREY = "#111111", "#8A8A8A", "#D9D9D9"
#: What a figure points at: exactly equal parameters, gates at powers of two.
EMPHASIS = "#B0413E"


class Look(NamedTuple):
    """A colour (hexadecimal) and a matplotlib marker."""

    color: str
    marker: str


#: The look of each arm, by the arm's name. A family of sizes is drawn in the look of its first member here.
LOOKS: dict[str, Look] = {
    BASE: Look(GREY, "X"),
    "aligner-1": Look(BLUES[0], "o"),
    "aligner-10": Look(BLUES[1], "s"),
    "aligner-60": Look(BLUES[2], "^"),
    "aligner-100": Look(BLUES[4], "p"),
    "aligner-300": Look(BLUES[3], "D"),
    "gates-only": Look(BLUES[0], "d"),
    "llama-adapter-10": Look(ORANGES[0], "v"),
    "lora-8": Look(GREEN, "P"),
    "lora-1": Look(GREEN, "x"),
    PROMPT_TUNING: Look(PINK, "*"),
    OUTPUT_BIAS: Look(BROWN, "<"),
    RANDOM_SUBSPACE: Look(BROWN, ">"),
    "full": Look(BLACK, "h"),
    PROMPT: Look(BLACK, "|"),
    CONSTANT: Look(GREY, "|"),
}
#: The look of a family of sizes that is drawn as one line.
FAMILIES = {"Aligner": LOOKS["aligner-1"], "LLaMA-Adapter": LOOKS["llama-adapter-10"], "LoRA": LOOKS["lora-8"]}
#: Looks for arms that are not declared here, for instance a user's own.
OTHERS = (Look("#D3A4DC", "H"), Look("#5B6C20", "8"), Look("#E07BB0", "X"), Look("#2F4F4F", "d"), Look("#A0522D", "p"))
#: The look of a task by its nature; a verdict has the colour of the nature that it names.
NATURES = {
    "form": Look("#5B4BB5", "o"),
    "latent": Look("#0F8A96", "s"),
    "new": Look("#B0413E", "^"),
    "mixed": Look("#8A7A12", "D"),
    "open": Look(GREY, "v"),
    "control": Look(GREY, "x"),
}
#: Of verdicts that name no nature.
NO_NATURE = "#5A5A5A"
#: Markers for sizes of Aligner that no arm above has.
OTHER_SIZES = ("8", "H", "<", ">")
_SHADES = {"aligner": BLUES, "llama_adapter": ORANGES}


def looks_of(checkpoints: Sequence[PrefixCheckpoint]) -> list[Look]:
    """One look for each checkpoint of a panel, in the same order; no two are alike.

    A checkpoint has the look of the arm of its method and size. Where a panel has several checkpoints of one method and
    size (other seeds, other stages), they share the marker and differ in shade.
    """
    looks: list[Look] = []
    for checkpoint in checkpoints:
        usual = _usual(checkpoint)
        shades = [usual.color, *(shade for shade in _SHADES.get(checkpoint.method, BLUES) if shade != usual.color)]
        free = [Look(shade, usual.marker) for shade in shades if Look(shade, usual.marker) not in looks]
        others = [Look(shade, marker) for marker in OTHER_SIZES for shade in shades]
        looks.append((free or [look for look in others if look not in looks] or [usual])[0])
    return looks


def look_of(checkpoint: PrefixCheckpoint, among: Sequence[PrefixCheckpoint]) -> Look:
    """The look of one checkpoint among all of its panel."""
    index = next(index for index, other in enumerate(among) if other is checkpoint)
    return looks_of(among)[index]


def verdict_color(outcome: str) -> str:
    """The colour of a verdict: that of the nature it names, or dark grey."""
    return NATURES[outcome].color if outcome in NATURES else NO_NATURE


def _usual(checkpoint: PrefixCheckpoint) -> Look:
    if checkpoint.method == "llama_adapter":
        return LOOKS["llama-adapter-10"]
    known = LOOKS.get(f"aligner-{checkpoint.n_tokens}")
    return known or Look(BLUES[checkpoint.n_tokens % len(BLUES)], OTHER_SIZES[checkpoint.n_tokens % len(OTHER_SIZES)])
