"""What one training begins with: what the user gives for it, and the same made ready for the first step.

Training(adapter=adapter, task=task)      # given by the user
Inputs(model, training)                   # checked, encoded, every option of the recipe settled
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.arguments import accepts, several_of
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import embedding_rows
from aligner_probe.tasks.encoding import IGNORED, encode
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.memory import MemoryEstimate, estimate_memory
from aligner_probe.training.order import Order
from aligner_probe.training.provenance import EncodedTask, tokens_hash
from aligner_probe.training.rates import default_rate
from aligner_probe.training.recipe import FEWEST_TOKENS, Recipe, one_recipe
from aligner_probe.training.recipe import recipe as named_recipe

several_callbacks = several_of(Callback, "a list of callbacks, each of a class derived from Callback")


@accepts(adapter=one_adapter, task=one_task, validation=one_task, recipe=one_recipe, callbacks=several_callbacks)
@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """One of the trainings of `fit_together`: the arguments of `fit` that belong to one adapter.

    Args:
        adapter: the adapter whose parameters are trained.
        task: the examples it is trained on.
        validation: examples that are not trained on; without them training does not stop early.
        recipe: how it is trained; by default `recipe("corrected")`.
        callbacks: objects that are told how the training goes on.
    """

    adapter: Adapter
    task: Task
    validation: Task | None = None
    recipe: Recipe | None = None
    callbacks: Sequence[Callback] = ()


class Inputs:
    """A training that is ready to be planned: its adapter, its encoded examples and its settled recipe.

    The adapter's parameters are converted to the recipe's precision. Raises AlignerProbeError where the adapter is of
    another model or has parameters that are not finite, where the base model has no tokenizer, and where an example
    does not fit the context.
    """

    def __init__(self, model: TransformerBridge, training: Training):
        if training.adapter.model is not model:
            raise AlignerProbeError("this adapter was made for another model object; make it, or load it, for this one")
        self.model, self.adapter, self.callbacks = model, training.adapter, training.callbacks
        as_given = training.recipe or named_recipe("corrected", training.task.kind)
        self.task = self._encoded(training.task, as_given)
        self.validation = None if training.validation is None else self._encoded(training.validation, as_given)
        self.n_examples = len(self.task.encoded)
        #: Learning rate and length are never open here: they follow from the method and the number of examples.
        self.recipe = as_given.settled(self.n_examples, default_rate(self.adapter, training.task.kind))
        self._convert_parameters()
        self.order = Order(self.recipe, self.n_examples)
        self.n_steps = self.recipe.total_steps(self.n_examples)

    def _convert_parameters(self) -> None:
        adapter = self.adapter
        if self.recipe.precision == "bf16-true":
            adapter.to(torch.bfloat16)
        elif not adapter.keeps_base_dtype:
            adapter.to(torch.promote_types(torch.float32, next(adapter.parameters()).dtype))
        for name, p in adapter.named_parameters():
            if not torch.isfinite(p).all():
                raise AlignerProbeError(
                    f"{name} of this {adapter.method} has numbers that are not finite before training; expected "
                    "finite ones: make the adapter with other options, or load another"
                )

    def _encoded(self, task: Task, recipe: Recipe) -> EncodedTask:
        tokenizer = own_tokenizer(self.model)
        if tokenizer is None:
            raise AlignerProbeError("this base has no tokenizer, so there are no tokens to train on; load it with one")
        room = self.model.cfg.n_ctx - self.adapter.n_positions
        if self.adapter.n_positions and room < FEWEST_TOKENS:
            raise AlignerProbeError(
                f"{self.adapter.n_positions} tokens of {self.adapter.method} in a context of {self.model.cfg.n_ctx} "
                f"leave no room for a prompt and a completion; expected at most {self.model.cfg.n_ctx - FEWEST_TOKENS} "
                "(n_tokens=, --n-tokens)"
            )
        longest = recipe.max_length or room
        if longest > room:
            taken = f", {self.adapter.n_positions} of them the adapter's own" * bool(self.adapter.n_positions)
            raise AlignerProbeError(
                f"max_length {longest} on a base whose context is {self.model.cfg.n_ctx} tokens{taken}; expected at "
                f"most {room}"
            )
        encoded = encode(
            task,
            tokenizer,
            max_length=longest,
            mask_prompt=recipe.mask_prompt,
            overlong=recipe.overlong,
            append_eos=recipe.append_eos,
            train_on=recipe.train_on,
            d_vocab=embedding_rows(self.model),
        )
        return EncodedTask(task, encoded, tokens_hash(encoded))

    @property
    def schedule(self) -> str:
        """Learning rate, length and validation in a sentence."""
        return self.recipe.described(self.n_examples, validated=self.validation is not None)

    @property
    def passes(self) -> float:
        """How often each example is trained on, on average."""
        assert self.recipe.batch_size is not None, "the recipe is settled"
        return self.n_steps * self.recipe.batch_size / self.n_examples

    def memory(self, pos: int, checkpoint: bool) -> MemoryEstimate:
        """The memory that a step takes for this training's own rows of `pos` tokens, and for the base model."""
        preference = self.task.task.kind == "preference"
        encoded = self.task.encoded
        rows = [*encoded.sequences, *(encoded.rejected or ())]
        labels = max(int((row.labels[1:] != IGNORED).sum()) for row in rows)
        return estimate_memory(
            self.adapter, self.recipe, pos, preference=preference, checkpoint=checkpoint, labels=labels
        )
