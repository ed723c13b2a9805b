"""The types of files, by their first bytes: which one is read, and how others are converted to it."""

import csv
import io
import re
import shlex
from pathlib import Path

from aligner_probe.errors import AlignerProbeError

#: As many bytes are looked at.
HEAD_BYTES = 8192
JSONL = "expected JSONL (one JSON object a line), CSV or Parquet"
PARQUET = b"PAR1"
#: File names that `Path.suffix` tells as a table's, with what stands between its columns.
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_TO_JSON = "orient='records', lines=True, force_ascii=False"


def refuse_other_types(file: Path, head: bytes) -> None:
    """Raise AlignerProbeError, with a command that converts it, for a file that is recognised as one that is not read.

    `head` are the first bytes of the file, at most `HEAD_BYTES`. A file that is not recognised passes.
    """
    recognised = _binary(file, head) or _text(file, head)
    if recognised is not None:
        what, way_on = recognised
        raise AlignerProbeError(f"{file}: is {what}; {JSONL}. {way_on}")


def refuse_other_folders(folder: Path) -> None:
    """Raise AlignerProbeError, with the way on, for a folder of a known sort that has no train.jsonl."""
    names = sorted(entry.name for entry in folder.iterdir())

    def first(*endings: str) -> str | None:
        usual = sorted(names, key=lambda name: (not name.startswith("train"), name))
        return next((name for name in usual if name.endswith(endings)), None)

    what = None
    if "config.json" in names and first(".safetensors", ".bin", ".gguf"):
        what = "is a model and no data", "Name it as --model, and a JSONL file as --task"
    elif "adapter_config.json" in names:
        what = "is an adapter and no data", "Name it as --adapter, and a JSONL file as --task"
    elif "dataset_dict.json" in names or "state.json" in names:
        what = "is a data set that `datasets` has saved", f"Name it as hub:{folder}"
    elif first(".parquet"):
        what = "holds Parquet files", f"Name one of them, or all of them as hub:{folder}"
    elif name := first(".csv", ".tsv", ".json"):
        what = f"holds {name}", f"Name the file: {folder / name}"
    if what is not None:
        raise AlignerProbeError(f"{folder}: {what[0]}; expected a train.jsonl in it. {what[1]}")


