"""The options that each method declares, known without importing torch.

A method declares its options as fields of its config dataclass, in the module of its class, and that module imports
torch. So that `train --help` answers at once, the package's own modules are parsed here and not imported. A plugin is
imported anyway, and its config dataclass is read as it is.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_type_hints

#: What the annotations of the fields are made of.
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple, "Literal": Literal}
DECORATOR, CONFIG = "register_adapter", "config"


@dataclass(frozen=True)
class MethodOption:
    """One field of a config, as an option of the command.

    `flag` is the option without its dashes. Where `values` are given, the option takes their names.
    """

    name: str
    annotation: Any
    help: str
    flag: str
    values: Mapping[str, Any] = field(default_factory=dict)


#: The options of each method, by the method's name.
Declared = dict[str, tuple[MethodOption, ...]]


@cache
def package_methods() -> Declared:
    """The package's own methods, from the source of `aligner_probe/adapters`."""
    sources = sorted(files("aligner_probe").joinpath("adapters").iterdir(), key=lambda file: file.name)
    parsed = [ast.parse(file.read_text(encoding="utf-8")) for file in sources if file.name.endswith(".py")]
    classes = {node.name: node for tree in parsed for node in tree.body if isinstance(node, ast.ClassDef)}
    methods: Declared = {}
    for cls in classes.values():
        if (name := _registered_name(cls)) is not None:
            options: dict[str, MethodOption] = {}
            for config in _with_bases(_config_of(cls, classes), classes):
                options |= {option.name: option for option in _options_in(config)}
            methods[name] = tuple(options.values())
    return methods


def options_of(config: type) -> tuple[MethodOption, ...]:
    """The options of a config dataclass that is imported."""
    hints = get_type_hints(config)
    return tuple(_option(one.name, hints[one.name], one.metadata) for one in fields(config))


def _option(name: str, annotation: Any, metadata: Mapping[str, Any]) -> MethodOption:
    values = metadata.get("values") or ({"yes": True, "no": False} if annotation is bool else {})
    flag = metadata.get("flag", name).replace("_", "-")
    return MethodOption(name, annotation, metadata.get("help", ""), flag, values)


def _registered_name(cls: ast.ClassDef) -> str | None:
    """The name in `@register_adapter("name")` above a class."""
    for decorator in cls.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == DECORATOR:
            return ast.literal_eval(decorator.args[0])
    return None


def _config_of(cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> ast.ClassDef:
    """The class in the annotation `config: ...` of a class of adapters, or of the nearest class that it extends."""
    for one in reversed(_with_bases(cls, classes)):
        for node in one.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == CONFIG:
                return classes[ast.unparse(node.annotation)]
    raise LookupError(f"{cls.name} does not annotate {CONFIG}")


def _with_bases(cls: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The classes that a class extends, the most general first, and the class itself last."""
    bases = [classes[ast.unparse(base)] for base in cls.bases if ast.unparse(base) in classes]
    return [*(one for base in bases for one in _with_bases(base, classes)), cls]


def _options_in(config: ast.ClassDef) -> Iterator[MethodOption]:
    """The fields in the body of a config dataclass."""
    for node in config.body:
        if isinstance(node, ast.AnnAssign):
            keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
            metadata = {one.arg: one.value for one in keywords}.get("metadata")
            annotation = eval(ast.unparse(node.annotation), {"__builtins__": {}}, TYPES)
            yield _option(ast.unparse(node.target), annotation, ast.literal_eval(metadata) if metadata else {})
