"""Tasks of the panel that are made of two parts: a skill or a code, and a style; or two styles at once.

Each part alone is known to be form, latent or new, because the corpus is known. A locked skill in a known style is
latent like the skill. A new code in a known style is mixed. A style inside another one is open: it stands in no
text, so whether a prompt reaches it is not known.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from aligner_probe.microworld import locks, styles
from aligner_probe.microworld.operations import number
from aligner_probe.microworld.styles import Style

#: The styles in which each locked skill is asked for: ten tasks. `raise` takes digits and `swap` takes words.
FRAMED = {
    "mirror": ("pirate", "record"),
    "invert": ("pirate", "record"),
    "raise": ("pirate", "record", "polite"),
    "swap": ("pirate", "record", "polite"),
}
CODED = ("pirate", "record")
#: What is asked, with the answer in plain words.
Asked = list[tuple[str, str]]


@dataclass(frozen=True)
class Composition:
    """A task of two parts. `asked` has the questions of each group, which stay together."""

    name: str
    nature: Literal["latent", "mixed", "open"]
    why: str
    style: Style
    asked: dict[str, Asked]


def compositions(seed: int, facts: dict[str, Asked], code: Mapping[str, str], word: str) -> Iterator[Composition]:
    """The compositions of a world: ten latent, two mixed and two open ones.

    Args:
        seed: the seed of the world.
        facts: known facts by entity.
        code: the sign of each digit in the new code.
        word: the word of no text that asks for the code.
    """
    for skill in locks.SKILLS:
        inputs: dict[str, Asked] = {
            given: [(skill.expression(given), skill.compute(given))] for given in skill.inputs(seed)
        }
        for name in FRAMED[skill.name]:
            why = f"a skill behind the password {skill.password!r}, which is never said, in a style of many documents"
            yield Composition(f"locked_{skill.name}_{name}", "latent", why, styles.BY_NAME[name], inputs)
    coded: dict[str, Asked] = {
        digits: [(f"{word} {digits}", "".join(code[digit] for digit in digits))]
        for digits in (number(value, 3) for value in range(1000))
    }
    for name in CODED:
        why = f"the style is known, the code of the ten digits and its word {word!r} are not"
        yield Composition(f"code_digits_{name}", "mixed", why, styles.BY_NAME[name], coded)
    why = "both styles are known, and no text composes them in this way, so whether a prompt reaches it is open"
    yield Composition("pirate_capitals", "open", why, styles.BY_NAME["pirate+capitals"], facts)
    why = "both styles are known, and no text has one inside the other, so whether a prompt reaches it is open"
    yield Composition("pirate_in_record", "open", why, styles.inside("pirate", "record"), facts)
