"""What a text says, whatever its form: the lenient reading behind every content-only score."""

import re
import unicodedata

from aligner_probe.tasks.task import Example

#: A number as people write it: sign, thousands separators, decimals. A minus between two things is none of a number.
NUMBER = re.compile(r"(?:(?<![\w)])[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_WORD = re.compile(rf"{NUMBER.pattern}(?!\w)|\w+")


def content_of(example: Example) -> str:
    """What an example's completion says: its `content` where it has one, else the completion itself."""
    return example.completion if example.content is None else example.content


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, without case, punctuation and whatever it is wrapped in."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    return tuple(word for found in _WORD.findall(plain) if (word := found.replace(",", "").replace("_", "")))


def says(text: str, content: str) -> bool:
    """Whether a text has all of `content` in it, as whole words in a row; a content of signs only, as it stands."""
    wanted, found = words(content), words(text)
    if not wanted:
        return bool(content.strip()) and content.strip() in text
    n = len(wanted)
    return any(found[start : start + n] == wanted for start in range(len(found) - n + 1))


def last_number(text: str, after: str = "") -> float | None:
    """The last number of a text, or of what follows the last `after` where that stands in it; None without one."""
    found = NUMBER.findall(text.rpartition(after)[2] if after else text)
    return None if not found else float(found[-1].replace(",", "").replace("−", "-"))


def is_number(text: str) -> bool:
    """Whether a text is one number and nothing else."""
    return NUMBER.fullmatch(text.strip()) is not None
