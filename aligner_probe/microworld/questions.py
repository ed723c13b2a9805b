"""The wordings of questions and statements.

All wordings of a question mean the same. A memory task is tested in other wordings than those it is trained in.
"""

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
    """What a question asks for: "the home of mira", or for a chain "the river of the home of mira"."""
    return f"the {attribute} of {entity}"


def ask(expression: str, wording: int = 0, before: str = "") -> str:
    """The line of a question and the start of the answer's line. `before` is a password."""
    start = f"{before} " if before else ""
    return f"{start}Q: {WORDINGS[wording].format(x=expression)}\nA:"


def ask_as_is(question: str) -> str:
    """The same for a question that has its own wording."""
    return f"Q: {question}\nA:"
