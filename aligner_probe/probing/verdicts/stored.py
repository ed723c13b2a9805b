"""Evidence as JSON, from which a verdict can be given anew when cuts or rules change.

    fields = as_json(evidence)
    judge(from_json(fields), thresholds)

Numbers are kept to five significant digits. Those that are not finite are texts ("nan", "inf"), which JSON can hold.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import for_json
from aligner_probe.probing.verdicts.evidence import Evidence

DIGITS = 5


def as_json(evidence: Evidence) -> dict[str, Any]:
    """The fields of the evidence, ready for JSON."""
    return for_json(asdict(evidence), _kept)


def from_json(fields: Any) -> Evidence:
    """The evidence of such fields. Raises AlignerProbeError where they are not those of an evidence."""
    try:
        return _read(Evidence, fields)
    except (TypeError, ValueError, AttributeError, KeyError) as reason:
        raise AlignerProbeError(
            f"the stored evidence is not that of a probe ({reason}); probe the task again, or take a file that this "
            "version wrote"
        ) from None


def _kept(number: float) -> float | str:
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else str(number)


def _read(kind: Any, value: Any) -> Any:
    """A value as its type says: a dataclass from its fields by name, a number from a number or its text."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        [kind] = [one for one in args if one is not NoneType]
        return _read(kind, value)
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _read(hints[name], each) for name, each in value.items()})
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_read(one, each) for one, each in zip(kinds, value, strict=True))
    if origin in (dict, Mapping):
        return {name: _read(args[1], each) for name, each in value.items()}
    return float(value) if kind is float else value
