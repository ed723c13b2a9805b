"""Numbers as people write them, read exactly by one grammar or not at all.

A number is, in this order: a sign, a currency, an amount, a scale word, a unit. Only the amount is required.

- **Sign**: `-`, U+2212 or an en dash, or `+`, attached to the number, before or after the currency sign (`-$5`, `$-5`).
  Between two operands (`14-16`, `(3+4)-5`) it belongs to neither. A minus with a space behind it is a sign only after
  an equals sign. The words `negative 5`, and `minus 5` at a beginning or behind `is`, are signs, too. Brackets are no
  sign: `($5)` is 5. A minus attached to brackets or emphasis around one number is its sign: `-(5)`, `-\\boxed{5}`.
- **Amount**: digits of any script with a point (`1.5`, `.5`; a full stop behind `5` is none of it) or a decimal comma;
  a fraction (`3/4`, `3 / 4`, `1 1/2`, `½`, `2½`, LaTeX's `2\\frac{1}{2}`); a power of ten (`1e9`, `1.5E-3`, `3 x
  10^4`, `3×10⁴`, `10^6`).
- **Grouping**: threes by `,` `.` `'` `’` `_` or a space (also no-break and thin ones; LaTeX's `1{,}234`, `1\\,234`),
  or India's `12,34,567`. Where both `,` and `.` occur, the last one is the decimal mark: `1,234.5`, `1.234,5`. One
  point alone is always a decimal point (`1.234` is below 2). One comma alone groups where exactly three digits follow
  at most three that do not begin with 0 (`1,234`), else it is a decimal comma (`0,5`). A space groups as it does in `1
  234 567`; a row of digits that is no such grouping is several numbers.
- **Scale word**: `hundred`, `thousand`, `million`, `billion`, `trillion`, `lakh`, `crore` (and the words of other
  languages in `units.py`) behind the number, or 百, 千, 万, 億, 亿, 兆, 백, 천, 만, 억, 조 attached to it:
  `5 million` is never 5.
- **Unit**: a currency (sign or code) or `%`. It does not change the value, as `5%` and `$5` answer "how many percent"
  and "how many dollars" with 5; two numbers that both name a unit are the same only in the same one. `50%` is not 0.5.
  Letters attached to digits (`60mph`, `3rd`) are units that are not compared.

What looks like a number and is none of these is refused: it has no value, and no part of it is read. Such are
`1,23,4`, `1.2.3`, `192.168.1.1`, dates, `12:30`, `2^10`, `5²`, `0x1F`, `5k` (five or five thousand?), `5 bn`,
`\\sqrt{3}`, `5\\pi`, `1/0`, `±5`, `--5`, `No.5`, `0.333...`. Digits inside words and names (`A5`, `H2O`, `COVID-19`,
the exponent of `cm^2`) are not looked at.

Values are fractions, so integers of any size and decimals compare exactly; there is no tolerance.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from aligner_probe.evaluation.amounts import VULGAR, as_ascii, idle_zeros, plain_value, ten_to, to_int, vulgar_value
from aligner_probe.evaluation.scripts import is_letter, is_punctuation, is_spaceless, is_wordlike
from aligner_probe.evaluation.units import CODES, CURRENCIES, HAN_SCALES, SCALES, SYMBOLS, currency_named

_SIGNS = {"-": -1, "+": 1}
#: 千克 and the like are units (kilogram), no thousands.
_HAN_SCALE = re.compile(r"千(?![克米瓦卡赫焦帕字])|[百万萬億亿兆백천만억조]")
_HAN_MORE = re.compile(rf"\d[\d{''.join(HAN_SCALES)}]*")
_SPACES = " \u00a0\u2007\u2009\u202f"

#: Between groups of digits: LaTeX's `{,}` and `,\!` for a comma, `\,` for a thin space.
_BETWEEN, _GAP = r"(?:[.,'_]|\{[.,]\}|,\\!)", rf"(?:[{_SPACES}]|\\[,;: ])"
_NEXT = re.compile(rf"\\(?:[dt]?frac\s*[{{\d]|sqrt(?![a-zA-Z]))|\.?\d|[{VULGAR}]")
_FRAC = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)(\d))")
_ROOT = re.compile(r"\\sqrt\s*(?:\[[^\[\]]*\])?")
_CORE = re.compile(rf"\.?\d+(?:{_BETWEEN}\d+)*")
_ROW = re.compile(rf"\d+(?:{_GAP}\d+)+")
_OVER = re.compile(r"[ \u00a0]?/[ \u00a0]?(\d+(?:[.,'_]\d+)*)")
_MIXED_FRAC = re.compile(r"\s?(?:\\[,;: !])?(?=\\[dt]?frac\s*[{\d])")
_MIXED = re.compile(r"[ \u00a0](\d+)/(\d+)(?![\d/.,]*\d)")
_EXPONENT = re.compile(r"[eE]([-+]?\d+)(?![^\W_])")
_TIMES_TEN = re.compile(
    r"\s?(?:[x×*·⋅]|\\times|\\cdot)\s?10(?:\s?(?:\^|\*\*)\s?[({]?([-+]?\d+)[)}]?|([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))", re.IGNORECASE
)
_POWER = re.compile(r"(?:\^|\*\*|\s(?:\^|\*\*)\s)[({]?([-+]?\d+)[)}]?|([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_SCALE = re.compile(rf"[\s-]({'|'.join(SCALES)})s?(?!\w)", re.IGNORECASE)
_UNSURE_SCALE = re.compile(r"\s(?:bn|mio|mrd)(?!\w)\.?", re.IGNORECASE)
_TAIL, _GOES_ON = re.compile(r"[.,]\d+"), re.compile(r"[^\W\d_]|[-/:'_]\w|[.,]\d")
_PADDED = re.compile(r"0\d+")
#: Before a full stop that is no decimal point: an ellipsis, rupees.
_NO_POINT = re.compile(r"\.\Z|(?<![^\W_])[Rr]s\Z")
_SIGN_WORD = re.compile(
    r"(?:.*(?<!\w)|\A)(negative)\s+\Z|(?:\A\s*|.*(?:\bis|\bequals|[=≈:(*\n])\s*)(minus)\s+\Z", re.IGNORECASE | re.DOTALL
)
_AFTER_EQUALS, _LEADING = re.compile(r"[=≈]\s*(-)\s+\Z"), re.compile(r"\s*(-)\s+\Z")
#: A minus before what is put around a number: brackets, bars, emphasis, LaTeX's box.
_WRAPPED = re.compile(r"(?<![\w)\]}%])(-)[$]?(?:\\boxed\s?\{|\\left|[(\[{|]|\*{1,3})+\Z")
_UNIT = re.compile(
    rf"\s?\\?%|\s?[Pp]er ?cent\b|\s?\\?[{re.escape(SYMBOLS)}](?!\s?\.?\d)|\s(?:{'|'.join(CODES.split())})\b"
)
#: Invisible marks of writing direction, which Arabic and Hebrew texts have between a sign and its digits.
_DIRECTION = "[\u200e\u200f\u061c\u2066-\u2069]*"
_ATTACHED = re.compile(rf"(?<![^\W_])(?:{'|'.join(CODES.split())}|Rs)\Z")
_BEFORE = re.compile(
    rf"(?P<first>[-+±])?{_DIRECTION}\\?(?P<unit>(?<![^\W_])[A-Z]{{1,3}}\$|[{re.escape(SYMBOLS)}]"
    rf"|(?<![^\W_])(?:{'|'.join(CODES.split())}|Rs\.?))[ \u00a0]?(?P<second>[-+±])?{_DIRECTION}\Z"
    rf"|(?P<only>[-+±]){_DIRECTION}\Z"
)
#: What makes a longer thing of digits that is no number: a time, a ratio, a date.
_MORE = re.compile(r"(?::\d+)+|(?:/\d+)+|[.,]\d+|\s?√\s?\d*|\s?\\pi(?![a-zA-Z])")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?!\d)|\d{1,2}-\d{1,2}-\d{4}(?!\d)")
#: One Latin letter behind digits that is most likely a unit; any other may be a variable or a power of ten.
_LETTER_UNITS = "mghsldpcLWVANJCF"
#: Attached words that change the value, in more than one way.
_NO_UNITS = ("bn", "mn", "mio", "pi")


@dataclass(frozen=True)
class Number:
    """A number in a text, from `start` to `end`, or what looks like one: then `value` is None.

    `unit` is a currency's code, "%" or None. `zeros` counts the decimals that say nothing (`3.10`: 1). `is_padded`
    where the integer begins with 0, as codes do. `has_letters` where letters are attached behind it. `in_word` where it
    is part of a word or a name, so that `numbers` leaves it out.
    """

    start: int
    end: int
    value: Fraction | None
    unit: str | None = None
    zeros: int = 0
    is_padded: bool = False
    has_letters: bool = False
    in_word: bool = False

    def same_as(self, other: "Number") -> bool:
        """Whether both have one value and, where both name a unit, one unit."""
        if self.value is None or self.value != other.value:
            return False
        return None in (self.unit, other.unit) or self.unit == other.unit


def numbers(text: str, *, after_marker: bool = False) -> Iterator[Number]:
    """The numbers of a text in order, and what looks like a number and is refused. `after_marker`: a minus may come
    first.
    """
    return (found for found in scan(text, after_marker=after_marker) if not found.in_word)


def answer_number(text: str, marker: str = "") -> Number | None:
    """The first number behind the last `marker` of a text. Without a marker in the text, its last number. None if there
    is none.

    If something stands there that is refused as a number, the result is None too: no other number is taken instead.
    """
    text, marker = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", marker)
    place = text.rfind(marker) if marker else -1
    if place < 0:
        last = next(iter(deque(numbers(text), maxlen=1)), None)
        return None if last is None or last.value is None else last
    end = place + len(marker)
    # A marker such as "Total: $" ends within what it announces.
    while end > place and text[end - 1] in _PARTS:
        end -= 1
    found = next(numbers(text[end:], after_marker=True), None)
    return None if found is None or found.value is None else found


def last_number(text: str, after: str = "") -> Fraction | None:
    """The value of `answer_number`: of the last number, or of the first behind the last `after` where that occurs."""
    found = answer_number(text, after)
    return None if found is None else found.value


def parse_number(text: str) -> Number | None:
    """The number that a text is, space around it aside; None where it is anything else or has more in it."""
    stripped = unicodedata.normalize("NFC", text.strip())
    found = next(scan(stripped), None)
    if found is None or found.value is None or found.in_word:
        return None
    return found if (found.start, found.end) == (0, len(stripped)) else None


def is_number(text: str) -> bool:
    """Whether a text is one number and nothing else."""
    return parse_number(text) is not None


def is_whole_number(text: str) -> bool:
    """Whether a text is an integer in digits, with a sign at most: a label perhaps, and no amount."""
    return re.fullmatch(r"[-+−]?\d+", text.strip()) is not None


def is_part_of_numbers(marker: str) -> bool:
    """Whether a text is only what numbers are made of: points, signs, digits, a currency's name."""
    return marker.strip().lower() in CURRENCIES or all(sign in _PARTS or sign.isspace() for sign in marker)


