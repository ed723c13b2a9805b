"""Checks of the arguments that users give to public functions: their names, and what their values stand for.

    @accepts(checkpoint=one_checkpoint, each="checkpoint")
    def gate_statistics(checkpoint: PrefixCheckpoint, *, seed: int = 0) -> GateStatistics: ...

`gate_statistics` now takes a path, an adapter or a list of these as well, and refuses `sed=1` in one line that names
the nearest option. The error is an `ArgumentError`: an AlignerProbeError, and a TypeError as Python's own would be. The
signature stays what it was, for readers, notebooks and type checkers.
"""

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from aligner_probe.errors import AlignerProbeError, did_you_mean

#: A function of the given value and of the name of its argument, for messages: what the public function works on.
Reader = Callable[[Any, str], Any]
Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])
#: What PEFT, transformers and TRL call an option, with its name here.
ALSO_CALLED = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "max_grad_norm": "clip",
    "max_seq_length": "max_length",
    "num_virtual_tokens": "n_tokens",
    "adapter_len": "n_tokens",
    "prompt_length": "n_tokens",
    "rank": "r",
    "lora_alpha": "alpha",
    "target_modules": "targets",
    "eval_dataset": "validation",
    "train_dataset": "task",
    "output_dir": "out",
    "resume_from_checkpoint": "resume",
    "max_length": "max_new_tokens",
    "stop_strings": "stop",
    "random_state": "seed",
}
MOST_NAMED = 12
#: By annotation: the type that a value must have, and its name in messages.
PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    Path: (os.PathLike, "a path"),
    NoneType: (NoneType, "None"),
}


class ArgumentError(AlignerProbeError, TypeError):
    """An argument that a public function does not have, or one that is missing or has a value of the wrong kind."""


def accepts(
    *,
    each: str | None = None,
    pair: tuple[str, str] | None = None,
    **readers: Reader,
) -> Callable[[Wrapped], Wrapped]:
    """A decorator for a public function, or for a class whose instances are made by users; it keeps the signature.

    Args:
        each: an argument that may be a list. The function is then called for every item, and the results are a list.
        pair: two arguments. A list of two values that is given for the first of them, alone, stands for both.
        readers: by argument, how the given value is read (`Reader`). Other arguments that are annotated as numbers,
            texts, paths or data types are checked to be such.
    """

    def decorate(function: Any) -> Any:
        if inspect.isclass(function):
            function.__init__ = decorate(function.__init__)
            return function
        # "Aligner" for Aligner.__init__
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            bound = bind(signature, name, args, options)
            given = bound.arguments
            for argument, value in given.items():
                if argument not in readers:
                    given[argument] = plain(value, f"{name}({argument}=)", signature.parameters[argument].annotation)
            for argument, read in readers.items():
                if argument not in given:
                    continue
                value, where = given[argument], f"{name}({argument}=)"
                if argument == each and is_several(value):
                    given[argument] = [read(one, where) for one in several(value)]
                elif value is not signature.parameters[argument].default:
                    given[argument] = read(value, where)
            if each is not None and isinstance(given.get(each), list):
                items = given.pop(each)
                return [function(**{each: item}, **bound.kwargs) for item in items]
            return function(*bound.args, **bound.kwargs)

        if pair is None:
            return call
        second = pair[1]

        @functools.wraps(function)
        def spread(*args: Any, **options: Any) -> Any:
            if len(args) == 1 and second not in options and is_several(args[0]) and len(several(args[0])) == 2:
                args = tuple(several(args[0]))
            return call(*args, **options)

        return spread

    return decorate


