"""Rows of tables: CSV and its kin, and Parquet.

Every cell of a CSV file is text, exactly as it stands: "NA" is no missing value and "007" no number. In Parquet, cells
keep their types; nested lists of structs become lists of objects, as JSON has them.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError

Row = dict[str, Any]
#: Rows of a Parquet file that are in memory at once, besides those that were read.
BATCH = 64


def rows_of_csv(file: Path, content: bytes, separator: str, most: int) -> Iterator[tuple[int, Row]]:
    """The rows, each with the line on which it begins, from one; the first line has the names.

    A column without a name, as pandas writes its index, is named "index". `most` is the most characters of one cell.

    Raises AlignerProbeError, naming the line, for what is no UTF-8, for a row with another number of cells than there
    are names, for a name that stands twice, and for quotes that do not end.
    """
    text = _decoded(file, content)
    limit = csv.field_size_limit(most)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names: list[str] | None = None
        blank = None
        start = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _at(
                    file, start, f"is no row of the table ({error}); expected cells in balanced quotes"
                ) from error
            line, start = start, reader.line_num + 1
            if cells is None:
                return
            if not cells:
                blank = blank or line
            elif blank is not None:
                raise _at(file, blank, "is blank, with rows after it; expected one row a line. Remove it")
            elif names is None:
                names = _names(file, line, cells)
            elif len(cells) != len(names):
                raise _at(
                    file,
                    line,
                    f"has {len(cells)} cells; expected {len(names)}, one for each name of the first line. Put texts "
                    f"with {_SHOWN.get(separator, separator)} in them into double quotes",
                )
            else:
                yield line, dict(zip(names, cells, strict=True))
    finally:
        csv.field_size_limit(limit)


_SHOWN = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}


def rows_of_parquet(file: Path, content: bytes, most: int) -> Iterator[tuple[int, Row]]:
    """The rows, numbered from one; `most` is the most bytes that all of them may take.

    Raises AlignerProbeError for a file that is damaged or unpacks to more.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(io.BytesIO(content))
        groups = range(opened.metadata.num_row_groups)
        size = sum(opened.metadata.row_group(index).total_byte_size for index in groups)
        _check_size(file, size, most)
        size = number = 0
        for batch in opened.iter_batches(batch_size=BATCH):
            size += batch.nbytes
            _check_size(file, size, most)
            for row in batch.to_pylist():
                number += 1
                yield number, plain(row)
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        reason = str(error).split("\n", 1)[0][:120]
        raise AlignerProbeError(f"{file}: is a damaged Parquet file ({reason}); expected one that is whole") from error


def plain(value: Any) -> Any:
    """A value of Arrow as JSON has it: dates and decimals become text, and bytes an object with their number."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _check_size(file: Path, size: int, most: int) -> None:
    if size > most:
        raise AlignerProbeError(
            f"{file}: unpacks to more than {most:,} bytes; expected a smaller table. Take a part of its rows"
        )


def _decoded(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _at(
            file, line, f"is no UTF-8 (byte {content[error.start]:#04x}); expected UTF-8. Convert it with `iconv`"
        ) from error


def _names(file: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names and "index" not in names:
        names[names.index("")] = "index"
    for name in names:
        if not name or names.count(name) > 1:
            shown = f"the name {name!r:.40} twice" if name else "more than one column without a name"
            raise _at(file, line, f"has {shown}; expected a name of its own for every column")
    return names


def _at(file: Path, line: int, what: str) -> AlignerProbeError:
    return AlignerProbeError(f"{file}, line {line}: {what}")
