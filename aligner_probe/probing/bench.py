"""What every cell of a probe shares: the base, the parts of the task, how it is scored, what is asked beside it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.evaluation import MeanLogLikelihood, Scores, score_task
from aligner_probe.evaluation.content import words
from aligner_probe.evaluation.guessing import Scorer
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.evaluation.scoring import SPARE_TOKENS, default_stop
from aligner_probe.models import load_model
from aligner_probe.probing.endings import ended
from aligner_probe.probing.formats import format_scores, has_format, separable
from aligner_probe.probing.plan import Budget
from aligner_probe.probing.prompts import Prompting
from aligner_probe.probing.splitting import Parts
from aligner_probe.tasks.characters import LostCharacters, lost_characters
from aligner_probe.tasks.encoding import prompt_ids
from aligner_probe.tasks.task import Example, Task

#: Scores by kind ("strict", "content", "format", "likelihood"), a number an item.
ByKind = dict[str, list[float]]
ZERO_SHOT = Prompting("zero-shot")


@dataclass(frozen=True)
class Bench:
    """Shared by all cells; the model is loaded when it is first asked for, in each process by itself.

    `base` is what `load_model` takes by name. `loaded` is a model that is there already, for one process. `off_domain`
    are items of another domain, on which knowledge kept is measured. `ending` ends answers (`endings.py`); an empty one
    is the base's end token.
    """

    base: str
    parts: Parts
    scorer: Scorer
    budget: Budget
    off_domain: Task | None = None
    own_prompt: str | None = None
    ending: str = ""
    dtype: str = "float32"
    device: str | None = None
    loaded: TransformerBridge | None = None

    @cached_property
    def model(self) -> TransformerBridge:
        if self.loaded is not None:
            return self.loaded
        return load_model(self.base, dtype=self.dtype, device=self.device)

    @cached_property
    def lost(self) -> LostCharacters:
        """The characters that the base's tokenizer loses of all that is trained, asked and wanted."""
        return lost_characters(self.model.tokenizer, self.parts.whole)

    @cached_property
    def has_formats(self) -> bool:
        """Whether form and content can be told apart in all that is asked."""
        parts = (self.parts.validation, self.parts.test)
        return isinstance(self.scorer, TextScorer) and all(separable(part.examples) for part in parts)

    def asked(self, task: Task, prompting: Prompting = ZERO_SHOT) -> tuple[ByKind, list[str]]:
        """Scores of every item under what is attached, and the completions (empty where none are generated)."""
        found = self._scores(task, prompting)
        scores = {which: found.values(which).tolist() for which in ("strict", "content")}
        if self.has_formats and found.completions is not None:
            scores["format"] = format_scores(found.completions, task.examples).tolist()
        return scores, list(found.completions or ())

    def likelihoods(self, task: Task, prompting: Prompting = ZERO_SHOT) -> list[float]:
        """Mean log-probability a token of each reference and what ends it, in nats."""
        return self._log_likelihoods(_prompted(task, prompting)).strict.tolist()

    def as_trained(self, task: Task) -> Task:
        """The task with what ends its completions, where that is no token."""
        return ended(task, self.ending)

    def room(self, task: Task, positions: int = 0) -> int:
        """Tokens that a prompt may have beside the task's longest answer and an adapter's own positions."""
        ids = self.model.tokenizer([example.completion for example in task.examples], add_special_tokens=False)
        return self.model.cfg.n_ctx - positions - max(map(len, ids["input_ids"])) - SPARE_TOKENS

    def askable(self, task: Task, positions: int = 0) -> Task | None:
        """Those of a task's examples whose prompts fit; None where no one does."""
        room, ids = self.room(task, positions), prompt_ids(self.model.tokenizer, task.prompts)
        fitting = tuple(one for one, row in zip(task.examples, ids, strict=True) if len(row) <= room)
        return replace(task, examples=fitting) if fitting else None

    def constant(self) -> tuple[str | None, ByKind]:
        """The one answer to everything that scores best in training, and its scores in the test.

        Where likelihoods are the score, an answer that nobody says has none.
        """
        if isinstance(self.scorer, MeanLogLikelihood):
            return None, {}
        answers = list(dict.fromkeys(example.completion for example in self.parts.train.examples))
        train = self.parts.train.examples
        # Only a frequent answer can be the best; the first of them are enough.
        frequent = sorted(answers, key=lambda a: -sum(e.completion == a for e in train))[:10]
        best = max(frequent, key=lambda answer: float(np.mean(self._constant(answer, train)["strict"])))
        return best, self._constant(best, self.parts.test.examples)

    def full_marks(self) -> list[float] | None:
        """What the right answer to each test item scores strictly; None for likelihoods, which have no right one."""
        if isinstance(self.scorer, MeanLogLikelihood):
            return None
        examples = self.parts.test.examples
        if not isinstance(self.scorer, TextScorer):
            return [1.0] * len(examples)
        return self.scorer.score([one.completion for one in examples], examples).values("strict").tolist()

    def _constant(self, answer: str, examples: Sequence[Example]) -> ByKind:
        if isinstance(self.scorer, TextScorer):
            found = self.scorer.score([answer.strip()] * len(examples), examples)
            return {which: found.values(which).tolist() for which in ("strict", "content")}
        same = [float(example.completion == answer) for example in examples]
        return {"strict": same, "content": same}

    def kept(self) -> ByKind:
        """Content and plain form of off-domain answers under what is attached; nothing where there are no items."""
        if self.off_domain is None:
            return {}
        task = first(self.off_domain, self.budget.n_off_domain)
        found = score_task(self.model, task, "exact", stop=("\n",))
        form = [plain_form(text, example) for text, example in zip(found.completions, task.examples, strict=True)]
        return {"content": found.content.tolist(), "format": form}

    def _scores(self, task: Task, prompting: Prompting) -> Scores:
        if isinstance(self.scorer, MeanLogLikelihood):
            return self._log_likelihoods(_prompted(task, prompting))
        stop = default_stop(task) or ((prompting.separator,) if prompting.n_shots else ())
        stop += (self.ending,) if self.ending else ()
        return score_task(self.model, _prompted(task, prompting), self.scorer, stop=stop)

    def _log_likelihoods(self, task: Task) -> Scores:
        return MeanLogLikelihood(append_eos=not self.ending).score(self.model, self.as_trained(task).examples)


