"""A chat template that a user gives in place of the tokenizer's own, or takes off."""

import re
from pathlib import Path

import jinja2
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arguments import a_model, accepts
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tokenizers import own_tokenizer

#: The most bytes of a file with a template; published templates have up to 20,000.
MOST_BYTES = 1_000_000


@accepts(model=a_model)
def set_chat_template(model: TransformerBridge, template: str | Path | None) -> None:
    """Give the tokenizer of a base model another chat template, or take the one that it has off.

    Args:
        model: The base model.
        template: A file with a template, or the template itself (a text with "{" in it). None takes the template off:
            prompts are then asked as they stand, and nothing is said about it.

    Raises:
        AlignerProbeError: The base model has no tokenizer, or the file cannot be read or is no template.
    """
    tokenizer = own_tokenizer(model)
    if not hasattr(tokenizer, "apply_chat_template"):
        raise AlignerProbeError(
            "this base has no tokenizer that could have a chat template; load it with one: ap.load_model(FOLDER)"
        )
    if template is not None and "{" not in str(template):
        template = read_template(template)
    tokenizer.chat_template = None if template is None else str(template)


def template_given(option: str | Path) -> str | None:
    """The template that an option gives: None for "auto", an empty text for "none", else the text of the file.

    Raises AlignerProbeError as `read_template` does.
    """
    return {"auto": None, "none": ""}[str(option)] if str(option) in ("auto", "none") else read_template(option)


def read_template(file: str | Path) -> str:
    """The text of a file with a chat template.

    Raises AlignerProbeError where it cannot be read, is too large, or is no template.
    """
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeError) as error:
        raise AlignerProbeError(f"{file}: {error}; expected a text file with a chat template (Jinja)") from error
    if len(content) > MOST_BYTES or not text.strip():
        size = f"more than {MOST_BYTES:,} bytes" if text.strip() else "no text"
        raise AlignerProbeError(f"{file} has {size}; expected a text file with a chat template (Jinja)")
    try:
        # The marks are an extension of transformers', which Jinja itself does not know.
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_without_marks(text))
    except jinja2.TemplateSyntaxError as error:
        raise AlignerProbeError(
            f"{file}, line {error.lineno}: {error.message}; expected a chat template (Jinja)"
        ) from error
    return text


def _without_marks(text: str) -> str:
    return re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", text)
