"""The options of the adapter's method in `aligner-probe train`: which there are, and which method takes which.

They come from the config dataclass of each method (`declared.py`), so a method that is added declares them there.
"""

import argparse
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from aligner_probe.commands.declared import Declared, MethodOption, options_of, package_methods
from aligner_probe.commands.options import Group, finite, names, start_seed
from aligner_probe.errors import AlignerProbeError

DEFAULT_METHOD = "aligner"
SEED = "seed"
ANOTHER_FLAG = 'an option of another name: field(default=..., metadata={"flag": "OTHER_NAME"})'


def known_methods(argv: Sequence[str] | None = None) -> Declared:
    """The package's methods, and those that the file or module of --plugin registers, which is imported for that.

    Raises AlignerProbeError for a plugin that cannot be imported or registers no method.
    """
    ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_plugin(ahead)
    try:
        plugin = ahead.parse_known_args(argv)[0].plugin
    except argparse.ArgumentError:  # the whole parser says what is wrong
        plugin = None
    methods = package_methods()
    if plugin is None:
        return methods

    from aligner_probe.adapters.plugins import load_plugin
    from aligner_probe.adapters.registry import METHODS, config_class

    added = load_plugin(plugin)
    return methods | {name: options_of(config_class(METHODS[name])) for name in added}


def add_plugin(parser: Group) -> None:
    """Add --plugin, which names a module of the user's that registers methods."""
    parser.add_argument(
        "--plugin",
        metavar="P",
        help="a Python file or module with methods of your own (@ap.register_adapter); its code is run",
    )


def add_method_options(group: Group, methods: Declared) -> None:
    """Add the options of all methods; `method_options` reads them.

    Raises AlignerProbeError where a method declares an option that the command has already, or that another method has
    with other values.
    """
    by_flag: dict[str, dict[str, MethodOption]] = {}
    for name in methods:
        for option in methods[name]:
            by_flag.setdefault(option.flag, {})[name] = option
    for flag, declared in by_flag.items():
        option = next(iter(declared.values()))
        kind = _kind(option)
        for name, other in declared.items():
            if _kind(other) != kind:
                raise AlignerProbeError(
                    f"{name} has an option --{flag} of another type than {next(iter(declared))}'s; give the field "
                    f"{other.name} another name, or {ANOTHER_FLAG}"
                )
        if kind is None:
            continue
        try:
            group.add_argument(f"--{flag}", dest=_dest(flag), help=_help(declared, len(methods)), **kind)
        except argparse.ArgumentError as error:
            raise AlignerProbeError(
                f"{', '.join(declared)}: the command has an option --{flag} of its own; give the field {option.name} "
                f"another name, or {ANOTHER_FLAG}"
            ) from error


def method_options(options: argparse.Namespace, methods: Declared) -> dict[str, Any]:
    """The options that were given for the method, except the seed, as keyword arguments of its adapter class.

    Raises AlignerProbeError for an option that the method does not take, and for any of them beside --adapter, whose
    file holds them already.
    """
    method = options.method or DEFAULT_METHOD
    flags = list(dict.fromkeys(option.flag for declared in methods.values() for option in declared))
    given = {flag: value for flag in flags if (value := getattr(options, _dest(flag), None)) is not None}
    if options.adapter is not None:
        named = [f"--{flag}" for flag in (*(["method"] if options.method else []), *given)]
        if named:
            raise AlignerProbeError(f"--adapter has its own {', '.join(named)}; leave these out")
    taken = {option.flag: option for option in methods[method]}
    for flag in given:
        if flag not in taken:
            takes = ", ".join(flag for flag in taken if flag != SEED)
            raise AlignerProbeError(f"{method} takes no --{flag}; it takes {takes or 'no options'}")
    return {
        taken[flag].name: taken[flag].values.get(value, value) if taken[flag].values else value
        for flag, value in given.items()
        if flag != SEED
    }


def _dest(flag: str) -> str:
    return flag.replace("-", "_")


def _help(declared: dict[str, MethodOption], n_methods: int) -> str:
    """What an option is, and of which methods; once for methods that say the same of it."""
    by_text: dict[str, list[str]] = {}
    for name, option in declared.items():
        by_text.setdefault(option.help, []).append(name)
    whole = len(by_text) == 1 and len(declared) == n_methods
    parts = [text if whole else f"{', '.join(its)}: {text}".removesuffix(": ") for text, its in by_text.items()]
    return "; ".join(parts).replace("%", "%%")


def _kind(option: MethodOption) -> dict[str, Any] | None:
    """How argparse reads an option; None for a type that a command line cannot give."""
    if option.name == SEED:
        return {"type": start_seed, "metavar": "S"}
    if option.values:
        return {"choices": list(option.values)}
    annotation = option.annotation
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    is_union = get_origin(annotation) in (Union, UnionType)
    parts = [part for part in (get_args(annotation) if is_union else (annotation,)) if part is not NoneType]
    if any((get_origin(part) or part) is tuple for part in parts):
        return {"type": names, "metavar": "A,B"}
    readers: dict[Any, tuple[Callable[[str], Any], str]] = {float: (finite, "X"), int: (int, "N"), str: (str, "TEXT")}
    for part, (reader, metavar) in readers.items():
        if part in parts:
            return {"type": reader, "metavar": metavar}
    return None
