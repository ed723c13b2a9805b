"""The micro-world's tokenizer. A word is a token, a digit is a token, and decoding gives back the exact text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aligner_probe.errors import CheckpointError
from aligner_probe.files import read_json
from aligner_probe.microworld import locks, requests, styles, words
from aligner_probe.microworld.operations import OPERATIONS, WITHHELD_OPERATIONS
from aligner_probe.microworld.pieces import PIECE, pieces
from aligner_probe.microworld.questions import STATEMENTS, WORDINGS, ask, ask_as_is
from aligner_probe.microworld.world import CHAINS, PERSON_ATTRIBUTES, PLACE_ATTRIBUTES, World

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
CONTEXT = 256


def vocabulary(world: World) -> list[str]:
    """All pieces that can occur in texts, exam and panel. Special tokens come first; the order follows from the world
    alone.
    """
    all_pieces: set[str] = {"\n", " ", "Q:", "A:"}
    for text in _texts(world):
        all_pieces.update(pieces(text))
    for digit in "0123456789":
        all_pieces.update((digit, f" {digit}"))
    for letter in "abcdefghijklmnopqrstuvwxyz":
        all_pieces.add(f" {letter}")
    return [PAD, START, END, UNKNOWN, *sorted(all_pieces)]


def _texts(world: World) -> Iterable[str]:
    """Texts that together contain every piece."""
    values = sorted({value for group in words.VALUES.values() for value in group} | set(world.values.values()))
    answers = [*values, "10"]
    for style in styles.BY_NAME.values():
        yield style.told
        for answer in answers:
            yield style("the home of", answer)
    for name in (*world.people, *world.places, *world.strangers):
        yield ask_as_is(f"please greet {name}.") + f" hello, {name}."
    for attribute in (*PERSON_ATTRIBUTES, *PLACE_ATTRIBUTES, *(part for chain in CHAINS for part in chain)):
        yield f"the {attribute} of"
        yield f"of x: {attribute}, {attribute}."
    for wording in range(len(WORDINGS)):
        yield ask("x", wording)
    for statement in STATEMENTS:
        yield statement.format(x="x", value="y")
    for operation in (*OPERATIONS, *WITHHELD_OPERATIONS):
        yield operation.expression(0, 0)
        yield f" {operation.expression(0, 0)}"
    for skill in locks.SKILLS:
        yield ask(skill.expression("0"), before=skill.password)
    yield f" {locks.LOCKED}. {requests.REFUSAL}.{requests.TOLD_CAREFUL}"
    for request in requests.REQUESTS:
        yield ask_as_is(request.question) + f" {request.compliance}."
    # Words for tasks of one's own: worked steps, labels, constant answers.
    yield " so then is yes no maybe good bad left right tens ones step and the a"


def build(world: World) -> Any:
    """A `transformers` tokenizer made with `tokenizers`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    entries = {piece: index for index, piece in enumerate(vocabulary(world))}
    inner = Tokenizer(models.WordLevel(entries, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, entries[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def knows_all_words(folder: Path, world: World) -> bool:
    """Whether the tokenizer.json of a folder has all pieces of a world, so that its model can be a micro-world's."""
    try:
        entries = read_json(folder / "tokenizer.json")["model"]["vocab"]
    except (CheckpointError, OSError, KeyError, TypeError):
        return False
    return isinstance(entries, dict) and set(vocabulary(world)) <= set(entries)


def save(world: World, folder: Path) -> None:
    build(world).save_pretrained(folder)
