"""What a text says, whatever its form: the lenient reading behind every content-only score.

A text says a content where all the content's words, numbers and operators stand in it in one row.

- **What does not count**: case; punctuation; quotes, brackets, mark-up (`**`, `_`, backquotes, tags), other wrapping;
  a hyphen between words (`twenty-one`); Unicode's several ways to write one character (NFC, NFD, full width).
- **What counts**: every letter with its marks (accents, vowel signs, points), every number as `numbers.py` reads it
  (never a part of one; by its exact value, but `3.10` and codes such as `007` as they are written), operators and
  emoji. `A-`, `A+` and `A` are three contents, as are `C`, `C++` and `C#`, `<` and `<=`, `x+1` and `x-1`.
- **Where words end**: at spaces and punctuation. An operator that is attached to a word or number belongs to it, so
  that `C++` does not say `C`; an equals sign, an arrow and a slash between words do not bind (`x=5` says `5`). A single
  letter that is joined to something by an apostrophe, hyphen, slash, ampersand or initials' point is part of it (`I'd`
  does not say `D`, nor `N/A` `A`), and the article `a` before a word is not the letter `A`.
- **Scripts without spaces** (Chinese, Japanese, Thai, Lao, Khmer, Burmese and their kin) have no ends of words: there,
  the content's characters must stand in a row, each with its vowel signs. `答案是巴黎。` says `巴黎`.
- **Korean** attaches particles to words: `서울입니다` and `서울에서` say `서울`, `서울대` does not; `B는` says `B`.
- **Brackets** count where they close what the content opens behind a word: `f(x, y)` does not say `f(x)`. A point that
  begins the content counts: `the net` does not say `.NET`.
- A content of punctuation alone (`:)`, `?`) must stand in the text as it is.
"""

import re
import unicodedata

from aligner_probe.evaluation.numbers import last_number
from aligner_probe.evaluation.reading import SIGNED, STRONG, WEAK, Token, tokens
from aligner_probe.evaluation.scripts import is_hangul, is_letter, is_mark, is_wordlike
from aligner_probe.tasks.task import Example

__all__ = ["content_of", "last_number", "means_the_same", "occurrences", "says", "words"]

_LEADING_SIGNS = ("+", "-", "±")
_CALL, _POINTED = re.compile(r"\w[(\[{].*[)\]}]\s*\Z", re.DOTALL), re.compile(r"[\s\"'`*(]*\.[a-zA-Z]")
_STARS = "★☆⭐🌟"
#: What Korean attaches to a word: forms of "to be", which also follow one syllable, and particles.
_COPULAS = ("입니다", "이다", "이에요", "예요", "이었습니다", "였습니다", "입니까", "이고", "이며", "인")
_PARTICLES = (*_COPULAS, "은", "는", "이", "가", "을", "를", "의", "에", "에서", "에게", "으로", "로", "와", "과")
_PARTICLES += ("도", "만", "부터", "까지", "이나", "이야", "야", "요", "란", "이라고", "라고")
_JOINERS = "'\u2019-\u2010\u2011/&@_"


