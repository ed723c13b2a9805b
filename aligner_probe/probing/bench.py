"""What all cells of a probe share: the base model, the parts of the task, the scorer, and the off-domain items."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.evaluation import MeanLogLikelihood, Scores, score_task
from aligner_probe.evaluation.content import words
from aligner_probe.evaluation.guessing import Scorer, sft_examples
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.evaluation.scoring import SPARE_TOKENS, default_stop, ends_turns
from aligner_probe.probing.answer_form import format_scores, has_format, separable
from aligner_probe.probing.endings import ended, line_end
from aligner_probe.probing.plan import Budget
from aligner_probe.probing.prompts import Prompting
from aligner_probe.probing.splitting import Parts
from aligner_probe.study import Bench
from aligner_probe.tasks.characters import LostCharacters, lost_characters
from aligner_probe.tasks.chat import Conversation, Prompt
from aligner_probe.tasks.chat_template import template_of
from aligner_probe.tasks.given_template import set_chat_template
from aligner_probe.tasks.task import Example, Task
from aligner_probe.tasks.tokenizing import prompt_ids

#: Scores by kind of score ("strict", "content", "format", "likelihood"), one value an item.
Scored = dict[str, list[float]]
ZERO_SHOT = Prompting("zero-shot")


@dataclass(frozen=True)
class ProbeBench(Bench):
    """The base model of a probe, and what its cells train on and ask.

    Args:
        parts: the training, validation and test part of the task.
        scorer: how completions are scored.
        budget: how much is trained and asked.
        off_domain: items of another domain, on which it is measured what knowledge is kept (K); None for none.
        own_prompt: the user's own prompt, one of those that are tried without training.
        ending: a text that ends answers (`endings.py`); empty for the base's end token, in conversations for the token
            that ends a turn.
        chat_template: a template in place of the tokenizer's own; empty to take that off, None to keep it.
        describe: instructions in words, which are tried without training.
    """

    base: str
    parts: Parts
    scorer: Scorer
    budget: Budget
    off_domain: Task | None = None
    own_prompt: str | None = None
    ending: str = ""
    chat_template: str | None = None
    describe: tuple[str, ...] = ()

    def load(self, dtype: str) -> TransformerBridge:
        """Load the base model, with the chat template that was given."""
        model = super().load(dtype)
        if self.chat_template is not None:
            set_chat_template(model, self.chat_template or None)
        return model

    def shown(self, prompt: Prompt) -> str:
        """A prompt as the base model sees it."""
        return template_of(self.model.tokenizer).prompt_text(prompt) if isinstance(prompt, Conversation) else prompt

    @property
    def separator(self) -> str:
        """The text after each example in a prompt. Conversations use none."""
        if ends_turns(self.parts.whole, self.model.tokenizer):
            return "\n"
        return line_end(sft_examples(self.as_trained(self.parts.whole)))

    @cached_property
    def lost(self) -> LostCharacters:
        """The characters that the base's tokenizer loses of all that is trained, asked and wanted."""
        return lost_characters(self.model.tokenizer, self.parts.whole)

    @cached_property
    def has_formats(self) -> bool:
        """Whether form and content can be told apart in all that is asked."""
        parts = (self.parts.validation, self.parts.test)
        return isinstance(self.scorer, TextScorer) and all(separable(sft_examples(part)) for part in parts)

    def asked(self, task: Task, prompting: Prompting = ZERO_SHOT) -> tuple[Scored, list[str]]:
        """The scores of every item with the attached adapters, and the completions (empty where none are generated)."""
        scored = self._scores(task, prompting)
        scores = {which: scored.values(which).tolist() for which in ("strict", "content")}
        if self.has_formats and scored.completions is not None:
            scores["format"] = format_scores(scored.completions, sft_examples(task)).tolist()
        return scores, list(scored.completions or ())

    def likelihoods(self, task: Task, prompting: Prompting = ZERO_SHOT) -> list[float]:
        """For each item the mean log-probability, in nats a token, of the expected answer and what ends it."""
        return self._log_likelihoods(_prompted(task, prompting)).strict.tolist()

    def as_trained(self, task: Task) -> Task:
        """The task as it is trained: each completion with `ending` at its end."""
        return ended(task, self.ending)

    def room(self, task: Task, positions: int = 0) -> int:
        """The most tokens of a prompt that leave room for the longest answer and for `positions` of an adapter."""
        ids = self.model.tokenizer([example.completion for example in sft_examples(task)], add_special_tokens=False)
        return self.model.cfg.n_ctx - positions - max(map(len, ids["input_ids"])) - SPARE_TOKENS

    def askable(self, task: Task, positions: int = 0) -> Task | None:
        """The task with the examples whose prompts fit into the context; None where no prompt fits."""
        room, ids = self.room(task, positions), prompt_ids(self.model.tokenizer, task.prompts)
        fitting = tuple(one for one, row in zip(task.examples, ids, strict=True) if len(row) <= room)
        return replace(task, examples=fitting) if fitting else None

    def constant(self) -> tuple[str | None, Scored]:
        """The constant answer that scores best on the training part, and its scores on the test part.

        Likelihoods are scores of the expected answers, so there a constant answer has no score: None and no scores.
        """
        if isinstance(self.scorer, MeanLogLikelihood):
            return None, {}
        train = sft_examples(self.parts.train)
        answers = list(dict.fromkeys(example.completion for example in train))
        # Only a frequent answer can be the best; the first of them are enough.
        frequent = sorted(answers, key=lambda a: -sum(e.completion == a for e in train))[:10]
        best = max(frequent, key=lambda answer: float(np.mean(self._constant(answer, train)["strict"])))
        return best, self._constant(best, sft_examples(self.parts.test))

    def full_marks(self) -> list[float] | None:
        """The strict score of the expected answer to each test item; None for likelihoods, which have no best value."""
        if isinstance(self.scorer, MeanLogLikelihood):
            return None
        examples = sft_examples(self.parts.test)
        if not isinstance(self.scorer, TextScorer):
            return [1.0] * len(examples)
        return self.scorer.score([one.completion for one in examples], examples).values("strict").tolist()

    def _constant(self, answer: str, examples: Sequence[Example]) -> Scored:
        if isinstance(self.scorer, TextScorer):
            scored = self.scorer.score([answer.strip()] * len(examples), examples)
            return {which: scored.values(which).tolist() for which in ("strict", "content")}
        same = [float(example.completion == answer) for example in examples]
        return {"strict": same, "content": same}

    def kept(self, prompting: Prompting = ZERO_SHOT) -> Scored:
        """Scores of the off-domain answers with the attached adapters: "content", and "format" for the plain form.

        With `prompting` the items are asked in that way, for instance after examples of the task. Empty where there
        are no off-domain items.
        """
        if self.off_domain is None:
            return {}
        task = first(self.off_domain, self.budget.n_off_domain)
        scored = score_task(self.model, _prompted(task, prompting), "exact", stop=("\n",))
        said = zip(scored.completions or (), sft_examples(task), strict=True)
        form = [plain_form(text, example) for text, example in said]
        return {"content": scored.content.tolist(), "format": form}

    def _scores(self, task: Task, prompting: Prompting) -> Scores:
        if isinstance(self.scorer, MeanLogLikelihood):
            return self._log_likelihoods(_prompted(task, prompting))
        tokenizer = self.model.tokenizer
        stop = default_stop(task, tokenizer)
        if not stop and prompting.n_shots and not ends_turns(task, tokenizer):
            stop = (prompting.separator,)
        stop += (self.ending,) if self.ending else ()
        return score_task(self.model, _prompted(task, prompting), self.scorer, stop=stop)

    def _log_likelihoods(self, task: Task) -> Scores:
        return MeanLogLikelihood(append_eos=not self.ending).score(self.model, sft_examples(self.as_trained(task)))


