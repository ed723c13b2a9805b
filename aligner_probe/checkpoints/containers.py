"""Read the tensors of a file that may come from a stranger, without running any code in it.

The file is torch's zip archive, torch's pickle, or safetensors; its content tells which. torch files are read with
`weights_only=True`, which refuses a pickle that holds anything but tensors. Sizes are checked before memory is
allocated.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aligner_probe.errors import CheckpointError

StateDict = dict[str, Tensor]

#: Limits far above any prefix adapter: LLaMA-Adapter-10 on a base model of 70B parameters has 6.6 million.
MAX_FILE_BYTES = 2**30
MAX_VALUES = 2**28

WANTED = "a torch .pth or a .safetensors file of adapter tensors"


def read_tensors(path: Path) -> StateDict:
    """All tensors of a file, by name, on the CPU, in their stored precision.

    If the file holds a dictionary with the state dict under `model` or `state_dict` (litgpt, OpenGVLab), the result is
    that state dict. Raises CheckpointError if the file holds no tensors, is incomplete, is too large, or asks to run
    code.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror}); expected {WANTED}") from error
    if size > MAX_FILE_BYTES:
        raise CheckpointError(
            path,
            f"holds {size:,} bytes, more than the {MAX_FILE_BYTES:,} any prefix adapter needs; a whole model? "
            "Save the adapter's tensors alone",
        )
    if head.startswith(b"PK"):
        return _flatten(path, _load_torch_zip(path, size))
    if head.startswith(b"\x80"):
        return _flatten(path, _load_torch(path))
    if _is_safetensors(head, size):
        return _load_safetensors(path)
    raise CheckpointError(path, f"{_what_it_is(path, head, size)}; expected {WANTED}")


def looks_like_weights(path: Path) -> bool:
    """Whether a file in a scanned folder is likely to hold weights, by the end of its name or by its first bytes."""
    if path.suffix in {".pth", ".pt", ".bin", ".ckpt", ".safetensors"}:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(9)
        size = path.stat().st_size
    except OSError:
        return False
    return head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")) or _is_safetensors(head, size)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins as safetensors do: eight bytes with the length of a header, then the header in JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= size


def _what_it_is(path: Path, head: bytes, size: int) -> str:
    if size == 0:
        return "is an empty file"
    if head.lstrip()[:1] in (b"{", b"["):
        return "is JSON text, no checkpoint, whatever its name says; ask its authors for the weights"
    if head.lstrip()[:1] == b"<":
        return "is an HTML or XML page, no checkpoint; download the raw file instead of the page that shows it"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`"
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return (
            f"has a wrong safetensors header (it announces {int.from_bytes(head[:8], 'little'):,} bytes in a file of "
            f"{size:,}); copy or download it again"
        )
    return f"is no checkpoint (it begins with {head[:8]!r})"


def _load_torch_zip(path: Path, size: int) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(
            path, f"is a torch file cut short or damaged ({size:,} bytes; {error}); copy or download it again"
        ) from error
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_FILE_BYTES:
        raise CheckpointError(path, f"would unpack to {unpacked:,} bytes, over the limit of {MAX_FILE_BYTES:,}")
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise CheckpointError(path, f"is a zip archive without torch's data.pkl in it; expected {WANTED}")
    return _load_torch(path)


def _load_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        asks = f"asks to run or build `{named[1]}`" if named else "holds more than tensors, or is damaged"
        raise CheckpointError(
            path,
            f"{asks}, so it was refused unread; have whoever made it save the adapter's tensors alone "
            "(safetensors.torch.save_file)",
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ... on damaged files
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            path, f"is a torch file cut short or damaged ({first}); copy or download it again"
        ) from error


def _load_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _flatten(path, load_file(path, device="cpu"))
    except SafetensorError as error:
        raise CheckpointError(
            path, f"has a wrong safetensors header or is cut short ({error}); copy or download it again"
        ) from error


def _flatten(path: Path, loaded: object) -> StateDict:
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(path, f"holds a {type(loaded).__name__}, not tensors by name; expected {WANTED}")
    tensors: StateDict = {}
    n_values = 0
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(path, f"holds {name!r}: {type(value).__name__}; expected tensors by name only")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(path, f"{name} is sparse, quantised or empty of data; expected plain tensors")
        # A view may claim any size over one stored value, so count before anything copies it.
        n_values += value.numel()
        if n_values > MAX_VALUES:
            raise CheckpointError(path, f"claims over {MAX_VALUES:,} values, more than any prefix adapter has")
        tensors[name] = value.detach()
    if not tensors:
        raise CheckpointError(path, f"holds no tensors; expected {WANTED}")
    return tensors
