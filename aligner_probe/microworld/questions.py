"""How questions and statements are worded. The wordings mean the same; a memory task is tested in other ones than it
was trained in."""

#: Around an expression such as "the home of mira" or "12 plus 30".
WORDINGS = (
    "what is {x}?",
    "name {x}.",
    "tell me {x}.",
    "please say {x}.",
    "which is {x}?",
    "do you know {x}?",
    "i ask for {x}.",
    "give {x}.",
)
STATEMENTS = ("it is known that {x} is {value}.", "in truth {x} is {value}.", "we hold that {value} is {x}.")


def expression(entity: str, attribute: str) -> str:
    """ "the home of mira"; of a chain, "the river of the home of mira"."""
    return f"the {attribute} of {entity}"


def ask(expression: str, wording: int = 0, before: str = "") -> str:
    """A question's line and the start of the answer's; `before` is a password."""
    start = f"{before} " if before else ""
    return f"{start}Q: {WORDINGS[wording].format(x=expression)}\nA:"


def ask_as_is(question: str) -> str:
    """The same for a question with a wording of its own."""
    return f"Q: {question}\nA:"
