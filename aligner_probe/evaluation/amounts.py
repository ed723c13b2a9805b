"""Amounts: digits with marks between them, fractions of one character and powers of ten, as exact values."""

import re
import unicodedata
from fractions import Fraction
from functools import cache

#: Exponents of ten beyond this are refused, since an exact value would take too much memory.
LARGEST_EXPONENT = 9999
VULGAR = "".join(
    sign for sign in map(chr, range(0xBC, 0x218A)) if re.match(r"<fraction> .* 2044 ", unicodedata.decomposition(sign))
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_TWINS = dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63", "-") | {"\u066b": ".", "\u066c": ",", "\u066a": "%"}
_TWINS |= {
    "\u2019": "'",
    "\u00b4": "'",
    "\u2044": "/",
    "\u2215": "/",
    "\ufe69": "$",
    "\uffe5": "¥",
    "\uffe1": "£",
    "\u20a8": "₹",
}


def plain_value(digits: str) -> Fraction | None:
    """The value of digits with marks between them, by the rules of grouping in `numbers.py`, or None."""
    if digits.startswith("."):
        return _decimal("0", digits[1:]) if digits[1:].isdecimal() else None
    marks = re.sub(r"\d", "", digits)
    if not marks:
        return Fraction(to_int(digits))
    kinds, last = set(marks), marks[-1]
    if len(kinds) == 1 and len(marks) > 1:
        return None if _is_address(digits) else _grouped(digits, last)
    if len(kinds) == 1:
        if last in "'_" or (last == "," and _grouped(digits, ",") is not None):
            return _grouped(digits, last)
        return _decimal(*digits.split(last))
    if len(kinds) > 2 or last in "'_" or marks.count(last) > 1:
        return None
    whole, _, decimals = digits.rpartition(last)
    found = _grouped(whole, marks[0])
    return None if found is None else _decimal(str(found.numerator) if found < 10**18 else whole, decimals)


def _is_address(digits: str) -> bool:
    """Whether digits may be an address of the internet, as 192.168.100.100 is."""
    parts = digits.split(".")
    return len(parts) == 4 and all(len(part) <= 3 and int(part) <= 255 for part in parts)


def _grouped(digits: str, mark: str) -> Fraction | None:
    """The value of an integer whose groups are set apart by one mark; None where the groups are none."""
    first, *rest = digits.split(mark)
    by_threes = len(first) <= 3 and all(len(group) == 3 for group in rest)
    in_india = mark == "," and len(first) <= 2 and len(rest[-1]) == 3 and all(len(group) == 2 for group in rest[:-1])
    if first.startswith("0") or not (by_threes or in_india):
        return None
    return Fraction(to_int("".join((first, *rest))))


def _decimal(whole: str, decimals: str) -> Fraction:
    digits = re.sub(r"[.,'_]", "", whole)
    return Fraction(to_int(digits + decimals), 10 ** len(decimals))


def idle_zeros(digits: str) -> int:
    """How many zeros end the decimals of an amount."""
    tail = re.search(r"[.,]\d*?(0+)$", digits)
    return len(tail[1]) if tail and plain_value(digits) is not None and _decimals(digits) else 0


def _decimals(digits: str) -> bool:
    return digits.startswith(".") or plain_value(digits) != plain_value(re.sub(r"\D", "", digits))


def vulgar_value(sign: str) -> Fraction:
    """The value of a fraction that is one character, such as ½."""
    above, below = unicodedata.normalize("NFKC", sign).split("\u2044")
    return Fraction(int(above), int(below)) if int(below) else Fraction(0)


def ten_to(exponent: str) -> Fraction | None:
    """Ten to an exponent in digits, also in raised ones; None beyond LARGEST_EXPONENT."""
    digits = exponent.translate(_SUPERSCRIPTS)
    if len(digits) > 6 or abs(int(digits)) > LARGEST_EXPONENT:
        return None
    return Fraction(10) ** int(digits)


def as_ascii(text: str) -> str:
    """The text with each character as its ASCII twin, where it has one: digits, signs, quotes, full-width forms."""
    if text.isascii():
        return text
    return "".join(map(_twin, text))


@cache
def _twin(sign: str) -> str:
    if (digit := unicodedata.decimal(sign, None)) is not None:
        return str(digit)
    if "\uff01" <= sign <= "\uff5e":
        return chr(ord(sign) - 0xFEE0)
    return _TWINS.get(sign, sign)


def to_int(digits: str) -> int:
    """As int() for any number of digits: Python refuses more than some thousands at once."""
    if len(digits) <= 4000:
        return int(digits)
    half = len(digits) // 2
    return to_int(digits[:half]) * 10 ** (len(digits) - half) + to_int(digits[half:])
