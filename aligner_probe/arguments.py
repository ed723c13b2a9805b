"""What the public functions are given: names that are checked, and values that are read for what they mean.

    @accepts(checkpoint=one_checkpoint, each="checkpoint")
    def gate_statistics(checkpoint, *, seed=0): ...

An argument that does not fit is an `ArgumentError` of one line: it is an AlignerProbeError, and a TypeError as Python's
own would be.
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

#: Turns what was given for an argument into what the function works on, or raises; `where` is for its message.
Reader = Callable[[Any, str], Any]
Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])
#: Names of other libraries (PEFT, transformers, TRL) for the options that are meant here.
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
#: What an argument annotated with one of these types may be, and how a message calls that.
PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
    Path: (os.PathLike, "a path"),
    NoneType: (NoneType, "None"),
}


class ArgumentError(AlignerProbeError, TypeError):
    """An argument that a public function does not take, or lacks, or cannot use."""


def accepts(
    *,
    rest: Callable[[], Iterable[str]] | None = None,
    each: str | None = None,
    pair: tuple[str, str] | None = None,
    **readers: Reader,
) -> Callable[[Wrapped], Wrapped]:
    """A decorator for a public function, or for a class whose instances are made by users.

    `readers` say, by argument, how what was given is read. `rest` lists the names that `**options` may have. Where the
    argument `each` is a list, the function is called for every item of it and returns a list. With `pair`, a list of
    two that is given for the first of two arguments, alone, is both. Arguments without a reader that are annotated as
    numbers, texts, paths or data types are checked to be such.
    """

    def decorate(function: Wrapped) -> Wrapped:
        if inspect.isclass(function):
            function.__init__ = decorate(function.__init__)
            return function
        # "Aligner" for Aligner.__init__
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            bound = bind(signature, name, args, options, rest)
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

        def spread(*args: Any, **options: Any) -> Any:
            if len(args) == 1 and pair[1] not in options and is_several(args[0]) and len(several(args[0])) == 2:
                args = tuple(several(args[0]))
            return call(*args, **options)

        return functools.wraps(function)(spread) if pair else call

    return decorate


def bind(
    signature: inspect.Signature,
    name: str,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    rest: Callable[[], Iterable[str]] | None = None,
) -> inspect.BoundArguments:
    """The arguments by name. Raises ArgumentError where they do not fit the signature."""
    parameters = signature.parameters
    takes_more = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    known = [p.name for p in parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if rest is not None or not takes_more:
        check_names(name, options, [n for n in known if n != "self"] + list(rest() if rest and takes_more else ()))
    try:
        return signature.bind(*args, **options)
    except TypeError as error:
        shown = [str(p.replace(annotation=p.empty)) for p in parameters.values() if p.name != "self"]
        first = next((n for n, p in enumerate(parameters.values()) if p.kind == p.KEYWORD_ONLY), None)
        if first is not None:
            shown.insert(first - ("self" in parameters), "*")
        raise ArgumentError(f"{name}(): {error}; call {name}({', '.join(shown)})") from error


def plain(value: Any, where: str, annotation: Any) -> Any:
    """A value for an argument of a plain type, as Python's own number where it is one of numpy's.

    Raises ArgumentError where it is not of that type; a truth value is no number here. Other annotations check nothing.
    """
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    allowed = [_plain(part) for part in parts]
    if None in allowed or (value is None and (NoneType, "None") in allowed):
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
    """Raise ArgumentError for a name that is not known, with the nearest one that is."""
    known = list(dict.fromkeys(known))
    for unknown in given:
        if unknown not in known:
            raise ArgumentError(
                f"{name}() has no option {unknown!r}; {_in_a_recipe(unknown, known)}{meant(unknown, known)}it takes "
                f"{listed(known) or 'none'}"
            )


def _in_a_recipe(unknown: str, known: Collection[str]) -> str:
    """That an option belongs into the recipe, where a function takes one; else empty."""
    from aligner_probe.training.recipe import Recipe

    option = ALSO_CALLED.get(unknown, unknown)
    belongs = "recipe" in known and option not in known and option in Recipe.__dataclass_fields__
    return f"it belongs into recipe=ap.recipe({option}=...); " if belongs else ""


def meant(unknown: str, known: Collection[str]) -> str:
    """As `did_you_mean`, which knows only alike names; this also knows what other libraries call an option."""
    also = ALSO_CALLED.get(unknown)
    return f"did you mean {also}? " if also in known else did_you_mean(unknown, known)


def listed(names: Collection[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(list(names)[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown


def keywords_of(function: Callable[..., Any]) -> list[str]:
    """The names of a function's keyword-only arguments."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY]


def is_several(value: Any) -> bool:
    """Whether a value is a list of things: any iterable but a text, a mapping, an array or a table."""
    if isinstance(value, str | bytes | Mapping | Path) or hasattr(value, "shape"):
        return False
    return hasattr(value, "checkpoints") or isinstance(value, Iterable)


def several(value: Any) -> list[Any]:
    """The things in such a value; of `scan_checkpoints`' two lists the first, the second being what it passed over."""
    if hasattr(value, "checkpoints"):
        return list(value.checkpoints)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, list) for part in value):
        return list(value[0])
    return list(value)


def described(value: Any) -> str:
    """What a value is, for a message: its type, and what is in a list."""
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
    """The error for a value that an argument cannot use; `expected` says what it can, and what to call."""
    return ArgumentError(f"{where} was given {described(value)}; expected {expected}")


def a_model(value: Any, where: str) -> Any:
    """A base model for a bridge, or for its name or folder."""
    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.models import load_model

    if isinstance(value, TransformerBridge):
        return value
    if isinstance(value, str | Path):
        return load_model(value)
    if hasattr(value, "attached") and hasattr(value, "model"):
        raise refuse(value, where, "the base model: adapter.model, inside `with adapter.attached():`")
    raise refuse(value, where, 'a base model: ap.load_model("microworld"), or of a hub id or folder')


def several_of(kind: type | tuple[type, ...], expected: str) -> Reader:
    """A reader for a list of such values; for one alone it is a list of that one."""

    def read(value: Any, where: str) -> list[Any]:
        items = [value] if isinstance(value, kind) else several(value) if is_several(value) else None
        if items is None or not all(isinstance(item, kind) for item in items):
            raise refuse(value, where, expected)
        return items

    return read


def texts(value: Any, where: str) -> list[Any]:
    """A list of texts for one text, a list of texts, or a task, whose prompts they are.

    What is in the list is not looked at: the function that works on it names an item that is no text by its index.
    """
    if isinstance(value, str):
        return [value]
    value = getattr(value, "prompts", value)
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) == 1:
        return list(value.tolist())
    if is_several(value):
        return list(value)
    raise refuse(value, where, "a list of texts")