def can_mark(marker: str) -> bool:
    """Whether a text announces numbers: not where it is a part of them or only punctuation."""
    return not is_part_of_numbers("".join(sign for sign in marker if not is_punctuation(sign)))


#: What numbers are made of beside letters.
_PARTS = frozenset("0123456789.,'’_-−–+±%‰/٫٬" + SYMBOLS)


def scan(text: str, *, after_marker: bool = False) -> Iterator[Number]:
    """As `numbers`, with the digits inside words, too."""
    plain = as_ascii(text)
    place, ungrouped = 0, 0
    while (found := _NEXT.search(plain, place)) is not None:
        start = found.start()
        if plain[start] == "." and _NO_POINT.search(plain, max(0, start - 3), start):
            start += 1
        number, ungrouped = _read(plain, start, place, ungrouped, after_marker)
        yield number
        place = number.end


def _read(plain: str, start: int, floor: int, ungrouped: int, after_marker: bool) -> tuple[Number, int]:
    """The number whose digits begin at `start`; nothing before `floor` is its own.

    `ungrouped` is the end of a row of digits in which spaces are known not to group; its new value comes back, too.
    """
    before, prior = plain[start - 1 : start], plain[start - 2 : start - 1] if start > 1 else ""
    in_word = (
        plain[start] not in ".\\"
        and bool(before)
        and (
            (is_letter(before) and not _ATTACHED.search(plain, max(floor, start - 4), start))
            or (before == "_" and bool(prior) and is_wordlike(prior))
            or before == "^"
            or prior + before == "^{"
        )
    )
    amount, value, zeros, ungrouped = _amount(plain, start, ungrouped)
    is_padded = _PADDED.fullmatch(plain, start, amount) is not None
    end, value = (amount, None) if value is None else _scaled(plain, amount, value)
    zeros = zeros if end == amount else 0
    end, value, has_letters = _continued(plain, end, value)
    if before == "√" or (plain[start] == "." and before and is_letter(before)):
        value = None
    sign, unit, start, in_word = _prefix(plain, start, floor, in_word, after_marker)
    if value is not None and not has_letters and (after := _UNIT.match(plain, end)) is not None:
        named = after[0].strip(" \\\n\t\u00a0\u2009\u202f").lower()
        other = CURRENCIES.get(named, "%")
        if unit in (None, other, "USD"):
            unit, end = other, after.end()
    wrapped = _WRAPPED.search(plain, max(floor, start - 16), start)
    if wrapped is not None and plain[end : end + 1] in tuple(")]}|*\\"):
        start, sign = wrapped.start(), None if sign is None else -sign
    value = None if value is None or sign is None else sign * value
    return Number(start, end, value, unit, zeros, is_padded, has_letters, in_word), ungrouped


