"""Methods from a file or module of the user's, which is imported because the user names it."""

import importlib
import sys
from pathlib import Path

from aligner_probe.adapters.registry import METHODS
from aligner_probe.errors import AlignerProbeError


def load_plugin(plugin: str) -> tuple[str, ...]:
    """Import a Python file ("folder/my_method.py") or module ("my_package.my_method"), which runs its code.

    The folder of a file is added to the search path of modules, so that worker processes find it too.

    Returns:
        The names of the methods that its classes are registered under.

    Raises:
        AlignerProbeError: where it cannot be imported, or registers no method.
    """
    file = Path(plugin)
    is_file = file.suffix == ".py"
    if is_file and not file.is_file():
        raise AlignerProbeError(f"--plugin {plugin}: there is no such file")
    name = file.stem if is_file else plugin
    if is_file and (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(name)
    except AlignerProbeError:
        raise
    except Exception as error:
        raise AlignerProbeError(f"--plugin {plugin} cannot be imported: {type(error).__name__}: {error}") from error
    where = Path(getattr(module, "__file__", None) or "")
    if is_file and where.resolve() != file.resolve():
        raise AlignerProbeError(
            f"--plugin {plugin}: the name {name} is taken by the module {where}; give the file another name"
        )
    added = tuple(
        method for method, cls in METHODS.items() if cls.__module__.partition(".")[0] == name.partition(".")[0]
    )
    if not added:
        raise AlignerProbeError(
            f'--plugin {plugin} registers no method; expected a class with the decorator @ap.register_adapter("name")'
        )
    return added
