"""Conversations as text: what the chat template of a tokenizer makes of messages.

The template alone writes the text; nothing is put together here. It also says what ends a turn: the first special token
that it writes behind an answer, for instance `<|im_end|>`, `<|eot_id|>` or `<end_of_turn>`. That token ends an answer
when the base model is asked.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeGuard

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.characters import token_ids
from aligner_probe.tasks.chat import Conversation, Message, Prompt, as_dicts

#: A conversation and an answer that show what a template does.
TRIAL, TRIAL_ANSWER = Conversation((Message("user", "Which one?"),)), "This one."
#: What a template is told where it puts thoughts between the prompt and an answer.
WITHOUT_THOUGHTS = {"enable_thinking": False}
#: What a template calls to write the date.
DATE = "strftime_now"
#: The marks around what the assistant says, in templates that have them.
MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
#: How `untemplated_note` begins.
UNTEMPLATED = "This base has a chat template"
#: Characters of a text that a message shows.
SHOWN = 40


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of a tokenizer; `template_of` makes one.

    Attributes:
        tokenizer: The tokenizer, which has the template.
        text: The template itself.
        options: What the template is told besides the messages: nothing, or that the model does not think before it
            answers.
        end: The id of the token that ends a turn; None where the template writes no special token behind an answer.
    """

    tokenizer: Any
    text: str
    options: Mapping[str, Any] = field(default_factory=dict)
    end: int | None = None

    @cached_property
    def sha256(self) -> str:
        """The hash of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def said(self) -> str:
        """The template and what it is told, in a clause."""
        told = "".join(f", {name}={value}" for name, value in self.options.items())
        date = ", which writes the date of the day" if DATE in self.text else ""
        return f"the tokenizer's chat template (sha256 {self.sha256[:12]}{told}){date}"

    @property
    def end_said(self) -> str:
        """The token that ends a turn, in quotes; or that there is none."""
        return "no special token" if self.end is None else repr(self.tokenizer.decode([self.end]))

    @property
    def has_marks(self) -> bool:
        """Whether the template marks what the assistant says ({% generation %})."""
        return MARK.search(self.text) is not None

    def rendered(self, messages: Sequence[Message], where: str = "", *, add_generation_prompt: bool = False) -> str:
        """The text that the template writes for messages; `where` names the row in the error.

        Raises AlignerProbeError where the template refuses the messages.
        """
        try:
            return self.tokenizer.apply_chat_template(
                as_dicts(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **self.options
            )
        except Exception as error:  # whatever a stranger's template raises
            roles = ", ".join(message.role for message in messages)
            raise AlignerProbeError(
                f"{_at(where)}the chat template refuses messages of {roles}: {error or type(error).__name__}; expected "
                "roles that it knows. Take out the message that it refuses (often the system's), or give another "
                "template: --chat-template FILE"
            ) from error

    def prompt_text(self, conversation: Conversation, where: str = "") -> str:
        """The text of a conversation up to where the assistant's answer begins.

        Raises AlignerProbeError where the template refuses the conversation, or leaves out what the system or the user
        says.
        """
        text = self.rendered(conversation.messages, where, add_generation_prompt=True)
        for message in conversation.messages:
            if message.role != "assistant" and message.content.strip() not in text:
                raise AlignerProbeError(
                    f"{_at(where)}the chat template leaves out the message of the {message.role} "
                    f"{message.content[:SHOWN]!r}, or changes it; expected a template that writes it. Take the message "
                    "out, or give another template: --chat-template FILE"
                )
        return text

    def whole_text(self, conversation: Conversation, answer: str, prompt: str, where: str = "") -> str:
        """The text of a conversation with its answer and with what ends the turn.

        It begins with `prompt`, which is the `prompt_text` of the conversation, and goes on with the answer. Raises
        AlignerProbeError where it does not.
        """
        whole = self.rendered((*conversation.messages, Message("assistant", answer)), where)
        if fault := _fault(prompt, whole, answer):
            raise AlignerProbeError(
                f"{_at(where)}the chat template {fault}; expected the text of the prompt, and then the answer. Change "
                "the messages, or give another template: --chat-template FILE"
            )
        return whole

    def marked(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The token ids of messages, and which of them the template marks as said by the assistant."""
        said = self.tokenizer.apply_chat_template(
            as_dicts(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **self.options
        )
        return list(said["input_ids"]), [bool(one) for one in said["assistant_masks"]]


def template_of(tokenizer: Any) -> ChatTemplate:
    """The chat template of a tokenizer, and the token that ends its turns.

    A template that puts an empty thought between the prompt and the answer is told that the model does not think
    (`enable_thinking=False`), so that prompts end where answers begin.

    Raises AlignerProbeError where the tokenizer has no template, where the template fails, and where it has no
    generation prompt: the text of a prompt, then the answer.
    """
    if not has_template(tokenizer):
        raise AlignerProbeError(
            "the tokenizer of this base has no chat template, so conversations cannot be turned into text; expected a "
            "chat model. Give a template (--chat-template FILE, or ap.set_chat_template(model, FILE)), or prompts that "
            "are texts"
        )
    try:
        text = tokenizer.get_chat_template()
    except Exception as error:  # several named templates, none of them the default
        raise AlignerProbeError(
            f"the tokenizer has no chat template that is used by default: {error}; give one: --chat-template FILE, or "
            "ap.set_chat_template(model, FILE)"
        ) from error
    template = ChatTemplate(tokenizer, text)
    faults = []
    for options in ({}, WITHOUT_THOUGHTS):
        told = replace(template, options=options)
        prompt = told.rendered(TRIAL.messages, add_generation_prompt=True)
        whole = told.rendered((*TRIAL.messages, Message("assistant", TRIAL_ANSWER)))
        fault = _fault(prompt, whole, TRIAL_ANSWER)
        if fault is None:
            behind = whole[len(prompt) :].lstrip()[len(TRIAL_ANSWER) :]
            return replace(told, end=_first_special(tokenizer, behind))
        faults.append(fault)
    raise AlignerProbeError(
        f"the chat template has no generation prompt with which answers could be trained: it {faults[0]}; expected the "
        "text of the prompt (add_generation_prompt=True), and then the answer. Give another template: --chat-template "
        "FILE, or ap.set_chat_template(model, FILE)"
    )


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None)) and hasattr(tokenizer, "apply_chat_template")