def _amount(plain: str, start: int, ungrouped: int) -> tuple[int, Fraction | None, int, int]:
    """Where the amount at `start` ends, its value, how many of its decimals say nothing, and `ungrouped` anew."""
    if plain[start] in VULGAR:
        return start + 1, vulgar_value(plain[start]), 0, ungrouped
    if plain[start] == "\\":
        return *_frac(plain, start), 0, ungrouped
    if (date := _DATE.match(plain, start)) is not None:
        return date.end(), None, 0, ungrouped
    core = _CORE.match(plain, start)
    assert core is not None  # `scan` has found a digit here
    end, digits = core.end(), re.sub(r"[{}\\!]", "", core[0])
    if start >= ungrouped and (row := _ROW.match(plain, start)) is not None:
        grouped = _spaced(plain, row)
        if grouped is not None:
            end, digits = grouped
        else:
            ungrouped = row.end()
    value, zeros = plain_value(digits), idle_zeros(digits)
    if value is not None and digits.isdecimal():
        if (mixed := _MIXED.match(plain, end)) is not None and 0 < to_int(mixed[1]) < to_int(mixed[2]):
            spaced = re.search(_GAP, plain[start:end])
            part = Fraction(to_int(mixed[1]), to_int(mixed[2]))
            return mixed.end(), None if spaced else value + part, 0, ungrouped
        place = end + (plain[end : end + 1] in (" ", "\u00a0") and plain[end + 1 : end + 2] in VULGAR)
        if plain[place : place + 1] and plain[place] in VULGAR:
            return place + 1, value + vulgar_value(plain[place]), 0, ungrouped
    if (gap := _MIXED_FRAC.match(plain, end)) is not None:
        place, part = _frac(plain, gap.end())
        if value is None or part is None or not (digits.isdecimal() and 0 < part < 1):
            return place, None, 0, ungrouped
        return place, value + part, 0, ungrouped
    if (over := _OVER.match(plain, end)) is not None:
        below = plain_value(over[1])
        value = value / below if value is not None and below else None
        return over.end(), value, 0, ungrouped
    return end, value, zeros, ungrouped


