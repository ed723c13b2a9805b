"""The whole probe, from a task to its verdict: split, plan, make, gather, judge, report.

result = probe_task(model, task)
print(result.verdict.outcome, result.verdict.reason)
"""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import FullFineTune
from aligner_probe.arguments import a_model_or_name, accepts
from aligner_probe.arms.catalogue import ARMS
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.evaluation.guessing import Scorer, guess_scorer, scorer_named, sft_examples
from aligner_probe.evaluation.likelihood import MultipleChoice
from aligner_probe.evaluation.scorers import BalancedAccuracy
from aligner_probe.jobs.backend import Backend, Processes
from aligner_probe.models import quantization_in
from aligner_probe.probing.batches import share_batches
from aligner_probe.probing.bench import ProbeBench, first
from aligner_probe.probing.calibration import read_cuts
from aligner_probe.probing.checks import check_scorer, check_tokens
from aligner_probe.probing.endings import Ending, ending_for, ending_of_turns, line_end, without
from aligner_probe.probing.frontier import frontier_in_probe
from aligner_probe.probing.gathering import gather
from aligner_probe.probing.inputs import load_parts
from aligner_probe.probing.off_domain import asked_like, off_domain_of
from aligner_probe.probing.plan import Budget, Plan, budget_named
from aligner_probe.probing.prompts import descriptions
from aligner_probe.probing.report import report, write_report
from aligner_probe.probing.result import ProbeResult
from aligner_probe.probing.run import check_folder, make, plan_for
from aligner_probe.probing.splitting import Parts, split_task
from aligner_probe.probing.verdicts.measures import TaskKind
from aligner_probe.probing.verdicts.power import SizeOfTest, planned_size
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS, Thresholds
from aligner_probe.probing.verdicts.verdict import judge
from aligner_probe.quantised import check_quantization, precision
from aligner_probe.tasks.chat_template import untemplated_note
from aligner_probe.tasks.given import one_task, task_or_name
from aligner_probe.tasks.given_template import set_chat_template, template_given
from aligner_probe.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe that is ready to be made: its parts, plan and bench, and why its scorer and what ends answers fit.

    `why_ending` is None where that is not settled (`with_ending`).
    """

    parts: Parts
    plan: Plan
    bench: ProbeBench
    why_scorer: str
    why_ending: str | None = None

    def size_of_test(self, thresholds: Thresholds = THRESHOLDS) -> SizeOfTest:
        """How many independent items the test has, and how many a verdict will need."""
        _, constant = self.bench.constant()
        return planned_size(self.parts, float(np.mean(constant["strict"])) if constant else None, thresholds)

    @property
    def ending(self) -> Ending | None:
        """What ends answers, and why; None where that is not settled."""
        return None if self.why_ending is None else Ending(self.bench.ending, self.why_ending)


@accepts(task=one_task, test=one_task, validation=one_task, off_domain=one_task)
def new_probe(
    base: str | TransformerBridge,
    task: Task,
    *,
    test: Task | None = None,
    validation: Task | None = None,
    kind: TaskKind | str = "general",
    scorer: Scorer | str | None = None,
    budget: Budget | str = "standard",
    off_domain: Task | None = None,
    own_prompt: str | None = None,
    describe: str | Sequence[str] = (),
    ending: str | None = None,
    chat_template: str | Path = "auto",
    dtype: str = "float32",
    device: str | None = None,
    quantization: str | None = None,
) -> Probe:
    """Split and plan; nothing is computed and nothing written.

    `ending` is a text that ends answers in training and in what is generated, empty for the base's end token; by
    default the base settles it (`with_ending`). `describe` is the task as an instruction in words, or several.
    `chat_template` is "auto", "none" or a file. Raises AlignerProbeError for what does not fit, and for a scorer by
    which the references themselves are wrong.
    """
    budget = budget_named(budget)
    told = descriptions(describe)
    precision(dtype)
    check_quantization(quantization, None if isinstance(base, str) else base.original_model)
    parts = split_task(task, kind, test=test, validation=validation)
    if ending:
        each = {name: without(getattr(parts, name), ending) for name in ("train", "validation", "test")}
        parts = replace(parts, **each)
    why = "it was given"
    if scorer is None:
        guess = guess_scorer(parts.train)
        scorer, why = guess.scorer, guess.reason
        # Labels and choices are those of all parts, since a rare one may stand in one alone.
        if isinstance(scorer, BalancedAccuracy):
            scorer = scorer_named("balanced_accuracy", parts.whole)
        elif isinstance(scorer, MultipleChoice):
            scorer = scorer_named("multiple_choice", parts.whole)
    elif isinstance(scorer, str):
        scorer = scorer_named(scorer, parts.whole)
    check_scorer(scorer, parts)
    template = template_given(chat_template)
    loaded = None if isinstance(base, str) else base
    if loaded is not None and template is not None:
        set_chat_template(loaded, template or None)
    name = base if isinstance(base, str) else base.cfg.model_name
    probe = plan_for(budget, parts)
    bench = ProbeBench(
        name,
        parts,
        scorer,
        probe.budget,
        None if off_domain is None else asked_like(off_domain, parts.train),
        own_prompt,
        ending or "",
        template,
        told,
        dtype=dtype,
        device=device,
        quantization=quantization,
        loaded=loaded,
    )
    return Probe(parts, probe, bench, why, why_ending=None if ending is None else "it was given")


def with_off_domain(probe: Probe) -> Probe:
    """The probe with the base's own off-domain items, where none are given and the base has some."""
    if probe.bench.off_domain is not None:
        return probe
    found = off_domain_of(probe.bench.model, probe.parts.train)
    found = None if found is None else asked_like(found, probe.parts.train)
    return replace(probe, bench=probe.bench.changed(off_domain=found))


