"""A model in a folder as a judge, served by this project's own greedy generation."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.generation import end_tokens, generate_ids
from aligner_probe.judging.asks import Answer, Ask, Told
from aligner_probe.models import load_model
from aligner_probe.tasks.chat import Conversation, Prompt
from aligner_probe.tasks.chat_template import has_template, template_of
from aligner_probe.tasks.tokenizing import decoded, prompt_ids
from aligner_probe.tokenizers import own_tokenizer

#: The most tokens of an answer: an explanation and a verdict.
MAX_NEW_TOKENS = 512
#: What a model without a chat template goes on from.
VERDICT = "\n\n[Explanation and verdict]\n"
#: Files that decide what a model answers.
WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model")


class LocalModel:
    """A base model or chat model in a folder.

    Args:
        folder: A Hugging Face model folder.
        dtype: Precision in which the weights are read.
        max_new_tokens: The most tokens of an answer; an answer without an end by then is cut off.
        batch_size: Prompts that are run together. Each batch is on disk before the next one begins.
        device: Where the model runs, for instance "cuda"; None is the CPU.

    Raises:
        AlignerProbeError: The folder is none of a model.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str = "float32",
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = 8,
        device: str | None = None,
    ):
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise AlignerProbeError(
                f"{folder} is no judge: it is no folder with a config.json; expected a model's folder, endpoint:MODEL, "
                "or rules"
            )
        self.dtype, self.max_new_tokens, self.batch_size, self.device = dtype, max_new_tokens, batch_size, device

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def identity(self) -> dict[str, Any]:
        """The folder's name and the size and time of each of its files, so that nothing needs to be loaded."""
        files = sorted({file for pattern in WEIGHTS for file in self.folder.glob(pattern)})
        stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        settings = {"dtype": self.dtype, "max_new_tokens": self.max_new_tokens}
        return {"folder": self.name, "files": stamps, "settings": settings}

    @cached_property
    def model(self) -> TransformerBridge:
        """The model, which is read when it is first asked: calibration and evaluation have the same one."""
        return load_model(self.folder, dtype=self.dtype, device=self.device)

    def answer(self, asks: Sequence[Ask], told: Told) -> None:
        """Answer all asks in batches, the shortest prompts first; see `Judge.answer`.

        A prompt that leaves no room for an answer is missing. Raises AlignerProbeError where the folder has no
        tokenizer, or no model that can be read.
        """
        model = self.model
        tokenizer = own_tokenizer(model)
        if tokenizer is None:
            raise AlignerProbeError(f"{self.folder} has no tokenizer, so it cannot judge; copy it into the folder")
        rows = [_ids(tokenizer, ask) for ask in asks]
        room = model.cfg.n_ctx - self.max_new_tokens
        for index, row in enumerate(rows):
            if len(row) > room:
                reason = f"the prompt has {len(row)} tokens; with {self.max_new_tokens} new ones {max(room, 0)} fit"
                told(index, Answer("missing", reason))
        fitting = sorted((i for i, row in enumerate(rows) if len(row) <= room), key=lambda i: len(rows[i]))
        for start in range(0, len(fitting), self.batch_size):
            chosen = fitting[start : start + self.batch_size]
            for index, answer in zip(chosen, self._answers(model, [rows[i] for i in chosen]), strict=True):
                told(index, answer)

    def _answers(self, model: TransformerBridge, rows: Sequence[Sequence[int]]) -> list[Answer]:
        tokenizer = model.tokenizer
        ends = end_tokens(model)
        if has_template(tokenizer) and (turn := template_of(tokenizer).end) is not None:
            ends = ends | {turn}
        new = generate_ids(
            model,
            rows,
            max_new_tokens=self.max_new_tokens,
            ending=lambda ids: ids[-1] in ends,
            batch_size=self.batch_size,
        )
        return [
            Answer("complete" if ids[-1] in ends else "cut off", decoded(tokenizer, ids), self.name, way="pattern")
            for ids in new
        ]


def _ids(tokenizer: Any, ask: Ask) -> list[int]:
    """The prompt of an ask: by the chat template where there is one. Some templates have no system message."""
    texts = dict(ask.messages)
    merged = "\n\n".join(text for _, text in ask.messages)
    if not has_template(tokenizer):
        return prompt_ids(tokenizer, [merged + VERDICT])[0]
    if "system" in texts:
        messages = [{"role": role, "content": text} for role, text in ask.messages]
        try:
            return _chat_ids(tokenizer, Conversation(messages))
        except AlignerProbeError:
            pass  # some templates, for instance Gemma's, refuse a system message
    return _chat_ids(tokenizer, Conversation([{"role": "user", "content": merged}]))


def _chat_ids(tokenizer: Any, conversation: Prompt) -> list[int]:
    return prompt_ids(tokenizer, [conversation])[0]
