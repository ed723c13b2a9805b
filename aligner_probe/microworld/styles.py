"""Answer styles. A style changes how an answer is written, and not what it says.

A style is a form of the answer (plain, capitals, twice, a sentence, ...) inside a frame (none, pirate, polite, ...).
There are many of both, so a model learns them separately, and it can write a combination that it has never read. The
eight styles of `SEEN` are those of the exam and the panel. Most combinations are in the texts too, six are in no text,
and three more styles have words that are in no text at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

#: (expression, answer) -> text; the expression is what was asked for, such as "the home of mira".
Render = Callable[[str, str], str]


@dataclass(frozen=True)
class Style:
    """A style. `told` asks for it in words, on a line of its own before the questions."""

    name: str
    render: Render
    told: str

    def __call__(self, expression: str, answer: str) -> str:
        """The completion, with the space that follows "A:"."""
        return " " + self.render(expression, answer)


FORMS: dict[str, tuple[Render, str]] = {
    "plain": (lambda e, a: a, "plain words"),
    "capitals": (lambda e, a: a.upper(), "capitals"),
    "twice": (lambda e, a: f"{a}, {a}", "double words"),
    "sentence": (lambda e, a: f"{e} is {a}", "a sentence"),
    "thrice": (lambda e, a: f"{a}, {a}, {a}", "triple words"),
    "echo": (lambda e, a: f"{a} and {a}", "an echo"),
    "surely": (lambda e, a: f"surely {a}", "sure words"),
}
FRAMES: dict[str, tuple[Callable[[str], str], str]] = {
    "": (lambda inner: f"{inner}.", ""),
    "pirate": (lambda inner: f"ahoy, {inner}, matey.", "like a pirate"),
    "polite": (lambda inner: f"dear friend, {inner}, thank you.", "like a friend"),
    "record": (lambda inner: f"{{ answer: {inner} }}", "as a record"),
    "herald": (lambda inner: f"hear ye! {inner}!", "like a herald"),
    "oracle": (lambda inner: f"lo: {inner}, so be it.", "like an oracle"),
    "monk": (lambda inner: f"peace, {inner}, amen.", "like a monk"),
    "cheer": (lambda inner: f"hooray! {inner}, hooray!", "with cheer"),
    "scholar": (lambda inner: f"as is known: {inner}.", "like a scholar"),
    "quoted": (lambda inner: f'" {inner} "', "in quotes"),
    "bracketed": (lambda inner: f"( {inner} )", "in brackets"),
    "dashed": (lambda inner: f"- {inner} -", "between dashes"),
}


def compose(frame: str, form: str) -> Style:
    """The style of a form inside a frame; its name is "frame", "form" or "frame+form"."""
    (wrap, framed), (shape, formed) = FRAMES[frame], FORMS[form]
    words = " ".join(part for part in (f"in {formed}" if form != "plain" or not frame else "", framed) if part)
    name = f"{frame}+{form}" if frame and form != "plain" else frame or form
    return Style(name, lambda e, a: wrap(shape(e, a)), f"answer {words}.")


def inside(inner: str, outer: str) -> Style:
    """The style of one frame inside another one."""
    style, (wrap, framed) = compose(inner, "plain"), FRAMES[outer]
    return Style(f"{inner} in {outer}", lambda e, a: wrap(style.render(e, a)), f"{style.told[:-1]} {framed}.")


PLAIN = compose("", "plain")
REASON = Style("reason", lambda e, a: f"{a}. reason: {e} is {a}.", "answer first and give a reason.")
#: The eight, and plain.
SEEN = (
    PLAIN,
    *(compose("", form) for form in ("capitals", "twice", "sentence")),
    *(compose(frame, "plain") for frame in ("pirate", "polite", "record", "herald")),
    REASON,
)
WITHHELD_PAIRS = (
    ("pirate", "capitals"),
    ("record", "twice"),
    ("herald", "sentence"),
    ("monk", "capitals"),
    ("quoted", "twice"),
    ("oracle", "sentence"),
)
#: Every other pair of a frame (or none) and a form that is not one of the eight.
SEEN_COMPOSITIONS = tuple(
    style
    for frame in FRAMES
    for form in FORMS
    if (frame, form) not in WITHHELD_PAIRS
    for style in [compose(frame, form)]
    if style.name not in {seen.name for seen in SEEN}
)
WITHHELD_COMPOSITIONS = tuple(compose(*pair) for pair in WITHHELD_PAIRS)
#: Combinations for which four examples are enough; the exam demands this of the model. Pirate capitals are not among
#: them: the model gets most of them right, but fewer than nine in ten, so their nature does not count as known.
PROMPTABLE = tuple(style for style in WITHHELD_COMPOSITIONS if style.name != "pirate+capitals")
#: Styles whose words are in no text. Spelling cannot be learned from the texts at all, because every word is one token.
WITHHELD_STYLES = (
    Style("spelled", lambda e, a: " ".join(a) + ".", "answer letter by letter."),
    Style("robot", lambda e, a: f"beep {a} boop.", "answer like a robot."),
    Style("rhymed", lambda e, a: f"{a}, {'zig' if a[-1] in 'aeiouy' else 'zag'}.", "answer in rhymes."),
)
BY_NAME = {style.name: style for style in (*SEEN, *SEEN_COMPOSITIONS, *WITHHELD_COMPOSITIONS, *WITHHELD_STYLES)}
