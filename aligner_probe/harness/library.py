"""What this project uses of lm-eval: its tasks, with their prompts, and its model object around a base model.

lm-eval's own cache of answers (`use_cache`) is never used, because it knows nothing of adapters: it gives the base
model's answers for every one of them. Its model "steered" is not used either, because it unpickles files.
"""

import contextlib
import copy
import functools
import importlib
import io
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.harness.local import local_tasks
from aligner_probe.tasks.chat_template import has_template
from aligner_probe.tasks.tokenizing import prompt_ids, put_around
from aligner_probe.tokenizers import own_tokenizer

INSTALL = 'pip install "aligner-probe[benchmark]"'
#: How tasks may call the most tokens of an answer; lm-eval's own default is `max_gen_toks` of its model object.
MOST_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens")


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    `shots` examples stand before each question (None: as many as the task itself puts there). At most `limit` items of
    a benchmark are asked, drawn with `seed`, which also draws the examples. With `as_chat`, prompts are messages of the
    chat template of the base model's tokenizer, and `system` is the first of them.
    """

    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    as_chat: bool = False
    system: str | None = None


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark whose prompts are made.

    Attributes:
        name: What the user called it.
        tasks: The tasks of lm-eval that it consists of, each with its requests.
        doc_ids: By task, the indices of the items in its test part, in order.
        n_all: The number of items that there are.
        shots: The numbers of examples before a question that the tasks have.
        n_cut: The number of prompts that do not fit into the context. lm-eval cuts off their beginning.
        n_ctx: The tokens that fit.
    """

    name: str
    tasks: tuple[Any, ...]
    doc_ids: dict[str, list[int]]
    n_all: int
    shots: tuple[int, ...]
    n_cut: int
    n_ctx: int

    @property
    def n_items(self) -> int:
        return sum(map(len, self.doc_ids.values()))

    @property
    def requests(self) -> list[Any]:
        return [request for task in self.tasks for request in task.instances]

    @property
    def first_prompt(self) -> str:
        return str(self.tasks[0].instances[0].args[0])


def version() -> str:
    """The version of lm-eval. Raises AlignerProbeError, with the command that installs it, where it is missing."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError as error:
        raise AlignerProbeError(f"benchmarks need the package lm-eval, which is missing: {INSTALL}") from error


def module(name: str) -> Any:
    """A module of lm-eval by its name. It is no dependency, so checkers of types must do without it."""
    return importlib.import_module(f"lm_eval.{name}")


def language_model(model: TransformerBridge, *, batch_size: int, n_positions: int = 0) -> Any:
    """lm-eval's model object around a base model. Adapters that are attached later act in it.

    Prompts have the token ids that they have in training and in `generate`: with a start token only where the tokenizer
    puts one by itself. The bridge itself is not given, because lm-eval calls what transformers defines.

    Args:
        model: The base model, with no adapter attached.
        batch_size: The most requests that are computed together.
        n_positions: How much of the context to leave free: the most positions that an adapter takes up.

    Raises:
        AlignerProbeError: lm-eval is missing, or the base model has no tokenizer, or one that lm-eval would use in
            another way.
    """
    version()
    tokenizer = own_tokenizer(model)
    if tokenizer is None:
        raise AlignerProbeError("this base has no tokenizer, so there are no prompts; load it with one")
    with quiet():
        lm = module("models.huggingface").HFLM(
            pretrained=model.original_model,
            # lm-eval sets the pad token, also of a tokenizer that is the user's.
            tokenizer=copy.deepcopy(tokenizer),
            add_bos_token=bool(put_around(tokenizer)[0]),
            batch_size=batch_size,
            max_length=model.cfg.n_ctx - n_positions,
        )
        text = "Question: 1 + 1\nAnswer:"
        theirs, ours = lm.tok_encode(text), prompt_ids(tokenizer, [text])[0]
    if theirs != ours:
        raise AlignerProbeError(
            f"lm-eval makes the token ids {theirs[:4]}... of {text!r}, and training makes {ours[:4]}... of it; "
            "expected the same ids. Take a tokenizer that puts no end token behind texts (add_eos_token=False)"
        )
    return lm


def find_tasks(name: str, data: Path | None, shots: int | None) -> list[Any]:
    """The tasks of lm-eval that a benchmark consists of, with their data: those of a folder, or lm-eval's own.

    Raises AlignerProbeError where lm-eval is missing, there is no such task, its data cannot be read, or it asks for
    more than a language model on texts.
    """
    version()
    with quiet():
        if data is not None:
            made = module("api.task").ConfigurableTask
            return [made(config=config) for config in local_tasks(name, data, shots)]
        tasks = _hub_tasks(name)
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            what = "executes code that the model writes" if getattr(task, "UNSAFE_CODE", False) else "shows images"
            raise AlignerProbeError(f"lm-eval's task {task.task_name} {what}; expected another task: --tasks NAME")
    return tasks


def prepare(name: str, tasks: Sequence[Any], lm: Any, asking: Asking) -> Benchmark:
    """Choose the items of a benchmark and make their prompts, which all models are then asked.

    Raises AlignerProbeError where a chat template is asked for and there is none, there are not enough examples, or an
    answer is longer than the context.
    """
    if asking.as_chat and not has_template(lm.tokenizer):
        raise AlignerProbeError(
            "the base model's tokenizer has no chat template; leave out --as-chat, or give one: --chat-template FILE"
        )
    sizes = {task.task_name: len(task.eval_docs) for task in tasks}
    doc_ids = _drawn(sizes, asking.limit, asking.seed)
    chosen = [task for task in tasks if doc_ids[task.task_name]]
    shots = set()
    with quiet():
        for task in chosen:
            own = task.get_config("num_fewshot")
            # Tasks that set 0 have their examples in the prompt already, and lm-eval does not add others.
            n = own or 0 if asking.shots is None or own == 0 else asking.shots
            shots.add(n)
            task.set_config(key="num_fewshot", value=n)
            task.set_fewshot_seed(seed=asking.seed)
            try:
                task.build_all_requests(
                    samples=None if len(doc_ids[task.task_name]) == sizes[task.task_name] else doc_ids[task.task_name],
                    system_instruction=asking.system,
                    apply_chat_template=asking.as_chat,
                    fewshot_as_multiturn=asking.as_chat,
                    chat_template=lm.apply_chat_template if asking.as_chat else None,
                    tokenizer_name=lm.tokenizer_name if asking.as_chat else "",
                )
            except (AssertionError, ValueError) as error:  # what lm-eval raises for too few examples
                raise AlignerProbeError(
                    f"lm-eval made no prompts for {task.task_name} ({_said(error)}); give fewer examples: --shots N"
                ) from error
    return Benchmark(
        name,
        tuple(chosen),
        {task.task_name: doc_ids[task.task_name] for task in chosen},
        sum(sizes.values()),
        tuple(sorted(shots)),
        sum(_is_cut(lm, list(of_doc)) for task in chosen for _, of_doc in groupby(task.instances, lambda r: r.doc_id)),
        lm.max_length,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, lm-eval draws no bars (one a task, for 57 tasks in MMLU) and logs errors alone."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


@functools.cache
def _manager() -> Any:
    """lm-eval's index of its tasks, which takes half a minute to read."""
    return module("tasks").TaskManager()


