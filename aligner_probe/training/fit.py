"""Train adapters: `fit` trains one, `fit_together` several on one base model in shared batches.

    run = fit(model, adapter, task, validation=held_out, recipe=recipe("corrected", lr=3e-3))
    run.loss.plot()

    first, second = fit_together(model, [Training(adapter=a, task=task), Training(adapter=b, task=task)])

On one machine's CPU a training that is stopped and resumed ends with the same bits as one without a break.
"""

from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.arguments import a_model, accepts, several_of
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import threads_for
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task
from aligner_probe.threads import Threads, as_begun, using
from aligner_probe.training.callbacks import Callback, Start
from aligner_probe.training.inputs import Inputs, Training, several_callbacks
from aligner_probe.training.loop import Loop
from aligner_probe.training.lower_layers import BUDGET_BYTES, Cache
from aligner_probe.training.member import Member
from aligner_probe.training.planning import SAVE_EVERY, Execution, TrainingPlan, plan_training
from aligner_probe.training.provenance import provenance
from aligner_probe.training.recipe import Recipe, one_recipe
from aligner_probe.training.records import Records
from aligner_probe.training.run import Run
from aligner_probe.training.state import STATE, RunFolder, lower_layers_kept, threads_recorded


@accepts(
    model=a_model,
    adapter=one_adapter,
    task=one_task,
    validation=one_task,
    recipe=one_recipe,
    callbacks=several_callbacks,
)
def fit(
    model: TransformerBridge,
    adapter: Adapter,
    task: Task,
    *,
    validation: Task | None = None,
    recipe: Recipe | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = SAVE_EVERY,
    cache: Cache | str = "auto",
    cache_budget: int = BUDGET_BYTES,
    cache_folder: str | Path | None = None,
    checkpoint_activations: bool = False,
    show_progress: bool = True,
) -> Run:
    """Train an adapter on a task: cross-entropy of the completions, or DPO for preferences.

    The reference model of DPO is the adapter as it is given, so train by SFT first. While the training is executed,
    torch uses the number of CPU threads that fits the base model's size, unless the user chose one
    (`aligner_probe.threads`); a resumed training uses the number it began with.

    Args:
        model: the frozen base model, or its name or folder.
        adapter: the adapter whose parameters are trained; made for this model.
        task: the examples; also a path, "panel:NAME", or rows in memory.
        validation: examples that are not trained on. With them the best parameters are kept, and training can stop
            early.
        recipe: learning rate, length, batch size and so on; by default `recipe("corrected")`.
        callbacks: objects of `training.Callback` that are told of the start, each step and the end.
        out: a folder for metrics and saved states; without it nothing is kept on disk.
        resume: go on with the training in `out`, where there is one, to the same parameters as without a break.
        save_every: optimiser steps between two saved states.
        cache: whether the output of the layers below the adapter is computed once for all examples and kept. "auto"
            does so where it is possible and pays. Nothing is kept where a hook, dropout or a parametrization may make
            these layers differ between steps. `Run.lower_layers` says what was done.
        cache_budget: the most bytes that are kept.
        cache_folder: a folder in which kept layers stay for other trainings; by default a temporary file.
        checkpoint_activations: compute layers again in the backward pass instead of keeping their activations: less
            memory, more time. Layers in which a user has hooked something run once all the same.
        show_progress: show progress bars, and print `Run.advice` at the end.

    Returns:
        The training's metrics and what it recorded; the adapter has the best parameters, or the last ones without
        `validation`.

    Raises AlignerProbeError where the adapter is of another model, the base model has no tokenizer, options do not
    fit, the memory surely does not suffice, the folder is taken, or the loss is no longer finite.
    """
    one = Training(adapter=adapter, task=task, validation=validation, recipe=recipe, callbacks=callbacks)
    [result] = fit_together(
        model,
        [one],
        out=out,
        resume=resume,
        save_every=save_every,
        cache=cache,
        cache_budget=cache_budget,
        cache_folder=cache_folder,
        checkpoint_activations=checkpoint_activations,
        show_progress=show_progress,
    )
    if isinstance(result, AlignerProbeError):
        raise result
    return result