def _binary(file: Path, head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and the way on."""
    pandas = "import pandas as pd; pd.read_{}({!r}).to_json({!r}, " + _TO_JSON + ")"
    name, out = str(file), str(_jsonl(file))
    as_model = "Name it as --model, and a JSONL file as --task"
    if head.startswith((b"ARROW1", b"FEA1")):
        return "an Arrow (Feather) file", _with_command(pandas.format("feather", name, out))
    if head.startswith(b"\xff\xff\xff\xff"):
        code = f"from datasets import Dataset; Dataset.from_file({name!r}).to_json({out!r})"
        return "an Arrow stream, as `datasets` keeps them", _with_command(code)
    if head.startswith(b"ORC"):
        return "an ORC file", _with_command(pandas.format("orc", name, out))
    if head.startswith(b"GGUF"):
        return "a GGUF file, which is a model and no data", as_model
    if len(head) > 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 10**8:
        return "a safetensors file, which is a model and no data", as_model
    if head.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in head or b"xl/" in head or file.suffix.lower() in (".xlsx", ".xlsm"):
            return "an Excel workbook", _with_command(pandas.format("excel", name, out))
        if b"/data.pkl" in head:
            return "a file of torch.save, which holds tensors and no data", as_model
        return "a ZIP archive", f"Unpack it: unzip {shlex.quote(name)}"
    packed = {b"\x1f\x8b": "gunzip -k", b"BZh": "bunzip2 -k", b"\xfd7zXZ\x00": "unxz -k", b"\x28\xb5\x2f\xfd": "unzstd"}
    packed |= {b"\x04\x22\x4d\x18": "unlz4", b"7z\xbc\xaf\x27\x1c": "7z x", b"Rar!": "unrar x"}
    kinds = ("gzip", "bzip2", "xz", "Zstandard", "LZ4", "7-Zip", "RAR")
    for (start, command), kind in zip(packed.items(), kinds, strict=True):
        if head.startswith(start):
            return f"compressed ({kind})", f"Unpack it: {command} {shlex.quote(name)}"
    if head[257:262] == b"ustar":
        return "a tar archive", f"Unpack it: tar -xf {shlex.quote(name)}"
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return (
            "a pickled Python object, which may run code when it is opened",
            "Where you trust it, open it in Python and write each row as a line: json.dumps(row)",
        )
    others = {
        b"\x93NUMPY": "a NumPy array",
        b"SQLite format 3\x00": "an SQLite database",
        b"\x89HDF\r\n": "an HDF5 file",
        b"Obj\x01": "an Avro file",
        b"\xd0\xcf\x11\xe0": "an old Office file (.xls or .doc)",
        b"%PDF": "a PDF",
        b"\x89PNG": "an image",
        b"\xff\xd8\xff": "an image",
    }
    for start, what in others.items():
        if head.startswith(start):
            return what, "Write its rows out in Python, each as a line: json.dumps(row)"
    return None


def _text(file: Path, head: bytes) -> tuple[str, str] | None:
    """What a file of text is by its first lines, and the way on."""
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    start = text.lstrip()
    name, out = str(file), _jsonl(file)
    if start.startswith("version https://git-lfs.github.com/"):
        return "a Git LFS pointer and not the file itself", "Fetch the file: git lfs pull"
    if start[:15].lower().startswith(("<!doctype html", "<html")):
        return "a web page", "Download the file itself (on Hugging Face: the link with /resolve/ in it)"
    if start.startswith(("{", "[")):
        line = start.split("\n", 1)[0].strip()
        if start.startswith("{'"):
            code = (
                "import ast, json, sys; "
                f"[print(json.dumps(ast.literal_eval(line))) for line in open({name!r}, encoding='utf-8')]"
            )
            return "written as Python shows dictionaries, in single quotes", _with_command(code, str(out))
        if line == "{" and "\n" in start:
            return "JSON over several lines", f"Put each object on a line: jq -c . {shlex.quote(name)} > rows.jsonl"
    return None


def separator_of(file: Path, head: bytes) -> str | None:
    """What stands between the columns of a table; None where a file with these first bytes is none.

    A table is a file that is named as one, or lines of text with as many columns each, at least two, where the first
    line has a name for every column.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    whole = len(head) < HEAD_BYTES
    if not text.strip() or "\x00" in text or text.lstrip().startswith(("{", "[")):
        return None
    if (suffix := file.suffix.lower()) in SEPARATORS:
        header = text.split("\n", 1)[0]
        counts = {mark: header.count(mark) for mark in (SEPARATORS[suffix], ";", "\t", ",", "|")}
        return max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else SEPARATORS[suffix]
    for separator in ("\t", ",", ";", "|"):
        try:
            rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
        except csv.Error:
            continue
        if not whole and len(rows) > 1:
            rows = rows[:-1]  # it may be cut off
        names = [name.strip() for name in rows[0]]
        if len(rows) < 2 or len(names) < 2 or {len(row) for row in rows} != {len(names)}:
            continue
        if all(0 < len(name) <= 40 for name in names) and len(set(names)) == len(names):
            return separator
    return None


def _with_command(code: str, out: str | None = None) -> str:
    """A line for a shell: in double quotes where nothing in the code means anything to it."""
    quoted = f'"{code}"' if re.fullmatch(r"(?:[^\"$`!\\]|\\t)*", code) else shlex.quote(code)
    return f"Turn it into JSONL: python -c {quoted}" + ("" if out is None else f" > {shlex.quote(out)}")


def _jsonl(file: Path) -> Path:
    """Where the rows of a file are to go: beside it, and never over it."""
    return file.with_suffix(".rows.jsonl" if file.suffix == ".jsonl" else ".jsonl")
