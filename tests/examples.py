"""Examples that tests of evaluation share."""

from aligner_probe.tasks import Example, Task


def task(*completions, prompt="Q{}: ?", contents=None):
    """A task of these completions; `prompt` is filled with each one's index, `contents` are what they say."""
    contents = contents or [None] * len(completions)
    rows = (
        Example(prompt.format(i), c, content=said)
        for i, (c, said) in enumerate(zip(completions, contents, strict=True))
    )
    return Task("t", "sft", tuple(rows))