def _frac(plain: str, start: int) -> tuple[int, Fraction | None]:
    """Where LaTeX's fraction (or root, which has no value) at `start` ends; its value where both parts are amounts."""
    found = _FRAC.match(plain, start)
    if found is None:
        root = _ROOT.match(plain, start)
        end = root.end() if root else plain.index("frac", start) + len("frac")
        for _ in range(1 if root else 2):
            end = _argument_end(plain, end)
        return end, None
    above, below = (_signed(part.strip()) for part in found.groups() if part is not None)
    return found.end(), above / below if above is not None and below else None


def _signed(part: str) -> Fraction | None:
    digits = part.removeprefix("-")
    value = plain_value(digits) if re.fullmatch(r"\.?\d+(?:[.,'_]\d+)*", digits) else None
    return value if value is None or digits == part else -value


def _argument_end(plain: str, place: int) -> int:
    """Where an argument of a LaTeX command ends: one character, or all to the brace that closes it."""
    depth = 0
    while place < len(plain):
        depth += (plain[place] == "{") - (plain[place] == "}")
        place += 1
        if depth <= 0 and not plain[place - 1].isspace():
            break
    return place


def _spaced(plain: str, row: re.Match) -> tuple[int, str] | None:
    """Where a row of digits with spaces ends and its digits, if the spaces group threes; else None."""
    groups = re.split(_GAP, row[0])
    if not (len(groups[0]) <= 3 and groups[0][0] != "0" and all(len(group) == 3 for group in groups[1:])):
        return None
    tail = _TAIL.match(plain, row.end())
    end = tail.end() if tail else row.end()
    # "2 500ml bottles", "3 100-dollar bills", "5 100/20", "1 234:5"
    if _GOES_ON.match(plain, end) and not is_spaceless(plain[end]):
        return None
    return end, "".join(groups) + (tail[0].replace(",", ".") if tail else "")


