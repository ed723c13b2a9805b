"""Where the rows of a task come from: a file of a known type, a part of a folder, a data set by name, or memory."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import hub
from aligner_probe.tasks.filetypes import HEAD_BYTES, PARQUET, refuse_other_folders, refuse_other_types, separator_of
from aligner_probe.tasks.given import IN_MEMORY, as_jsonl
from aligner_probe.tasks.panel import panel_task
from aligner_probe.tasks.rows import json_type
from aligner_probe.tasks.tables import rows_of_csv, rows_of_parquet

MAX_FILE_BYTES = 2**30
#: Before the name of a task of the known-answer panel.
NAMED = "panel:"
#: The parts of a folder, and how their files end. The first ending is preferred.
Part = Literal["train", "test", "validation"]
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
#: What a file is expected to be.
FILE = "expected a file of JSONL, JSON, CSV or Parquet"

Rows = Iterable[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Source:
    """Numbered rows and where they came from.

    Attributes:
        said: What messages call it: the file, or the name of a data set.
        name: The name of the task, unless the user gives one.
        rows: The rows, each with its number from one. They are read as they are asked for.
        unit: What is numbered: lines of the file, or rows.
        source: `Task.source`; empty for rows in memory.
        sha256: The hash of the file or of the rows; empty for rows in memory.
    """

    said: str
    name: str
    rows: Rows
    unit: Literal["line", "row"] = "line"
    source: str = ""
    sha256: str = ""

    def error(self, number: int | None, what: str) -> AlignerProbeError:
        """An error about the row of this number."""
        return AlignerProbeError(f"{self.said}, {self.unit} {number}: {what}")


def in_memory(rows: list[Any]) -> Source:
    """Rows in memory, which are read by the rules of a file."""
    return Source(IN_MEMORY, IN_MEMORY, _jsonl(Path(IN_MEMORY), as_jsonl(rows)))


def open_source(path: str | Path) -> Source:
    """The rows of a file, of a folder's training part, of "panel:NAME" or of "hub:NAME".

    Raises AlignerProbeError where there are none, or the file is of another type or too large.
    """
    if hub.is_hub(path):
        split = hub.read_hub(str(path), MAX_FILE_BYTES)
        return Source(split.said, split.name, enumerate(split.rows, start=1), "row", split.said, split.sha256)
    file = _file(Path(path_of(path)))
    content = _read(file)
    rows, unit = _rows(file, content)
    name = file.resolve().parent.name if file.stem in ("train", "test") else file.stem
    return Source(str(file), name, rows, unit, str(file), hashlib.sha256(content).hexdigest())


def path_of(path: str | Path) -> str | Path:
    """A path as it is; the folder of a panel task for its name ("panel:style_pirate")."""
    return panel_task(str(path).removeprefix(NAMED)) if str(path).startswith(NAMED) else path


def part_of(folder: Path, part: Part) -> Path | None:
    """The file of a part in a folder, "train.jsonl" or one with another ending; None where there is none.

    Raises AlignerProbeError where several files could be meant, and none of them is JSONL.
    """
    files = [file for ending in ENDINGS if (file := folder / f"{part}{ending}").is_file()]
    if len(files) > 1 and files[0].suffix != ENDINGS[0]:
        names = " and ".join(file.name for file in files)
        raise AlignerProbeError(f"{folder}: holds {names}; expected one file of that part. Name the one that is meant")
    return files[0] if files else None


def beside(path: str | Path, part: Part) -> str | Path | None:
    """Another part of the data set that a folder, a file train.* or "hub:NAME" belongs to; None where it has none."""
    if hub.is_hub(path):
        return hub.other_split(str(path), part)
    path = Path(path_of(path))
    if path.is_dir():
        return part_of(path, part)
    return part_of(path.parent, part) if path.stem == "train" and path.suffix in ENDINGS else None


def _file(path: Path) -> Path:
    """The file that a path to a file or folder means."""
    if path.is_dir():
        file = part_of(path, "train")
        if file is None:
            refuse_other_folders(path)
            inside = sorted(entry.name for entry in path.iterdir())
            holds = f"holds {', '.join(inside[:4])}{', …' * (len(inside) > 4)}" if inside else "is empty"
            raise AlignerProbeError(f"{path}: {holds}; expected a train.jsonl in it. Name a JSONL file instead")
        path = file
    if not path.exists():
        raise AlignerProbeError(f"{path}: does not exist; {FILE}, or a folder with a train.jsonl in it")
    if not path.is_file():
        raise AlignerProbeError(f"{path}: is no plain file; expected JSONL, one object a line, saved to a file")
    return path


def _read(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            # Before the size, since a model is no data however large it is.
            refuse_other_types(file, opened.read(HEAD_BYTES))
            if size <= MAX_FILE_BYTES:
                opened.seek(0)
                # One more than allowed, in case it grew since.
                content = opened.read(MAX_FILE_BYTES + 1)
                if len(content) <= MAX_FILE_BYTES:
                    return content
                size = len(content)
    except OSError as error:
        raise AlignerProbeError(f"{file}: cannot be read ({error.strerror}); {FILE}") from error
    raise AlignerProbeError(
        f"{file}: holds {size:,} bytes, over the limit of {MAX_FILE_BYTES:,}; take a part of it, for instance with "
        "`head -n 100000`"
    )


def _rows(file: Path, content: bytes) -> tuple[Rows, Literal["line", "row"]]:
    """The rows by the type of the file, and what their numbers count."""
    head = content[:HEAD_BYTES]
    if head.startswith(PARQUET):
        return rows_of_parquet(file, content, MAX_FILE_BYTES), "row"
    if (separator := separator_of(file, head)) is not None:
        return rows_of_csv(file, content, separator, MAX_FILE_BYTES), "line"
    if content.removeprefix(BOM).lstrip()[:1] == b"[":
        return _json_list(file, content.removeprefix(BOM)), "row"
    return _jsonl(file, content), "line"


#: A byte order mark, as some editors write.
BOM = b"\xef\xbb\xbf"


def _jsonl(file: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects and their line numbers, from one; blank lines may stand at the end only."""
    blank = None
    start, line = 3 if content.startswith(BOM) else 0, 0
    # Lines end in \n alone: characters that Unicode counts as line breaks may stand inside JSON text.
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        raw, start, line = content[start:end].strip(b" \t\r"), end + 1, line + 1
        if not raw:
            blank = blank or line
            continue
        if blank is not None:
            raise _at(file, blank, "is blank, with rows after it; expected one JSON object a line. Remove it")
        row = _parsed(raw, lambda said, at=line: _at(file, at, f"{said}; expected one JSON object a line"))
        if not isinstance(row, dict):
            raise _at(file, line, f"is a JSON {json_type(row)}; expected an object with named fields")
        yield line, row


def _json_list(file: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list and their numbers, from one."""
    rows = _parsed(content, lambda said: AlignerProbeError(f"{file}: {said}; expected a JSON list of objects"))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise AlignerProbeError(
                f"{file}, row {number}: is a JSON {json_type(row)}; expected an object with named fields"
            )
        yield number, row


def _parsed(raw: bytes, error: Callable[[str], AlignerProbeError]) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_once_each)
    except _Twice as twice:
        raise error(
            f"names the field {_short(twice.name)} twice in one object, so that one of its values would be lost"
        ) from twice
    except UnicodeDecodeError as fault:
        raise error(f"is no UTF-8 (byte {raw[fault.start]:#04x}), which `iconv` converts") from fault
    except (ValueError, RecursionError) as fault:
        said = str(fault) if isinstance(fault, json.JSONDecodeError) else "a number or nesting beyond all bounds"
        raise error(f"is no JSON ({said})") from fault


class _Twice(Exception):
    """A JSON object that names a field twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises _Twice where a name stands twice, of which json keeps the last silently."""
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return read


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")


def _at(file: Path, line: int, what: str) -> AlignerProbeError:
    return AlignerProbeError(f"{file}, line {line}: {what}")
