"""The import hook of jaxtyping, which checks every signature of the package, at less cost.

Nothing is checked less: what the hook did anew each time is remembered, and what it did twice is done once. All of it
changes names inside jaxtyping, whose version requirements.lock fixes; test_typechecking.py says what they must keep.
"""

from functools import cache, partial
from importlib import _bootstrap_external
from importlib.machinery import SourceFileLoader
from inspect import Parameter, Signature, isgeneratorfunction
from types import CodeType, FunctionType
from typing import Any, ForwardRef, TypeVar, get_args
from unittest.mock import patch

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, _decorator, _import_hook


def _get_code(self: _import_hook._JaxtypingLoader, fullname: str) -> CodeType | None:
    own_name = partial(_import_hook._optimized_cache_from_source, self._typechecker.get_hash())
    with patch.object(_bootstrap_external, "cache_from_source", own_name):
        return SourceFileLoader.get_code(self, fullname)


def read_bytecode_of_other_packages() -> None:
    """Load what a checked module imports from its own bytecode.

    jaxtyping keeps the bytecode of checked modules under a name of its own, and holds that name in place while such a
    module is executed. Whatever the module imports meanwhile (torch and transformers among it) is then looked for under
    that name as well, and where it is not there it is compiled anew: some 2,600 modules a process. Here the name holds
    while the module's own code is read, and no longer.
    """
    _import_hook._JaxtypingLoader.get_code = _get_code
    _import_hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module


def _with_return_alone(signature: Signature) -> Signature:
    """The signature with the type hint of its return value alone."""
    bare = [parameter.replace(annotation=Parameter.empty) for parameter in signature.parameters.values()]
    return signature.replace(parameters=bare)


def make_each_check_once() -> None:
    """Make the check of a signature once, and not each time that a function is defined; check parameters once a call.

    jaxtyping checks the parameters, calls the function, and checks the parameters once more together with the return
    value, for checkers that compare type variables. The sizes of axes do not need that: jaxtyping remembers them from
    the first check until the call ends.

    A function inside a function is defined at every call of the outer one, for instance a hook at every attachment of
    an adapter, and each time its check was written and compiled anew, in some milliseconds. A check depends on the
    signature and on the names in its messages alone, so that functions that share these can share it.
    """
    make, apply = _decorator._make_fn_with_signature, _decorator._apply_typechecker
    remembered_make, remembered_apply = cache(make), cache(apply)

    def make_once(name, qualname, module, signature, output):
        if output:
            signature = _with_return_alone(signature)
        try:
            return remembered_make(name, qualname, module, signature, output)
        except TypeError:  # a default that has no hash
            return make(name, qualname, module, signature, output)

    _decorator._make_fn_with_signature, _decorator._apply_typechecker = make_once, remembered_apply


def _may_name_arrays(hint: Any) -> bool:
    """Whether a type hint has an array type of jaxtyping in it, or something that cannot be looked into."""
    if isinstance(hint, str | ForwardRef | TypeVar):
        return True
    if isinstance(hint, list | tuple):  # the parameters of a Callable
        return any(map(_may_name_arrays, hint))
    if isinstance(hint, type) and (issubclass(hint, AbstractArray) or hint.__module__.startswith("jaxtyping")):
        return True
    return any(map(_may_name_arrays, get_args(hint)))


def leave_signatures_without_arrays_to_beartype() -> None:
    """Check a signature without array types by beartype itself, which raises the same TypeCheckError.

    jaxtyping lets beartype check the parameters, calls the function, and lets it check the result; before that it binds
    the arguments, for the sizes of axes. All of that takes some 50 microseconds a call, a hundred times what beartype
    takes, and where no array has an axis to name it finds nothing more.
    A function that is defined inside another one stays with jaxtyping, where its check is made once: see above. So does
    a generator function, whose parameters beartype alone would check at the first step and not at the call.
    """
    by_jaxtyping = _decorator.jaxtyped
    by_beartype = beartype(conf=BeartypeConf(violation_type=TypeCheckError))

    def jaxtyped(fn: Any = None, *, typechecker: Any = None) -> Any:
        if fn is None:
            return partial(jaxtyped, typechecker=typechecker)
        if isinstance(fn, FunctionType) and typechecker is not None:
            hints = fn.__annotations__.values()
            if not hints:
                return fn
            inner_or_generator = "<locals>" in fn.__qualname__ or isgeneratorfunction(fn)
            if not inner_or_generator and not any(map(_may_name_arrays, hints)):
                return by_beartype(fn)
        return by_jaxtyping(fn, typechecker=typechecker)

    _decorator.jaxtyped = jaxtyping.jaxtyped = jaxtyped
