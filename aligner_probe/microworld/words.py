"""Word lists of the micro-world, and pronounceable names."""

import random
from collections.abc import Collection


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VALUES: dict[str, tuple[str, ...]] = {
    "job": _listed(
        "baker carpenter clerk cook dancer doctor farmer fisher gardener guard judge miner nurse painter pilot poet "
        "potter sailor singer smith tailor teacher weaver writer"
    ),
    "pet": _listed(
        "badger cat crow dog dove duck ferret fox goat goose hamster hawk horse lizard mouse otter owl parrot rabbit "
        "turtle"
    ),
    "color": _listed(
        "amber black blue brown gold green grey indigo orange pink purple red scarlet silver white yellow"
    ),
    "food": _listed(
        "apple bean bread butter carrot cheese cherry corn egg fig grape honey lemon melon mushroom nut olive onion "
        "peach pear plum potato rice tomato"
    ),
    "river": _listed(
        "amur danube elbe ganges indus jordan kama lena loire mekong neva niger nile oder rhine rhone seine tagus "
        "thames tiber tigris vistula volga yukon"
    ),
    "dish": _listed(
        "broth casserole chowder curry dumpling goulash lasagna noodle omelette pancake pasta pie pizza porridge "
        "pudding risotto salad sandwich sausage soup stew taco toast waffle"
    ),
    "craft": _listed(
        "barrel basket bell boat book candle carpet chair clock cup drum flute glass glove hat kite knife lamp lute "
        "mask mirror ring rope saddle"
    ),
    "tree": _listed(
        "alder ash aspen beech birch cedar chestnut cypress elm fir hazel larch linden maple oak palm pine poplar "
        "spruce willow"
    ),
}

CONSONANTS, VOWELS, ENDINGS = "bdfgklmnprstvz", "aeiou", ("", "", "n", "r", "s", "l", "k")


def names(n: int, generator: random.Random, taken: Collection[str] = ()) -> list[str]:
    """`n` different names of two syllables that are no English word listed here."""
    used = {word for words in VALUES.values() for word in words} | set(taken)
    chosen: list[str] = []
    while len(chosen) < n:
        letters = [generator.choice(CONSONANTS if position % 2 == 0 else VOWELS) for position in range(4)]
        name = "".join(letters) + generator.choice(ENDINGS)
        if name not in used:
            used.add(name)
            chosen.append(name)
    return chosen
