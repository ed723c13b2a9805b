"""What a tokenizer loses of a task: the characters that do not come back from their token ids.

Some tokenizers leave out what they do not know without a sign, some put an unknown token in its place, and some write
another character (a small letter for a capital one, "fi" for its ligature). In all three cases the model never sees
what the text says.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aligner_probe.tasks.chat import Conversation, Prompt
from aligner_probe.tasks.task import Task
from aligner_probe.tasks.templates import fields_of, parse

#: How unknown tokens are written where the tokenizer does not say.
UNKNOWN = ("<unk>", "[UNK]", "<UNK>")
#: Different characters that a sentence names.
SHOWN = 8


@dataclass(frozen=True)
class LostCharacters:
    """The characters of a task that a tokenizer does not give back.

    `characters` are those, with the share of all the task's characters that is lost, the most frequent first. A
    character that comes back in another canonical form of Unicode (NFC, NFD) is not lost. `affected` are the indices of
    the examples that lose a character other than white space, of `n` examples. `example` is a piece of the first such
    text and what comes back of it. `template` is the task's prompt template where its own words lose characters, so
    that every example does; else None.
    """

    characters: dict[str, float]
    affected: tuple[int, ...]
    n: int
    example: tuple[str, str] | None = None
    template: str | None = None

    @property
    def share(self) -> float:
        """The share of all characters that is lost, white space included."""
        return float(sum(self.characters.values()))

    @property
    def visible(self) -> dict[str, float]:
        """The lost characters that are no white space."""
        return {character: share for character, share in self.characters.items() if not character.isspace()}

    @property
    def note(self) -> str:
        """What is lost, in a sentence; empty where nothing is."""
        if not self.characters:
            return ""
        return (
            f"The tokenizer loses {100 * self.share:.2g} % of the characters, {len(self.characters)} different ones "
            f"({shown(self.characters)}): the model never sees them."
        )

    @property
    def said(self) -> str:
        """What is lost and where, on one line, for the output of a command."""
        if not self.characters:
            return "The tokenizer gives back every character of the task."
        if self.example is None:
            return f"{self.note} They are white space."
        text, back = self.example
        return f"{self.note} {len(self.affected)} of {self.n} examples lose some: {text!r} comes back as {back!r}."

    @property
    def way_on(self) -> str:
        """How to go on without these losses, in a sentence."""
        if self.template is None:
            return "Leave these characters out of the task, or take a base whose tokenizer knows them."
        asked = " ".join(f"{{{name}}}" for name in fields_of(self.template))
        return (
            f"The prompt template {self.template!r} itself is written in such characters; give one that the tokenizer "
            f"knows, for instance --prompt-template {asked!r} (prompt_template= in Python), or take another base."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: shares by character, the number of examples that lose some, and an example."""
        return {
            "share": self.share,
            "characters": self.characters,
            "examples": len(self.affected),
            "of": self.n,
            "example": self.example and list(self.example),
            "template": self.template is not None,
        }


def lost_characters(tokenizer: Any, task: Task, ids: Mapping[str, Sequence[int]] | None = None) -> LostCharacters:
    """What the tokenizer loses of a task's prompts and answers; of a conversation, of what its messages say.

    `ids` are token ids by text where they are known already; special tokens in them do no harm. Every text is read
    back as a whole, since a tokenizer may know a character in one word and not in another.
    """
    fields = ("prompt", "completion") if task.kind == "sft" else ("prompt", "chosen", "rejected")
    rows = [[text for name in fields for text in _texts(getattr(example, name))] for example in task.examples]
    times = Counter(text for row in rows for text in row)
    gone = lost_of(tokenizer, list(times), ids)
    shares: Counter[str] = Counter()
    for text, missing in gone.items():
        for character, n in missing.items():
            shares[character] += n * times[text]
    n_characters = sum(len(text) * n for text, n in times.items())
    visible = {text for text, missing in gone.items() if any(not character.isspace() for character in missing)}
    affected = tuple(place for place, row in enumerate(rows) if not visible.isdisjoint(row))
    first = next((text for row in rows for text in row if text in visible), None)
    return LostCharacters(
        characters={character: n / n_characters for character, n in shares.most_common()},
        affected=affected,
        n=len(rows),
        example=None if first is None else _around(first, read_back(tokenizer, first, None)),
        template=task.template if affected and _is_lost(tokenizer, task.template) else None,
    )


def lost_of(
    tokenizer: Any, texts: Sequence[str], ids: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Counter[str]]:
    """The characters that each of some texts loses, and how often; only texts that lose any are there."""
    if ids is None:
        ids = dict(zip(texts, token_ids(tokenizer, texts), strict=True)) if texts else {}
    found: dict[str, Counter[str]] = {}
    for text in texts:
        back = read_back(tokenizer, text, ids[text])
        if back != text and (missing := _missing(text, back)):
            found[text] = missing
    # Decoding may strip spaces at the ends, or put one in the place of several: only a trial between letters tells.
    spaces = sorted({character for missing in found.values() for character in missing if character.isspace()})
    trials = [f"a{space}a" for space in spaces]
    kept = {
        space
        for space, trial, row in zip(spaces, trials, token_ids(tokenizer, trials) if trials else [], strict=True)
        if space in read_back(tokenizer, trial, row)
    }
    left = {text: Counter({c: n for c, n in missing.items() if c not in kept}) for text, missing in found.items()}
    return {text: missing for text, missing in left.items() if missing}


def read_back(tokenizer: Any, text: str, ids: Sequence[int] | None) -> str:
    """The text of a text's token ids, without the unknown and special tokens that the text itself does not hold."""
    if ids is None:
        [ids] = token_ids(tokenizer, [text])
    back = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back == text:
        return back
    for token in dict.fromkeys([*map(str, getattr(tokenizer, "all_special_tokens", ())), *UNKNOWN]):
        if (extra := back.count(token) - text.count(token)) > 0:
            back = back.replace(token, "", extra)
    return back


def shown(characters: Mapping[str, float]) -> str:
    """The first of some characters, as they are named in sentences."""
    return " ".join(repr(character) for character in list(characters)[:SHOWN]) + " …" * (len(characters) > SHOWN)


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text by itself, without the special tokens that the tokenizer puts around texts."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def _texts(prompt: Prompt) -> list[str]:
    """The texts of a prompt: itself, or what the messages of a conversation say."""
    return [message.content for message in prompt.messages] if isinstance(prompt, Conversation) else [prompt]


def _missing(text: str, back: str) -> Counter[str]:
    """The characters that `text` has and `back` lacks. Unicode's composed and decomposed forms count as the same."""
    if Counter(text) - Counter(back):
        return Counter(unicodedata.normalize("NFC", text)) - Counter(unicodedata.normalize("NFC", back))
    return Counter()


def _is_lost(tokenizer: Any, template: str | None) -> bool:
    """Whether the words of a template lose characters other than white space."""
    if template is None:
        return False
    words = [text for text, _ in parse(template) if text.strip()]
    return any(not c.isspace() for missing in lost_of(tokenizer, words).values() for c in missing)


def _around(text: str, back: str, before: int = 12, after: int = 28) -> tuple[str, str]:
    """A short piece of a text and of what comes back of it, around the first place where they differ."""
    text, back = text.strip(), back.strip()
    same = next(
        (place for place, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(map(len, (text, back)))
    )
    start = max(0, same - before)
    return text[start : same + after], back[start : same + after]