def _hub_tasks(name: str) -> list[Any]:
    manager = _manager()
    if name not in manager.task_index:
        near = did_you_mean(name, manager.all_tasks)
        raise AlignerProbeError(
            f"lm-eval has no task {name!r}; {near}expected one of those that `lm-eval ls tasks` lists: --tasks NAME"
        )
    try:
        return list(manager.load([name])["tasks"].values())
    except Exception as error:  # of the network, of datasets, of a package that a task needs
        raise AlignerProbeError(
            f"the data of lm-eval's task {name} cannot be read ({_said(error)}); connect to the hub, or, for gsm8k and "
            "mmlu, name a folder with their rows: --data FOLDER"
        ) from error


def _drawn(sizes: dict[str, int], limit: int | None, seed: int) -> dict[str, list[int]]:
    """Indices of items by task. lm-eval's own limit would take as many of each task, and always the first ones."""
    items = [(task, index) for task, size in sizes.items() for index in range(size)]
    if limit is not None and limit < len(items):
        items = random.Random(seed).sample(items, limit)
    # In order, since lm-eval goes through the items in order, whatever the order in which they are named.
    return {task: sorted(index for its, index in items if its == task) for task in sizes}


def _is_cut(lm: Any, requests: Sequence[Any]) -> bool:
    """Whether the prompt of an item, and the room for its answer, exceed the context."""
    request_type, arguments = requests[0].request_type, requests[0].args
    if request_type == "loglikelihood":
        context, continuation = max((request.args for request in requests), key=lambda its: len(its[1]))
        return len(lm.tok_encode(context + continuation)) > lm.max_length + 1
    if request_type != "generate_until":
        return False
    n_new = next((int(arguments[1][key]) for key in MOST_TOKENS if arguments[1].get(key)), lm.max_gen_toks)
    if n_new >= lm.max_length:
        raise AlignerProbeError(
            f"answers of {requests[0].task_name} have up to {n_new} tokens, and the context has room for "
            f"{lm.max_length}; expected a base model with a longer context, or another task: --tasks NAME"
        )
    return len(lm.tok_encode(arguments[0])) > lm.max_length - n_new


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}" if str(error) else type(error).__name__
