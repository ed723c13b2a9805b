"""Classes of characters that reading texts and numbers needs: letters, marks, and scripts that put no spaces."""

import unicodedata
from functools import cache

#: Beginnings of the Unicode names of letters whose scripts put no space between words.
_SPACELESS = ("CJK ", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "YI SYLLABLE", "IDEOGRAPHIC ITERATION")
_SPACELESS += (
    "THAI ",
    "LAO ",
    "KHMER ",
    "MYANMAR ",
    "TAI ",
    "NEW TAI ",
    "JAVANESE ",
    "BALINESE ",
    "VERTICAL IDEOGRAPHIC",
)
_SPACELESS += ("COMBINING KATAKANA-HIRAGANA",)


@cache
def is_spaceless(sign: str) -> bool:
    """Whether a letter or mark is of a script without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, ..."""
    return unicodedata.category(sign)[0] in "LMN" and unicodedata.name(sign, "").startswith(_SPACELESS)


@cache
def is_mark(sign: str) -> bool:
    """Whether a character belongs to the one before it: vowel signs, accents, joiners, skin tones."""
    return unicodedata.category(sign)[0] == "M" or unicodedata.category(sign) == "Cf" or "🏻" <= sign <= "🏿"


@cache
def is_hangul(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith("HANGUL")


@cache
def is_letter(sign: str) -> bool:
    """Whether a character is a letter or a mark on one, of a script that puts spaces between words."""
    return unicodedata.category(sign)[0] in "LM" and not is_spaceless(sign)


@cache
def is_wordlike(sign: str) -> bool:
    """Whether a character is a letter, a mark or a digit, of any script."""
    return unicodedata.category(sign)[0] in "LMN"


@cache
def is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "P"