def plain_form(text: str, example: Example) -> float:
    """Whether an answer has the reference's own form: as many words, and the same around the content."""
    if example.content is None:
        return float(len(words(text)) == len(words(example.completion)))
    return float(len(words(text)) == len(words(example.completion)) and has_format(text, example))


def first(task: Task, n: int) -> Task:
    """At most `n` examples, evenly from the whole."""
    places = np.unique(np.linspace(0, len(task) - 1, min(n, len(task))).round().astype(int))
    return replace(task, examples=tuple(task.examples[place] for place in places))


def shuffled(task: Task, by_group: bool, seed: int) -> Task:
    """The same prompts with one another's completions: a fact's wordings all get the same wrong one, if `by_group`.

    No unit keeps its own place (a rotation of a random order).
    """
    examples = task.examples
    names = [example.group if by_group else place for place, example in enumerate(examples)]
    units = list(dict.fromkeys(names))
    random.Random(f"shuffled {seed}").shuffle(units)
    answers = {}
    for name, example in zip(names, examples, strict=True):
        answers.setdefault(name, example)
    instead = dict(zip(units, [*units[1:], units[0]], strict=True))
    made = []
    for name, example in zip(names, examples, strict=True):
        other = answers[instead[name]]
        made.append(replace(example, completion=other.completion, content=other.content))
    return replace(task, name=f"{task.name}, shuffled", examples=tuple(made), sha256="")


def _prompted(task: Task, prompting: Prompting) -> Task:
    return replace(task, examples=tuple(replace(one, prompt=prompting(one)) for one in task.examples))