@accepts(
    model=a_model,
    trainings=several_of(Training, "a list of trainings: [ap.Training(adapter=adapter, task=task), ...]"),
)
def fit_together(
    model: TransformerBridge,
    trainings: Sequence[Training],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = SAVE_EVERY,
    cache: Cache | str = "auto",
    cache_budget: int = BUDGET_BYTES,
    cache_folder: str | Path | None = None,
    checkpoint_activations: bool = False,
    show_progress: bool = True,
) -> list[Run | AlignerProbeError]:
    """Train several adapters on one base model at once: every step is one pass over the rows of all.

    Each training has its own examples, learning rate, clipping, validation and end, and the parameters that it would
    have alone, but for rounding. One whose loss is no longer finite leaves the shared batch: its adapter keeps the last
    parameters that were good, and the error stands in place of its result.

    Args:
        model: the frozen base model, or its name or folder.
        trainings: what is trained, each an `ap.Training`; all adapters are made for this model.
        out: a folder for the metrics and saved states of all; without it nothing is kept on disk.
        resume: go on with the trainings in `out`, where there are any.
        save_every: as in `fit`.
        cache: as in `fit`, for the layers below the first layer that any of the adapters changes.
        cache_budget: as in `fit`.
        cache_folder: as in `fit`.
        checkpoint_activations: as in `fit`.
        show_progress: as in `fit`.

    Returns:
        One result for each training, in order: a `Run`, or the AlignerProbeError that ended it.

    Raises AlignerProbeError as `fit` does, and where an adapter does not work row by row: prompt tuning and full
    fine-tuning are trained alone.
    """
    execution = Execution(
        out=None if out is None else Path(out),
        resume=resume,
        save_every=save_every,
        cache=cache,
        cache_budget=cache_budget,
        cache_folder=cache_folder,
        checkpoint_activations=checkpoint_activations,
        show_progress=show_progress,
    )
    return _train(model, trainings, execution)


def _train(
    model: TransformerBridge, trainings: Sequence[Training], execution: Execution
) -> list[Run | AlignerProbeError]:
    """Plan the trainings, hold their folder, train, and tell the callbacks how each ended."""
    threads, begun = threads_for(model), None
    if execution.out and execution.resume and (execution.out / STATE).exists():
        threads = as_begun(threads, threads_recorded(execution.out))
        begun = execution.out
    inputs = [Inputs(model, training) for training in trainings]
    beside = SideBySide([one.adapter for one in inputs]) if len(inputs) != 1 else None
    kept_before = None if begun is None else lower_layers_kept(begun)
    # Whether layers are kept may depend on the free disk, so a resumed training does as it did before.
    cache = kept_before if kept_before is not None and execution.cache == "auto" else execution.cache
    with using(threads):
        plan = plan_training(model, inputs, execution, cache)
        members = [
            Member(one, provenance(one.adapter, one.recipe, one.task, one.validation, plan.recorded)) for one in inputs
        ]
        identities = [member.identity(plan.recorded) for member in members]
        identity = {"runs": identities} if beside else identities[0]
        folder = RunFolder(execution.out, identity, resume=execution.resume)
        with folder.locked():
            try:
                results = _trained(plan, members, Records(folder, members, threads.n), beside, threads)
            except BaseException as error:
                own = members[0].error
                if beside is None and own is not None and error is own:
                    _tell_failed(members[0], error)
                    return [own]
                for member in members:
                    _tell_failed(member, error)
                raise
            for member, result in zip(members, results, strict=True):
                _tell_ended(member, result, execution.show_progress)
        return results


def _trained(
    plan: TrainingPlan, members: Sequence[Member], records: Records, beside: SideBySide | None, threads: Threads
) -> list[Run | AlignerProbeError]:
    """Take up saved states, tell the callbacks of the start, and train."""
    records.restore()
    for member in members:
        its = member.inputs
        start = Start(
            first_step=member.progress.step + 1,
            n_steps=member.n_steps,
            memory=plan.memory,
            lower_layers=plan.lower.reason,
            rule=its.task.encoded.rule,
            provenance=member.provenance,
            schedule=its.schedule,
            threads=threads,
        )
        for callback in member.callbacks:
            callback.started(start)
    execution = plan.execution
    loop = Loop(
        members,
        plan.objectives(),
        records,
        beside,
        save_every=execution.save_every,
        show_progress=execution.show_progress,
    )
    return loop.run(plan.lower.reason)


def _tell_ended(member: Member, result: Run | AlignerProbeError, show_progress: bool) -> None:
    if isinstance(result, AlignerProbeError):
        _tell_failed(member, result)
        return
    for callback in member.callbacks:
        callback.ended(result)
    if show_progress:
        tqdm.write(f"{member.adapter.method}: {result.advice}")


def _tell_failed(member: Member, error: BaseException) -> None:
    if member.progress.step:
        member.ended({"steps": member.progress.step, "unfinished": True})
    for callback in member.callbacks:
        callback.failed(error)