def are_chat(prompts: Sequence[Prompt]) -> TypeGuard[Sequence[Conversation]]:
    """Whether prompts are conversations. Raises AlignerProbeError where some are and some are texts."""
    kinds = {isinstance(prompt, Conversation) for prompt in prompts}
    if len(kinds) > 1:
        raise AlignerProbeError(
            "some prompts are conversations and others are texts; expected one kind. Ask them in two calls, or make "
            "the texts conversations of one message of the user"
        )
    return kinds == {True}


def untemplated_note(tokenizer: Any, prompts: Sequence[Prompt]) -> str:
    """A sentence where prompts that are texts are asked of a base model that has a chat template; else empty."""
    if not has_template(tokenizer) or are_chat(prompts):
        return ""
    return (
        f"{UNTEMPLATED}, and the prompts are asked without it. To ask them as a user's messages: "
        "--as-chat; to say that this is meant: --chat-template none (ap.set_chat_template(model, None))."
    )


def _fault(prompt: str, whole: str, answer: str) -> str | None:
    """Why the text of a whole conversation does not go on after its prompt with the answer; None where it does."""
    if not whole.startswith(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        return (
            f"changes what was before the answer: {prompt[same : same + SHOWN]!r} in the prompt is "
            f"{whole[same : same + SHOWN]!r} once there is an answer"
        )
    rest = whole[len(prompt) :]
    if not rest.lstrip().startswith(answer.strip()):
        return f"goes on after the prompt with {rest[:SHOWN]!r} and not with the answer {answer.strip()[:SHOWN]!r}"
    return None


def _first_special(tokenizer: Any, text: str) -> int | None:
    """The first special token in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*getattr(tokenizer, "all_special_ids", ()), *(index for index, one in added.items() if one.special)}
    [ids] = token_ids(tokenizer, [text])
    # Some tokenizers add <|im_end|> without calling it special.
    return next((token for token in ids if token in special), next((token for token in ids if token in added), None))


def _at(where: str) -> str:
    return f"{where}: " if where else ""
