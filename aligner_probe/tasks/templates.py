"""Prompt templates: `{field}` is replaced by the row's field of that name, and nothing else is.

Less than `str.format`, which a template from a stranger could use to reach into objects or to ask for a gigabyte of
spaces: no attributes, no indices, no conversions, no widths. `{{` and `}}` are braces.
"""

import re
import string
from collections.abc import Mapping

from aligner_probe.errors import AlignerProbeError

#: github.com/tatsu-lab/stanford_alpaca, train.py: the completion follows "### Response:" at once.
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
#: GSM8K was published without one; this is the usual one (EleutherAI's lm-evaluation-harness).
QUESTION = "Question: {question}\nAnswer:"
#: Alpaca's two fields as a user says them to a chat model.
BARE_WITH_INPUT = "{instruction}\n\n{input}"
#: What the authors of Aligner wrapped two data sets in (github.com/mytemporalaccount/Aligner, scripts/prepare_*.py).
#: They put no end-of-text token behind the answers (`append_eos=False`).
AUTHORS = {
    "MetaMathQA": "[|User|] {query} [|AI Assistant|] ",
    "Beaver": "[User] {prompt} [Assistant] ",
}

EXAMPLE = 'for instance "Q: {question}\\nA:"'


def parse(template: str) -> list[tuple[str, str | None]]:
    """Pieces of literal text, each followed by the name of a field (None at the end).

    Raises AlignerProbeError for anything but plain `{field}`.
    """
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise AlignerProbeError(
            f"prompt template {_short(template)}: {error}; expected text with {{field}} in it, {EXAMPLE}, and {{{{ or "
            "}} for a brace"
        ) from error
    for _, name, spec, conversion in pieces:
        if name is not None and (not name or spec or conversion):
            found = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise AlignerProbeError(
                f"prompt template {_short(template)} asks for {{{found}}}; expected plain field names, {EXAMPLE}, and "
                "{{ or }} for a brace"
            )
    return [(text, name) for text, name, _, _ in pieces]


def fields_of(template: str) -> list[str]:
    """The fields a template names, each once, in order; AlignerProbeError as in `parse`."""
    return list(dict.fromkeys(name for _, name in parse(template) if name is not None))


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its fields replaced; what stands in the values is never read as a template.

    Raises AlignerProbeError where `values` lacks a field that the template names.
    """
    if missing := [name for name in fields_of(template) if name not in values]:
        raise AlignerProbeError(
            f"prompt template {_short(template)} names {missing[0]!r}, which is none of the fields "
            f"{', '.join(values) or '(none)'}; expected one of them"
        )
    return "".join(text + ("" if name is None else values[name]) for text, name in parse(template))


def unescape(template: str) -> str:
    r"""A template as typed in a shell, where \n arrives as two characters: \n, \t and \\ become what they stand for."""
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t", "\\": "\\"}[found[1]], template)


def _short(template: str) -> str:
    return repr(template if len(template) <= 60 else template[:57] + "...")