def content_of(example: Example) -> str:
    """What an example's completion says: its `content` where it has one, else the completion itself."""
    return example.completion if example.content is None else example.content


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text in a form to compare, without case, punctuation, operators and wrapping."""
    return tuple(token.key for token in tokens(text) if token.kind in ("word", "number"))


def says(text: str, content: str) -> bool:
    """Whether a text says all of `content`, by the rules of this module."""
    return bool(occurrences(text, content))


def means_the_same(one: str, other: str) -> bool:
    """Whether two texts have the same words, numbers and operators, and nothing more."""
    first, second = tokens(one), tokens(other)
    return len(first) == len(second) and all(a.says(b) for a, b in zip(first, second, strict=True))


def occurrences(text: str, content: str) -> list[tuple[int, int]]:
    """Where a text says `content`, each time from its first character to behind its last, in composed form (NFC)."""
    wanted, found = tokens(content), tokens(text)
    text, content = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", content)
    if not wanted:
        return _as_they_stand(text, content.strip())
    is_call, is_pointed = _CALL.search(content), wanted[0].kind == "word" and _POINTED.match(content) is not None
    if means_the_same(text, content) and not is_pointed:
        return [(found[0].start, found[-1].end)]
    n, places = len(wanted), []
    for start in range(len(found) - n + 1):
        row = found[start : start + n]
        if not (all(a.says(b) for a, b in zip(row[:-1], wanted, strict=False)) and _ends_in(row[-1], wanted[-1])):
            continue
        if (is_call and _is_open(text, row)) or (is_pointed and text[row[0].start - 1 : row[0].start] != "."):
            continue
        left = found[start - 1] if start else None
        right = found[start + n] if start + n < len(found) else None
        if not (_goes_on(row, left, before=True) or _goes_on(row, right, before=False)) and _stands_alone(
            text, row, content
        ):
            places.append((row[0].start, row[-1].end))
    return places


def _ends_in(word: Token, wanted: Token) -> bool:
    """Whether a word is the wanted one, or that with a particle, in Korean."""
    if word.says(wanted):
        return True
    if not (word.kind == wanted.kind == "word" and word.key.startswith(wanted.key) and is_hangul(wanted.key[-1])):
        return False
    return word.key[len(wanted.key) :] in (_PARTICLES if len(wanted.key) > 1 else _COPULAS)


def _is_open(text: str, row: tuple[Token, ...]) -> bool:
    """Whether brackets that open inside a match are not closed directly behind it."""
    inner = text[row[0].start : row[-1].end]
    depth = sum((sign in "([{") - (sign in ")]}") for sign in inner)
    return depth > 0 and re.match(r"(?:[\s\"'`]*[)\]}])" + f"{{{depth}}}", text[row[-1].end :]) is None


def _goes_on(row: tuple[Token, ...], neighbour: Token | None, *, before: bool) -> bool:
    """Whether a match is a part of something longer, because an operator or an operand is attached to it."""
    edge = row[0] if before else row[-1]
    if neighbour is None or (neighbour.end != edge.start if before else neighbour.start != edge.end):
        return False
    if edge.kind == neighbour.kind == "symbol" and edge.key == neighbour.key:
        return len(row) > 1 or edge.key in _STARS
    if edge.kind == "sign":
        if neighbour.kind == "sign":
            return len(row) == 1 or (neighbour.binds == STRONG and neighbour.key != "-")
        return len(row) > 1 and edge.binds == STRONG and neighbour.kind != "symbol"
    if neighbour.kind != "sign":
        # What is refused as a number may begin with a sign: "5±1".
        return neighbour.kind == "word" and not before and neighbour.key[:1] in _LEADING_SIGNS
    return neighbour.binds == STRONG or (neighbour.binds == WEAK and edge.is_single_letter and not _has_sign(row))


def _has_sign(row: tuple[Token, ...]) -> bool:
    """Whether a row is a letter with its sign (`C++`, `A-`), which a slash does not join to another."""
    return len(row) == 2 and row[1].kind == "sign" and row[0].end == row[1].start


def _stands_alone(text: str, row: tuple[Token, ...], content: str) -> bool:
    """Whether the single letters at the ends of a match are letters by themselves and not parts of other words."""
    first, last = row[0], row[-1]
    if first.is_single_letter and first.start > 1:
        joiner, prior = text[first.start - 1], text[first.start - 2]
        if joiner in _JOINERS and is_wordlike(prior) and not (joiner == "/" and _has_sign(row)):
            return False
        if joiner == "." and is_letter(prior) and not (first.start > 2 and is_wordlike(text[first.start - 3])):
            return False
    if last.is_single_letter and last.end + 1 < len(text):
        joiner, after = text[last.end], text[last.end + 1]
        if joiner in _JOINERS and is_wordlike(after) and not (joiner == "/" and SIGNED.match(text, last.end + 1)):
            return False
        if joiner == "." and is_letter(after) and not is_wordlike(text[last.end + 2 : last.end + 3] or " "):
            return False
    is_article = len(row) == 1 and content.strip(" .,;:!?()[]\"'*") == "A" and text[first.start : first.end] == "a"
    return not (is_article and text[first.end : first.end + 1] == " " and is_letter(text[first.end + 1 :][:1] or " "))


def _as_they_stand(text: str, content: str) -> list[tuple[int, int]]:
    """Where punctuation stands in a text as it is, with no more of its kind attached."""
    if not content:
        return []
    places, start = [], text.find(content)
    while start >= 0:
        end = start + len(content)
        if not _more_of(text[start - 1 : start], content[0]) and not _more_of(text[end : end + 1], content[-1]):
            places.append((start, end))
        start = text.find(content, start + 1)
    return places


def _more_of(sign: str, edge: str) -> bool:
    if not sign or sign.isspace() or is_wordlike(sign) or is_mark(sign):
        return False
    return sign == edge or unicodedata.category(sign) == "Sm" or sign in "*/&|%#@^~-" or {sign, edge} <= set("?!")
