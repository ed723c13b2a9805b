"""The import hook of jaxtyping, which checks every signature of the package, at less cost.

Nothing is checked less: only what the hook did anew each time is remembered. Both functions change names inside
jaxtyping, whose version is fixed by requirements.lock; tests/unit/test_typechecking.py says what they must keep.
"""

from functools import cache, partial
from importlib import _bootstrap_external
from importlib.machinery import SourceFileLoader
from types import CodeType
from unittest.mock import patch

from jaxtyping import _decorator, _import_hook


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


def make_each_check_once() -> None:
    """Make the check of a signature once, and not each time that a function is defined.

    A function inside a function is defined at every call of the outer one, for instance a hook at every attachment of
    an adapter, and each time its check was written and compiled anew, in some milliseconds. A check depends on the
    signature and on the names in its messages alone, so that functions that share these can share it.
    """
    make, apply = _decorator._make_fn_with_signature, _decorator._apply_typechecker
    remembered_make, remembered_apply = cache(make), cache(apply)

    def make_once(name, qualname, module, signature, output):
        try:
            return remembered_make(name, qualname, module, signature, output)
        except TypeError:  # a default that has no hash
            return make(name, qualname, module, signature, output)

    _decorator._make_fn_with_signature, _decorator._apply_typechecker = make_once, remembered_apply
