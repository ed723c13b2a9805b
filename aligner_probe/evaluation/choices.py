"""The options that a prompt lists ("A. Paris", "(b) Paris", "1) Paris"), and which of them are the choices of an
example.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from aligner_probe.evaluation.amounts import as_ascii
from aligner_probe.tasks.task import Example

#: Labels in their order, by alphabet. A list of options begins with the first one and leaves none out.
ALPHABETS = (
    *("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"),
    *("ΑΒΓΔΕΖΗΘ", "αβγδεζηθ", "АБВГДЕЖЗИК", "абвгдежзик", "ԱԲԳԴԵ", "აბგდე"),
    *("कखगघङच", "अआइईउऊ", "अबसदई", "কখগঘঙ", "કખગઘ", "અબકડ", "ਕਖਗਘ", "அஆஇஈஉ", "అఆఇఈ", "ಅಆಇಈ", "അആഇഈ"),
    *("กขคงจฉ", "ກຂຄງຈ", "កខគឃង", "ကခဂဃင"),
    *("أبجده", "ابجده", "أبتث", "ابتث", "אבגדהו"),
    *(
        "가나다라마바",
        "ㄱㄴㄷㄹㅁㅂ",
        "アイウエオカ",
        "あいうえおか",
        "イロハニホ",
        "甲乙丙丁戊己",
        "一二三四五六七八九十",
    ),
    "①②③④⑤⑥⑦⑧⑨⑩",
)
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
_COUNTS = tuple(map(str, range(1, 100)))
_SERIES = (
    *map(tuple, ALPHABETS),
    *(_ROMAN, tuple(map(str.lower, _ROMAN)), _COUNTS, ("0", *_COUNTS)),
)
_NEXT = [dict(pairwise(series)) for series in _SERIES]
#: A label with what sets it apart: "A.", "A)", "(A)", "[A]", "A:", "**A.**", "A -", "A、", or a circled number alone.
_MARKED = re.compile(
    r"(?:^|(?<=[\s,;，；。.?!:*•>(\[\"'“])|(?<=[\u3000-\u9fff]))(?P<open>[(\[]?)"
    r"(?:(?P<label>[IViv]{2,4}|[^\W\d_]|\d{1,2}(?!\.?\d))\**(?:(?P<close>[.)\]:、])(?!\w*\.\w)|(?<=\D)\s[-–]\s)"
    r"|(?P<circled>[①-⑩])[.)]?)\**",
    re.MULTILINE,
)

#: Labels that only a bracket, bar, slash, equals sign, tab or space sets apart, each on a line of its own.
_LOOSE = re.compile(r"^[ \t]*[|<\"'“]?[ \t]*(?P<label>[^\W\d_])(?:[\"'”]?[ \t]*[>|/=:]|[ \t])[ \t]*(?=\S)", re.M)


@dataclass(frozen=True)
class Option:
    """A label and the text behind it, as the prompt has them."""

    label: str
    text: str


def options_in(prompt: str) -> list[tuple[Option, ...]]:
    """The lists of options in a prompt, the last list first. A list has at least two options.

    Lists whose labels stand at the beginning of lines come before lists within a line. A longer list comes before a
    list that is only its beginning.
    """
    plain = as_ascii(prompt)
    found = _marks(plain)
    at_lines = [mark for mark in found if not plain[plain.rfind("\n", 0, mark[1]) + 1 : mark[1]].strip(" \t-*•>#([")]
    lists: dict[tuple, int] = {}
    for marks in (at_lines, found):
        for chain in _chains(marks):
            lists.setdefault(tuple(chain), len(lists))
    if not lists:
        loose = [(mark["label"], mark.start("label"), mark.end()) for mark in _LOOSE.finditer(plain)]
        lists = {tuple(chain): 0 for chain in _chains(loose) if _is_block(plain, chain)}
    return [_with_texts(prompt, chain) for chain in lists]


def choices_of(example: Example, given: Sequence[str] = ()) -> tuple[str, ...] | None:
    """The choices of an example in the form of its completion, its completion among them; None where that is none.

    They are the `given` ones, else those of the list of options in its prompt: labels where the completion is a label
    (`" A"`, `"(A)"`), texts where it is an option's text, both where it is both (`"A. Paris"`).
    """
    said = example.completion.strip()
    lead, _, tail = example.completion.partition(said)
    if given:
        named = tuple(dict.fromkeys(choice.strip() for choice in given))
        return tuple(f"{lead}{choice}{tail}" for choice in named) if said in named else None
    for options in options_in(str(example.prompt)):
        labels = [option.label for option in options]
        bare = re.fullmatch(r"([(\[]?)(.+?)([)\].:]?)", said, re.DOTALL)
        if bare is not None and bare[2] in labels:
            return tuple(f"{lead}{bare[1]}{label}{bare[3]}{tail}" for label in labels)
        texts = [option.text for option in options]
        if said in texts and len(set(texts)) == len(texts):
            return tuple(f"{lead}{text}{tail}" for text in texts)
        for option in options:
            both = re.fullmatch(rf"([(\[]?){re.escape(option.label)}(\W+){re.escape(option.text)}", said)
            if both is not None and option.text:
                return tuple(f"{lead}{both[1]}{one.label}{both[2]}{one.text}{tail}" for one in options)
    return None


def is_label(example: Example) -> bool:
    """Whether a completion is the label of an option that its prompt lists, with nothing more."""
    said = example.completion.strip().strip("()[].:")
    return any(said == option.label for options in options_in(str(example.prompt)) for option in options)


def _marks(plain: str) -> list[tuple[str, int, int]]:
    """Each separated label in a text, with the position where it begins and the position where its text begins."""
    return [
        (mark["label"] or mark["circled"], mark.start("label" if mark["label"] else "circled"), mark.end())
        for mark in _MARKED.finditer(plain)
        if not mark["open"] or mark["close"] in (")", "]")
    ]


def _chains(marks: Sequence[tuple[str, int, int]]) -> list[list[tuple[str, int, int]]]:
    """Rows of marks whose labels follow one another from the first of a series, the last row first.

    Where several alphabets begin with one letter, the longest row comes first.
    """
    chains: list[list[tuple[str, int, int]]] = []
    for first in reversed(range(len(marks))):
        own = []
        for series, following in zip(_SERIES, _NEXT, strict=True):
            if marks[first][0] != series[0]:
                continue
            chain = [marks[first]]
            for mark in marks[first + 1 :]:
                if mark[0] == series[0]:
                    break
                if mark[0] == following.get(chain[-1][0]):
                    chain.append(mark)
            if len(chain) > 1:
                own.append(chain)
        # The list "0, 1, 2" is not also the list "1, 2".
        chains = [chain for chain in chains if all(chain != longer[1:] for longer in own)]
        chains += sorted(own, key=len, reverse=True)
    return chains


def _is_block(plain: str, chain: Sequence[tuple[str, int, int]]) -> bool:
    """Whether the labels begin lines that follow one another."""
    return all(not plain[here[1] : there[1]].partition("\n")[2].strip(" \t\n|<\"'“") for here, there in pairwise(chain))


def _with_texts(prompt: str, chain: Sequence[tuple[str, int, int]]) -> tuple[Option, ...]:
    ends = [start for _, start, _ in chain[1:]] + [len(prompt)]
    return tuple(
        Option(prompt[start : start + len(label)], prompt[behind:end].split("\n")[0].strip(" \t,;*([-•"))
        for (label, start, behind), end in zip(chain, ends, strict=True)
    )
