"""Cut a text into the pieces that become tokens: words, digits and signs, each with the space before it."""

import re

#: Pieces joined are the text.
PIECE = r"Q:|A:| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\n| "


def pieces(text: str) -> list[str]:
    return re.findall(PIECE, text)


def count(text: str) -> int:
    """The number of tokens in a text."""
    return len(pieces(text))