def with_ending(probe: Probe) -> Probe:
    """The probe with what ends its answers, as the base settles where it is not given."""
    if probe.why_ending is not None:
        return probe
    found = ending_of_turns(probe.bench.model, probe.parts.whole)
    if found is None:
        examples = sft_examples(first(probe.parts.validation, probe.bench.budget.n_validation))
        found = ending_for(probe.bench.model, examples, line_end(sft_examples(probe.parts.whole)))
    return replace(probe, bench=probe.bench.changed(ending=found.text), why_ending=found.because)


def with_batches(probe: Probe) -> Probe:
    """The probe with which runs share their batches, as the base's tokenizer and device settle.

    Raises AlignerProbeError where the task does not fit the base's tokenizer or context.
    """
    probe = with_ending(_with_possible_arms(_on_width(probe)))
    check_tokens(probe.bench)
    if note := untemplated_note(probe.bench.model.tokenizer, probe.parts.train.prompts):
        warnings.warn(note, AlignerProbeWarning, stacklevel=2)
    return replace(probe, plan=share_batches(probe.plan, probe.bench))


def _on_width(probe: Probe) -> Probe:
    """The probe with its budget for the width of the base."""
    budget = probe.plan.budget.on_width(probe.bench.model.cfg.d_model)
    return probe if budget == probe.plan.budget else _with_budget(probe, budget)


def _with_budget(probe: Probe, budget: Budget) -> Probe:
    made = plan_for(budget, probe.parts)
    return replace(probe, plan=made, bench=probe.bench.changed(budget=made.budget))


def _with_possible_arms(probe: Probe) -> Probe:
    """The probe without full fine-tuning on a quantised base, whose packed weights have no gradients."""
    budget = probe.plan.budget
    possible = tuple(arm for arm in budget.arms if ARMS[arm].method != FullFineTune.method)
    if possible == budget.arms or quantization_in(probe.bench.model) is None:
        return probe
    return _with_budget(probe, replace(budget, arms=possible))


def carry_out_probe(
    probe: Probe,
    out: str | Path,
    *,
    n_processes: int = 1,
    backend: Backend | None = None,
    resume: bool = False,
    thresholds: Thresholds = THRESHOLDS,
    show_progress: bool = True,
) -> ProbeResult:
    """Make the cells and the frontier of K (OUT/frontier), judge, and write OUT/report.json.

    `backend`, for instance `jobs.ray_tasks.RayTasks`, makes the cells instead of `n_processes` processes.
    Raises AlignerProbeError where the folder has a probe already and `resume` is off, or as `make` does.
    """
    out = Path(out)
    check_folder(out, resume)
    probe, backend = with_batches(probe), backend or Processes(n_processes)
    if backend.travels and probe.bench.loaded is not None:
        raise AlignerProbeError("a loaded model does not travel to other processes; name the base instead, or take one")
    make(probe.plan, probe.bench, out, backend, show_progress=show_progress)
    assert probe.ending is not None  # `with_batches` has settled it
    frontier = frontier_in_probe(probe.bench, out, backend, show_progress=show_progress)
    found = gather(probe.plan, probe.parts, out, probe.bench.lost, frontier)
    verdict = judge(found.evidence, thresholds)
    content = report(
        verdict, found, probe.plan, probe.parts, base=probe.bench.base, scorer=repr(probe.bench.scorer),
        why_scorer=probe.why_scorer, ending=probe.ending, describe=probe.bench.describe, thresholds=thresholds,
    )  # fmt: skip
    write_report(content, out)
    return ProbeResult(verdict, found, content, probe.parts)


