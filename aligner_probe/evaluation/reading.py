"""A text as the words, numbers and signs that carry its meaning; `content.py` states the rules.

Each of them keeps its position in the text, so that one can ask what is attached to it.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from aligner_probe.evaluation.amounts import as_ascii
from aligner_probe.evaluation.numbers import Number, parse_number, scan
from aligner_probe.evaluation.scripts import is_hangul, is_letter, is_mark, is_spaceless, is_wordlike

#: How firmly a sign binds to what it is attached to: not at all (`=`), to single letters (`/`), to everything (`+`).
FREE, WEAK, STRONG = 0, 1, 2

_OPERATOR = re.compile(
    r"={4,}|<=>|===|!==|\*+|\+\+|-{2,}|<->|->|<-|=>|<=|>=|==|!=|:=|\+=|-=|/=|&&|\|\||<<|>>|//|~~|[-+*/=<>~^&|%#@]"
)
_RELATIONS = ("=", "==", "===", "->", "=>", "<-", "<->", ":=")
_SAME = {"♯": "#", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "⇒": "=>", "←": "<-", "↔": "<->"}
_OPENING, _CLOSING, _IDLE = "([{", ")]}", "©®™℠"
_MANY_LETTERS = re.compile(r"[^\W\d_]{2,}")
_OPERAND = re.compile(r"\s*(?:[\d(\[{]|[^\W\d_](?!\w))")
#: A letter with its sign behind a slash: "C/C++", "A-/B+".
SIGNED = re.compile(r"[^\W\d_](?:\+\+|[-+#])(?![\w(])")
_LIST = re.compile(r"\d+(?:,\d+)+")
_RAISED = re.compile(r"([⁰¹²³⁴-₎]+)")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)(?:\s[^<>]*|\s*/)?>")
#: Vowels that stand before their consonant, and letters that belong to the one before them.
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_FOLLOWERS = frozenset("ะาำๅະາຳຽーｰﾞﾟ々ぁぃぅぇぉゃゅょゎァィゥェォャュョヮ")
_STACKERS, _KILLED = "\u17d2\u1039", re.compile("[^\u1037]\u1037?\u103a")
_NOT = re.compile("[tT](?!\\w)")
#: Of the invisible characters, those that tell flags apart.
_TAGS = frozenset(map(chr, range(0xE0020, 0xE0080)))
_TATWEEL = "\u0640"


TokenKind = Literal["word", "number", "sign", "symbol"]


@dataclass(frozen=True)
class Token:
    """A word, number, operator ("sign") or symbol (an emoji, a degree sign) from `start` to `end` of its text.

    `key` is what is compared: without case, compatibility forms and invisible characters. `binds` is a sign's own.
    """

    kind: TokenKind
    key: str
    start: int
    end: int
    number: Number | None = None
    binds: int = FREE

    @property
    def is_single_letter(self) -> bool:
        letters = [sign for sign in unicodedata.normalize("NFC", self.key) if not is_mark(sign)]
        return self.kind == "word" and len(letters) == 1 and is_letter(letters[0])

    def says(self, other: "Token") -> bool:
        """Whether both mean the same: numbers by their exact value, all else by their key."""
        if self.number is not None and other.number is not None:
            return self.number.same_as(other.number) and self.number.zeros == other.number.zeros
        return self.kind == other.kind and self.key == other.key


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[Token, ...]:
    """What carries the meaning of a text, in order; places are those in its composed form (NFC)."""
    text = unicodedata.normalize("NFC", text)
    found = tuple(_Reader(_without_tags(text)).tokens())
    return found or tuple(_Reader(text).tokens())


def key_of(word: str) -> str:
    """A word without case, compatibility forms and invisible characters; raised and lowered digits stay such."""
    kept = "".join(
        sign
        for sign in word
        if (unicodedata.category(sign) != "Cf" or sign in _TAGS) and not "\ufe00" <= sign <= "\ufe0f"
    )
    kept = kept.replace(_TATWEEL, "") or kept
    parts = _RAISED.split(kept)
    plain = "".join(part if place % 2 else unicodedata.normalize("NFKD", part) for place, part in enumerate(parts))
    return unicodedata.normalize("NFC", plain.casefold())


def _without_tags(text: str) -> str:
    """The text with blanks for its mark-up: tags that are closed somewhere, closing tags, line breaks."""
    if "<" not in text:
        return text
    closed = {tag[2].lower() for tag in _TAG.finditer(text) if tag[1]} | {"br", "hr"}
    return _TAG.sub(lambda tag: " " * len(tag[0]) if tag[2].lower() in closed else tag[0], text)


class _Reader:
    """Reads one text from its beginning to its end."""

    def __init__(self, text: str):
        self.text, self.flat = text, as_ascii(text)
        self.found: list[Token | None] = []
        self.emphasis: list[str] = []
        self.angles: list[tuple[int, str]] = []
        self.spans = {one.start: one for one in scan(text) if not one.in_word}
        self.starts = frozenset(self.spans)

    def tokens(self) -> Iterator[Token]:
        place = 0
        while place < len(self.text):
            place = self._step(place)
        return (token for token in self.found if token is not None)

    def _step(self, place: int) -> int:
        sign = self.text[place]
        if place in self.starts:
            return self._number(self.spans[place])
        if sign.isspace():
            return place + 1
        if is_spaceless(sign):
            return self._add_word(place, self._cluster(place))
        if is_wordlike(sign):
            return self._add_word(place, self._run(place))
        if (operator := _OPERATOR.match(self.flat, place)) is not None:
            return self._operator(operator[0], place, self._stopped(place, operator.end()))
        return self._other(sign, place)

    def _stopped(self, start: int, end: int) -> int:
        """An end that takes nothing of a number which begins within."""
        return next((place for place in range(start + 1, end) if place in self.starts), end)

    def _add(self, kind: TokenKind, key: str, start: int, end: int, binds: int = FREE) -> int:
        self.found.append(Token(kind, key, start, end, binds=binds))
        return end

    def _add_word(self, start: int, end: int) -> int:
        word = self.text[start:end]
        number = parse_number(word) if word.isdecimal() else None
        if number is None or number.is_padded:
            return self._add("word", key_of(as_ascii(word)) if word.isdecimal() else key_of(word), start, end)
        self.found.append(Token("number", _digits_of(number), start, end, number))
        return end

    def _number(self, number: Number) -> int:
        start, end = number.start, number.end
        if number.has_letters and not is_hangul(self.text[end]):
            return self._add("word", key_of(self.flat[start : (end := self._run(end))]), start, end)
        if number.value is None and _LIST.fullmatch(self.flat, start, end):
            for entry in re.compile(r"\d+").finditer(self.flat, start, end):
                self._add_word(entry.start(), entry.end())
            return end
        if number.value is None or number.is_padded:
            return self._add("word", key_of(self.flat[start:end]), start, end)
        self.found.append(Token("number", _digits_of(number), start, end, number))
        return end

    def _run(self, place: int) -> int:
        """The end of a word that begins at `place`; underscores between letters are part of it."""
        hangul = is_hangul(self.text[place])
        while place < len(self.text) and place not in self.starts:
            sign = self.text[place]
            # Korean attaches particles to names in Latin letters.
            if is_letter(sign) and not is_mark(sign) and is_hangul(sign) != hangul:
                break
            inner = sign == "_" and place and self._is_wordlike(place - 1) and self._is_wordlike(place + 1)
            if not (inner or is_mark(sign) or (is_wordlike(sign) and not is_spaceless(sign))):
                break
            place += 1
        return place

    def _cluster(self, place: int) -> int:
        """The end of a letter with all that belongs to it, in a script without spaces."""
        text = self.text
        if text[place] in _LEADING_VOWELS and place + 1 < len(text) and is_spaceless(text[place + 1]):
            place += 1
        place += 1
        while place < len(text) and place not in self.starts:
            killed = _KILLED.match(text, place) is not None
            stacked = text[place - 1] in _STACKERS or (killed and not is_mark(text[place]))
            belongs = is_mark(text[place]) or text[place] in _FOLLOWERS or _RAISED.match(text, place)
            if not (belongs or (stacked and is_spaceless(text[place]))):
                break
            place += 1
        return place

    def _is_wordlike(self, place: int) -> bool:
        return 0 <= place < len(self.text) and is_wordlike(self.text[place])

    def _operator(self, sign: str, start: int, end: int) -> int:
        """Add an operator where it carries meaning, by what it is attached to; else go on behind it."""
        sign = self.flat[start:end] if end - start < len(sign) else sign
        while end < len(self.text) and unicodedata.category(self.text[end])[0] == "M":
            end += 1
        key = unicodedata.normalize("NFC", sign + self.text[start + len(sign) : end])
        key = _SAME.get(key, key)
        left, right = self.flat[start - 1 : start] or " ", self.flat[end : end + 1] or " "
        after, before = is_wordlike(right) or right in _OPENING, is_wordlike(left) or left in _CLOSING
        binds = self._binding(sign, start, end, left, right, before, after)
        if binds is None:
            return end
        if sign in ("<", "<<") and not before and not right.isspace():
            self.angles.append((len(self.found), sign))
        return self._add("sign", key, start, end, binds)

    def _binding(self, sign: str, start: int, end: int, left: str, right: str, before: bool, after: bool) -> int | None:
        """How an operator binds; None where it is punctuation, wrapping or a hyphen."""
        spaced = left.isspace() and right.isspace()
        if sign[0] == "-" and sign in ("-", "--", "---"):
            return self._dash(sign, start, end, spaced, before, after)
        if set(sign) == {"*"}:
            return self._star(sign, start, end, spaced, left, right, before, after)
        if sign in (">", ">>") and not left.isspace() and self.angles and self.angles[-1][1] == sign.replace(">", "<"):
            self.found[self.angles.pop()[0]] = None
            return None
        if sign.startswith("====") or sign == "~~" or sign[:3] == "---":
            return None
        if sign in _RELATIONS:
            return FREE
        if sign in ("/", "//", "&", "@", "|"):
            if spaced and sign in ("/", "//", "&", "|"):
                return FREE if self._between_operands(start, end) else None
            if sign == "/" and SIGNED.match(self.flat, end):
                return FREE
            return WEAK if before and after else None
        if sign in ("&&", "||"):
            return WEAK
        if sign == "#":
            return STRONG if before or left in "+#" else None
        if sign == "~":
            return STRONG if is_wordlike(right) and not right.isdecimal() else None
        if sign == "%":
            if spaced:
                return FREE if self._between_operands(start, end) else None
            return STRONG
        return STRONG

    def _dash(self, sign: str, start: int, end: int, spaced: bool, before: bool, after: bool) -> int | None:
        is_sign = self.text[start] != "\u2013" and len(sign) < 3
        if spaced:
            return FREE if sign == "-" and self._between_operands(start, end) else None
        if before and after:
            last = self.found[-1] if self.found else None
            many = last is not None and last.kind == "word" and last.end == start and not last.is_single_letter
            if len(sign) > 1 or many or _MANY_LETTERS.match(self.text, end):
                return None
            between_digits = self.flat[start - 1].isdecimal() and self.flat[end].isdecimal()
            return FREE if between_digits else STRONG
        following = self.flat[end : end + 1] or " "
        if after or following == "\\" or (not following.isascii() and unicodedata.category(following) == "Sm"):
            return STRONG if is_sign else None
        return STRONG if is_sign and (before or self.flat[start - 1 : start] in ("+", "*")) else None

    def _star(
        self, sign: str, start: int, end: int, spaced: bool, left: str, right: str, before: bool, after: bool
    ) -> int | None:
        if spaced and self._between_operands(start, end):
            return FREE
        if spaced:
            self.emphasis.append(sign)
            return None
        if not left.isspace() and sign in self.emphasis:
            del self.emphasis[self.emphasis.index(sign) :]
            return None
        if before and after:
            return STRONG
        if not right.isspace() and not before:
            self.emphasis.append(sign)
            return None
        return STRONG if before else None

    def _between_operands(self, start: int, end: int) -> bool:
        """Whether numbers, single letters or brackets stand on both sides, on one line."""
        last = self.found[-1] if self.found else None
        if last is None or "\n" in self.text[last.end : start] or "\n" in self.text[start:end]:
            return False
        operand = last.number is not None or last.is_single_letter or self.flat[:start].rstrip()[-1:] in _CLOSING
        return operand and _OPERAND.match(self.flat, end) is not None

    def _other(self, sign: str, place: int) -> int:
        category = unicodedata.category(sign)
        left, right = self.text[place - 1 : place] or " ", self.text[place + 1 : place + 2] or " "
        if category == "Sm":
            return self._operator(sign, place, place + 1)
        if sign in "♭♮" and is_wordlike(left):
            return self._add("sign", sign, place, place + 1, STRONG)
        if category == "So" and sign not in _IDLE:
            return self._symbol(place)
        if sign in "'\u2019\u2032" and self.found and (last := self.found[-1]) is not None and last.end == place:
            if last.kind == "word" and last.key.endswith("n") and _NOT.match(self.text, place + 1):
                self.found.pop()
                return self._add("word", last.key + "'t", last.start, place + 2)
            opened = self.text[last.start - 1 : last.start] in ("'", "\u2018", "\u2019")
            if last.is_single_letter and not is_wordlike(right) and not opened:
                return self._add("sign", "'", place, place + 1, STRONG)
        if sign == "!" and is_letter(right) and (left.isspace() or left in _OPENING):
            closes = self.text[self._run(place + 1) :][:1] == "!"
            return place + 1 if closes else self._add("sign", "!", place, place + 1, STRONG)
        return place + 1

    def _symbol(self, place: int) -> int:
        """An emoji with all that is joined to it, or another symbol."""
        start, text = place, self.text
        is_flag = "🇦" <= text[place] <= "🇿" and "🇦" <= text[place + 1 : place + 2] <= "🇿"
        place += 2 if is_flag else 1
        while place < len(text) and (is_mark(text[place]) or text[place - 1] == "\u200d"):
            place += 1
        return self._add("symbol", key_of(text[start:place]), start, place)


def _digits_of(number: Number) -> str:
    assert number.value is not None
    # In hexadecimal, since Python writes only some thousands of decimal digits.
    return f"{number.value.numerator:x}/{number.value.denominator:x}" + "0" * number.zeros