def bind(
    signature: inspect.Signature,
    name: str,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> inspect.BoundArguments:
    """The arguments by name. Raises ArgumentError where they do not fit the signature."""
    parameters = signature.parameters
    if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        check_names(name, options, [n for n in parameters if n != "self"])
    try:
        return signature.bind(*args, **options)
    except TypeError as error:
        shown = [str(p.replace(annotation=p.empty)) for p in parameters.values() if p.name != "self"]
        first = next((n for n, p in enumerate(parameters.values()) if p.kind == p.KEYWORD_ONLY), None)
        if first is not None:
            shown.insert(first - ("self" in parameters), "*")
        raise ArgumentError(f"{name}(): {error}; call {name}({', '.join(shown)})") from error


def plain(value: Any, where: str, annotation: Any) -> Any:
    """A value for an argument of a plain type; a number of numpy's becomes one of Python's.

    Raises ArgumentError where the value has another type; True and False are no numbers here. For annotations that are
    not in `PLAIN` nothing is checked.
    """
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    allowed = [one for one in map(_plain, parts) if one is not None]
    if len(allowed) < len(parts) or (value is None and (NoneType, "None") in allowed):
        return value
    if isinstance(value, bool) or not any(isinstance(value, one) for one, _ in allowed):
        raise refuse(value, where, " or ".join(dict.fromkeys(said for _, said in allowed)))
    if isinstance(value, int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _plain(part: Any) -> tuple[type, str] | None:
    if getattr(part, "__module__", "") == "torch" and getattr(part, "__name__", "") == "dtype":
        return part, "a data type of torch, for instance torch.float32"
    return PLAIN.get(part) if isinstance(part, type) else None


def check_names(name: str, given: Collection[str], known: Iterable[str]) -> None:
    """Raise ArgumentError for a name that is not known; its message has the nearest name that is."""
    known = list(dict.fromkeys(known))
    for unknown in given:
        if unknown not in known:
            raise ArgumentError(
                f"{name}() has no option {unknown!r}; {_in_a_recipe(unknown, known)}{meant(unknown, known)}it takes "
                f"{listed(known) or 'none'}"
            )


def _in_a_recipe(unknown: str, known: Collection[str]) -> str:
    """A hint that an option belongs into the recipe, where the function takes one; otherwise empty."""
    from aligner_probe.training.recipe import Recipe

    option = ALSO_CALLED.get(unknown, unknown)
    belongs = "recipe" in known and option not in known and option in Recipe.__dataclass_fields__
    return f"it belongs into recipe=ap.recipe({option}=...); " if belongs else ""


def meant(unknown: str, known: Collection[str]) -> str:
    """A hint at the option that was meant: by a similar name, or by the name that another library has for it."""
    also = ALSO_CALLED.get(unknown)
    return f"did you mean {also}? " if also in known else did_you_mean(unknown, known)


def listed(names: Collection[str]) -> str:
    """The first `MOST_NAMED` names in a line, and how many more there are."""
    shown = ", ".join(list(names)[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def is_several(value: Any) -> bool:
    """Whether a value is a list of things: any iterable but a text, a mapping, an array or a table."""
    if isinstance(value, str | bytes | Mapping | Path) or hasattr(value, "shape"):
        return False
    return hasattr(value, "checkpoints") or isinstance(value, Iterable)


def several(value: Any) -> list[Any]:
    """The items of such a value. Of the two lists that `scan_checkpoints` returns, the items of the first."""
    if hasattr(value, "checkpoints"):
        return list(value.checkpoints)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, list) for part in value):
        return list(value[0])
    return list(value)


def described(value: Any) -> str:
    """A value in words, for a message: its type, and for a list the types of its items."""
    name = type(value).__name__
    if isinstance(value, list | tuple | set):
        inside = sorted({type(item).__name__ for item in value})
        return f"a {name} of {len(value)} ({', '.join(inside[:3])})" if value else f"an empty {name}"
    if isinstance(value, str | int | float | bool | None):
        return f"{value!r:.60}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {name}"


def refuse(value: Any, where: str, expected: str) -> ArgumentError:
    """The error for a value that an argument cannot use; `expected` says what it could be, and what to call."""
    return ArgumentError(f"{where} was given {described(value)}; expected {expected}")


def a_model(value: Any, where: str) -> Any:
    """The base model that was given as a bridge, a name or a folder."""
    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.models import load_model

    if isinstance(value, TransformerBridge):
        return value
    if isinstance(value, str | Path):
        return load_model(value)
    if hasattr(value, "attached") and hasattr(value, "model"):
        raise refuse(value, where, "the base model: adapter.model, inside `with adapter.attached():`")
    raise refuse(value, where, 'a base model: ap.load_model("microworld"), or of a hub id or folder')


def a_model_or_name(value: Any, where: str) -> Any:
    """The base model that was given as a bridge, or its name or folder as a text, to be loaded later."""
    return str(value) if isinstance(value, str | Path) else a_model(value, where)


def several_of(kind: type | tuple[type, ...], expected: str) -> Reader:
    """A reader for a list of values of these types; a single value is read as a list of one."""

    def read(value: Any, where: str) -> list[Any]:
        items = [value] if isinstance(value, kind) else several(value) if is_several(value) else None
        if items is None or not all(isinstance(item, kind) for item in items):
            raise refuse(value, where, expected)
        return items

    return read


def texts(value: Any, where: str) -> list[Any]:
    """The list of texts that was given: one text, a list of texts, or a task, whose prompts are meant.

    The items are not checked here: the function that works on them names a wrong one by its index.
    """
    if isinstance(value, str):
        return [value]
    value = getattr(value, "prompts", value)
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) == 1:
        return list(value.tolist())
    if is_several(value):
        return list(value)
    raise refuse(value, where, "a list of texts")
