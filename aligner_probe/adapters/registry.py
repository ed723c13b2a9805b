"""The methods that the package knows: one table, filled by the decorator `register_adapter`.

A method is declared where its class is written:

    @ap.register_adapter("head_scale")
    class HeadScale(ap.Adapter):
        config: HeadScaleConfig
        learning_rates = (0.003, 0.01, 0.03)
        ...

Everything else that depends on the method asks the class (see `Adapter` for what a class can declare), so a method
written outside the package is trained, resumed, saved, loaded, estimated and probed like the package's own.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.config import AdapterConfig
from aligner_probe.arguments import accepts
from aligner_probe.errors import AlignerProbeError, did_you_mean

AdapterClass = TypeVar("AdapterClass", bound=type[Adapter])


class _Methods(Mapping[str, type[Adapter]]):
    """Classes by the name of their method, in the order in which they were registered."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Adapter]] = {}

    def __getitem__(self, name: str) -> type[Adapter]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def add(self, name: str, cls: type[Adapter]) -> None:
        known = self._classes.get(name)
        # A notebook cell that is run again defines its class again.
        if known is not None and _home(known) != _home(cls):
            raise AlignerProbeError(
                f"method {name!r} is taken by {known.__module__}.{known.__qualname__}; register "
                f"{cls.__qualname__} under another name"
            )
        self._classes[name] = cls


#: All registered methods, those of the package first; a mapping that only `register_adapter` changes.
METHODS = _Methods()


@accepts(name=lambda value, _: value)  # a wrong one gets the message below
def register_adapter(name: str) -> Callable[[AdapterClass], AdapterClass]:
    """Decorate a subclass of `Adapter` so that the package knows it as the method `name`.

    The class annotates `config` with its config dataclass, and its constructor takes the base model and every field of
    that config as a keyword: this is how a saved adapter is made again. It may take `dtype`, the data type of the
    parameters.

    Args:
        name: lower-case letters, digits and underscores, for instance "head_scale". It is written into saved adapters
            and is what `train --method` takes.

    Returns:
        The decorator, which returns the class itself with its `method` set to the name.

    Raises:
        AlignerProbeError: for another kind of name, a class that is no adapter, a config that is no dataclass of
            `AdapterConfig`, a constructor that lacks an option of the config, or a name that another class has.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AlignerProbeError(
            f"register_adapter({name!r}): expected a name of lower-case letters, digits and underscores, for instance "
            '@ap.register_adapter("head_scale")'
        )

    def register(cls: Any) -> Any:
        if not (inspect.isclass(cls) and issubclass(cls, Adapter)):
            raise AlignerProbeError(f"register_adapter({name!r}) was given {cls!r}; expected a subclass of ap.Adapter")
        config = _declared_config(cls)
        if not (inspect.isclass(config) and issubclass(config, AdapterConfig) and is_dataclass(config)):
            raise AlignerProbeError(
                f"{cls.__qualname__}.config is {config!r}; expected a dataclass that extends ap.AdapterConfig or "
                "ap.LayeredConfig, as the annotation `config: MyConfig` in the class"
            )
        taken = inspect.signature(cls).parameters
        missing = [field.name for field in fields(config) if field.name not in taken]
        if missing and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in taken.values()):
            raise AlignerProbeError(
                f"{cls.__qualname__}() does not take {', '.join(missing)}, which {config.__name__} has; add the "
                "keyword to its constructor, or a saved adapter could not be loaded"
            )
        METHODS.add(name, cls)
        cls.method = name
        return cls

    return register


def adapter_class(name: Any) -> type[Adapter]:
    """The class of a method. Raises AlignerProbeError for a name that is not registered."""
    if not isinstance(name, str) or name not in METHODS:
        raise AlignerProbeError(f"no method is named {name!r}; {expected_methods(name)}")
    return METHODS[name]


def expected_methods(name: Any) -> str:
    """The end of a message about a method that is not registered: which ones are, and how to register another."""
    return (
        f"{did_you_mean(name, METHODS)}expected one of {', '.join(METHODS)}; a method of your own is known once its "
        "class has the decorator @ap.register_adapter and its module is imported (train: --plugin FILE)"
    )


def is_registered(cls: type[Adapter]) -> bool:
    """Whether a class, or an earlier definition of it, is registered under its `method`."""
    known = METHODS.get(getattr(cls, "method", ""))
    return known is not None and _home(known) == _home(cls)


def _home(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def config_class(cls: type[Adapter]) -> type[AdapterConfig]:
    """The config dataclass that a registered class declares by the annotation of `config`."""
    return _declared_config(cls)


def _declared_config(cls: type[Adapter]) -> Any:
    """What a class, or the nearest class that it extends, annotates `config` with."""
    for base in cls.__mro__:
        declared = inspect.get_annotations(base).get("config")
        if isinstance(declared, str):  # the user's module has `from __future__ import annotations`
            declared = inspect.get_annotations(base, eval_str=True)["config"]
        if declared is not None:
            return declared
    return AdapterConfig


def new_adapter(
    name: str, model: TransformerBridge, options: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Adapter:
    """An adapter of a registered method, as it starts.

    Args:
        name: the method.
        model: the base model.
        options: keyword arguments of the class: fields of its config.
        dtype: data type of the parameters; None for the class's own default.

    Raises:
        AlignerProbeError: for an unknown method, and for options that do not fit.
    """
    make: Any = adapter_class(name)  # each class has a signature of its own
    if dtype is None:
        return make(model, **options)
    if "dtype" in inspect.signature(make).parameters:
        return make(model, **options, dtype=dtype)
    return make(model, **options).to(dtype)