def plain_form(text: str, example: Example) -> float:
    """1 where an answer has the form of the expected one: as many words, and the same words around the content."""
    if example.content is None:
        return float(len(words(text)) == len(words(example.completion)))
    return float(len(words(text)) == len(words(example.completion)) and has_format(text, example))


def first(task: Task, n: int) -> Task:
    """The task with at most `n` of its examples, evenly spaced over the whole."""
    indices = np.unique(np.linspace(0, len(task) - 1, min(n, len(task))).round().astype(int))
    return replace(task, examples=tuple(task.examples[index] for index in indices))


def shuffled(task: Task, by_group: bool, seed: int) -> Task:
    """The task with its completions exchanged between prompts, so that no prompt tells its answer.

    With `by_group`, groups exchange them: all prompts of a group get the completion of one other group. The exchange
    is a rotation of a random order, so nothing keeps its own completion unless another one has the same text.
    """
    examples, names = task.examples, _units(task, by_group)
    units = list(dict.fromkeys(names))
    random.Random(f"shuffled {seed}").shuffle(units)
    answers = {}
    for name, example in zip(names, examples, strict=True):
        answers.setdefault(name, example)
    instead = dict(zip(units, [*units[1:], units[0]], strict=True))
    exchanged = []
    for name, example in zip(names, examples, strict=True):
        other = answers[instead[name]]
        exchanged.append(replace(example, completion=other.completion, content=other.content))
    return replace(task, name=f"{task.name}, shuffled", examples=tuple(exchanged), sha256="")


def few(task: Task, n: int, by_group: bool, seed: int) -> Task:
    """The task with `n` of its examples, drawn by a seed, in their order; with `by_group`, all examples of `n` groups.

    A larger number has all the examples of a smaller one. The whole task, where it has no more.
    """
    names = _units(task, by_group)
    units = list(dict.fromkeys(names))
    if len(units) <= n:
        return task
    random.Random(f"few {seed}").shuffle(units)
    chosen = set(units[:n])
    examples = tuple(example for name, example in zip(names, task.examples, strict=True) if name in chosen)
    return replace(task, name=f"{task.name}, {n} of {len(units)}", examples=examples, sha256="")


def _units(task: Task, by_group: bool) -> list[str | int | None]:
    """For each example what it belongs to: its group, or itself."""
    return [example.group if by_group else index for index, example in enumerate(task.examples)]


def _prompted(task: Task, prompting: Prompting) -> Task:
    return replace(task, examples=tuple(replace(one, prompt=prompting(one)) for one in sft_examples(task)))