@accepts(model=a_model_or_name, task=task_or_name, test=one_task, validation=one_task, off_domain=one_task)
def probe_task(
    model: str | TransformerBridge,
    task: Task | str | Path,
    *,
    test: Task | None = None,
    validation: Task | None = None,
    kind: TaskKind | str | None = None,
    scorer: Scorer | str | None = None,
    budget: Budget | str = "standard",
    off_domain: Task | None = None,
    own_prompt: str | None = None,
    describe: str | Sequence[str] = (),
    ending: str | None = None,
    chat_template: str | Path = "auto",
    cuts: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    quantization: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    n_processes: int = 1,
    backend: Backend | None = None,
    show_progress: bool = True,
) -> ProbeResult:
    """Is this task form, latent, or new to this base model?

    Args:
        model: the base model: a bridge of `ap.load_model`, or its name or folder.
        task: the task: loaded, as rows in memory, or named ("panel:NAME" or a path). A named task is read with its
            test and validation examples and its kind, where it has any.
        test: the examples to score on; by default a part of `task`.
        validation: the examples to choose by; by default a part of `task`.
        kind: "memory" where facts are learned and their other wordings are asked, "general" otherwise; by default
            that of a named task, else "general".
        scorer: a scorer, or its name (`probe run --help` lists them); by default it is guessed from the answers.
        budget: "quick", "standard" or "thorough", or a `Budget`.
        off_domain: a task of another domain, on which it is measured what knowledge is kept; by default the
            micro-world's own, where the base model is the micro-world.
        own_prompt: a prompt of yours that is tried as well, with {prompt} where the item's prompt goes.
        describe: the task as an instruction in words, or several; each is tried alone and with examples. On a chat
            model it is a system message, and a sentence of the user.
        ending: the text that ends an answer; empty for the base model's end token. By default the base model settles
            it.
        chat_template: how conversations become text: "auto" (the template of the base model's tokenizer), "none" (it
            has none), or a file with a template.
        cuts: a file with the cuts of F, R_soft and R1 that tasks of known nature set on this base model; by default
            those of the micro-world.
        dtype: precision of a base model that is loaded by its name.
        device: device of a base model that is loaded by its name.
        quantization: "nf4" or "int8" to quantise a base model that is loaded by its name, as in `load_model`.
        out: a folder for the runs and the report; by default a temporary one, and only the result is kept.
        resume: go on with the probe in `out`, where there is one.
        n_processes: worker processes that make the runs.
        backend: what makes the runs instead, for instance `jobs.ray_tasks.RayTasks`.
        show_progress: show progress bars.

    Returns:
        The verdict, with the scores, answers and the report behind it.

    Raises AlignerProbeError for a task, scorer or option that does not fit, and where `out` has a probe already and
    `resume` is off.
    """
    if not isinstance(task, Task):
        named = load_parts(task)
        task, kind = named.train, named.kind if kind is None else kind
        test = named.test if test is None else test
        validation = named.validation if validation is None else validation
    probe = new_probe(
        model,
        task,
        test=test,
        validation=validation,
        kind="general" if kind is None else kind,
        scorer=scorer,
        budget=budget,
        off_domain=off_domain,
        own_prompt=own_prompt,
        describe=describe,
        ending=ending,
        chat_template=chat_template,
        dtype=dtype,
        device=device,
        quantization=quantization,
    )
    probe = with_off_domain(probe)
    thresholds = THRESHOLDS if cuts is None else read_cuts(cuts)

    def carried_out(folder: str | Path) -> ProbeResult:
        return carry_out_probe(
            probe, folder, n_processes=n_processes, backend=backend, resume=resume, thresholds=thresholds,
            show_progress=show_progress,
        )  # fmt: skip

    if out is not None:
        return carried_out(out)
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        return carried_out(folder)
