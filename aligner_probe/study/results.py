"""The folder of a finished cell: OUT/runs/ID with result.json and whatever else the cell writes."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.files import read_json, whole, write_text
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.models import fingerprint
from aligner_probe.training.provenance import PACKAGES
from aligner_probe.versions import git_state, versions


@contextmanager
def cell_folder(
    out: Path,
    cell_id: str,
    about: Mapping[str, Any],
    model: TransformerBridge | None = None,
    *,
    seconds_before: float = 0.0,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write one cell's folder; it appears when the block ends without an error, and never in part.

    Yields the folder to write files into, and a dictionary that the block fills with the cell's results. result.json
    gets `about` (what the cell is), the results, "seconds" (the wall time of the block and `seconds_before`, unless
    the block sets it), and "provenance": the versions of the packages, the commit, and the fingerprint of `model`.

    Raises AlignerProbeError where the folder exists already, or cannot be written.
    """
    with whole(out / RUNS / cell_id) as folder:
        folder.mkdir()
        began = time.perf_counter()
        results: dict[str, Any] = {}
        yield folder, results
        results.setdefault("seconds", round(seconds_before + time.perf_counter() - began, 2))
        provenance: dict[str, Any] = {"versions": versions(PACKAGES), "git": git_state()}
        if model is not None:
            provenance["base"] = fingerprint(model)
        content = dict(about) | results | {"provenance": provenance}
        write_text(folder / RESULT, json.dumps(content, sort_keys=True) + "\n")


def read_result(out: Path, cell_id: str) -> dict[str, Any] | None:
    """The content of a cell's result.json; None where the cell is not finished.

    Raises AlignerProbeError where the file is damaged.
    """
    file = out / RUNS / cell_id / RESULT
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        if not isinstance(content, dict):
            raise CheckpointError(file, "holds no JSON object; expected the result of a cell")
        return content
    except CheckpointError as error:
        raise AlignerProbeError(
            f"{file} is damaged (it {error.reason}); remove its folder and go on: --resume makes it again"
        ) from error