def _scaled(plain: str, end: int, amount: Fraction) -> tuple[int, Fraction | None]:
    """The amount with the power of ten or the scale words that follow it; None where another power does."""
    value: Fraction | None = amount
    power = _EXPONENT.match(plain, end) or _TIMES_TEN.match(plain, end)
    if power is None and (other := _POWER.match(plain, end)) is not None:
        is_ten = amount == 10 and plain[end - 2 : end] == "10"
        return other.end(), ten_to(other[1] or other[2]) if is_ten else None
    if power is not None:
        times = ten_to(next(group for group in power.groups() if group))
        value, end = None if times is None else amount * times, power.end()
    while value is not None and (scale := _SCALE.match(plain, end)) is not None:
        value, end = value * 10 ** SCALES[scale[1].lower()], scale.end()
    if (unsure := _UNSURE_SCALE.match(plain, end)) is not None:
        return unsure.end(), None
    while value is not None and (scale := _HAN_SCALE.match(plain, end)) is not None:
        value, end = value * 10 ** HAN_SCALES[scale[0]], scale.end()
        if (more := _HAN_MORE.match(plain, end)) is not None:
            return more.end(), None
    return end, value


def _continued(plain: str, end: int, value: Fraction | None) -> tuple[int, Fraction | None, bool]:
    """What follows an amount directly: more that makes it none, or letters, which are a unit."""
    while (more := _MORE.match(plain, end) or _POWER.match(plain, end) or _ROOT.match(plain, end)) is not None:
        value, end = None, _frac(plain, end)[0] if plain.startswith("\\sqrt", end) else more.end()
    if value is not None and value.denominator > 1 and (plain.startswith("..", end) or plain.startswith("…", end)):
        value = None
    after = end
    while after < len(plain) and is_letter(plain[after]):
        after += 1
    found = unicodedata.normalize("NFC", plain[end:after])
    if not found:
        return end, value, False
    if plain[after : after + 1].isdecimal():
        while after < len(plain) and is_wordlike(plain[after]) and not is_spaceless(plain[after]):
            after += 1
        return after, None, False
    # "0xFF" is hexadecimal.
    is_hex = value == 0 and re.fullmatch(r"[xX][0-9a-fA-F]+", found) is not None
    if is_hex or found in _NO_UNITS or (len(found) == 1 and found not in _LETTER_UNITS and _may_be_variable(found)):
        return after, None, False
    return end, value, True


def _may_be_variable(letter: str) -> bool:
    """Whether mathematics names variables by such letters; those of other scripts are counters (`5개`)."""
    return unicodedata.name(letter, "").startswith(("LATIN", "GREEK", "CYRILLIC", "MATHEMATICAL"))


def _prefix(
    plain: str, start: int, floor: int, in_word: bool, after_marker: bool
) -> tuple[int | None, str | None, int, bool]:
    """Sign (None where it is refused), unit, where the number begins with them, and whether a word goes on here."""
    if in_word:
        return 1, None, start, True
    found = _BEFORE.search(plain, max(floor, start - 8), start)
    unit = None if found is None or found["unit"] is None else currency_named(found["unit"])
    signs = [] if found is None else [name for name in ("first", "second", "only") if found[name]]
    begin = start if found is None else found.start()
    if found is None or not signs:
        gap = plain[floor:begin]
        near = max(floor, begin - 40)
        # "10 minus 5" is a difference.
        word = _SIGN_WORD.match(plain[near:begin])
        if word is not None and (word[1] or near == 0 or plain[near : near + word.start(2)].strip()):
            return -1, unit, near + max(word.start(1), word.start(2)), False
        lead = _AFTER_EQUALS.search(gap) or (_LEADING.match(gap) if after_marker and floor == 0 else None)
        return (1, unit, begin, False) if lead is None else (-1, unit, floor + lead.start(1), False)
    place = found.start(signs[0])
    before = plain[place - 1 : place]
    if len(signs) > 1 or found[signs[0]] == "±" or (before and before in "-+±"):
        while begin > floor and plain[begin - 1] in "-+±":
            begin -= 1
        return None, unit, begin, False
    if signs[0] != "second" and before and (is_wordlike(before) or before in ")]}%" + SYMBOLS):
        # Between two operands. With letters before it, what looks like a number is part of a name or a term.
        return 1, unit, found.start("unit") if unit else start, is_letter(before) and unit is None
    return _SIGNS[found[signs[0]]], unit, begin, False
