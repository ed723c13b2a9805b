"""Draw the paper's weight-space figures and tables from trained checkpoints.

python -m aligner_probe.figures [--published [DIR]] [--checkpoints DIR ...] [--out figures] [--only fig07,table1]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands import Parser, run
from aligner_probe.data import VARIABLE, data_folder
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures.catalogue import CATALOGUE, FORMATS, find

if TYPE_CHECKING:
    from aligner_probe.checkpoints import PrefixCheckpoint, Skipped

LOCAL_OR_DOWNLOAD = ""


def parser() -> Parser:
    listed = "\n".join(f"  {entry.id:8} {entry.title} ({entry.paper})" for entry in CATALOGUE)
    parser = Parser(
        prog="python -m aligner_probe.figures",
        description=__doc__.splitlines()[0],
        epilog=f"figures:\n{listed}\n\nfig06a is fig07, fig06b is fig15.",
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const=LOCAL_OR_DOWNLOAD,
        metavar="DIR",
        help="the authors' published weights: from DIR, a copy of their aligner_weights/; else from "
        f"${VARIABLE}/published (default ../shared/published); else downloaded (the default where nothing is given)",
    )
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], metavar="DIR", help="folders of your own")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to (default: figures)")
    parser.add_argument(
        "--only", type=_names, metavar="IDS", help="some of the figures below, for instance fig07,table1"
    )
    parser.add_argument(
        "--formats", type=_formats, default=("png",), metavar="F,F", help=f"of {', '.join(FORMATS)} (default: png)"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="processes (default: 2, or 1 core's)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail where a figure or panel lacks inputs, or a file cannot be read"
    )
    parser.add_reading_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    entries = find(options.only) if options.only else list(CATALOGUE)
    checkpoints, skipped = _read(options)
    for file in skipped:
        print(f"passed over {file.path}: {file.reason}", file=sys.stderr)

    from aligner_probe.figures.collection import Collection
    from aligner_probe.figures.gallery import draw_gallery

    gallery = draw_gallery(
        entries,
        Collection(checkpoints),
        options.out,
        formats=options.formats,
        skipped=skipped,
        strict=options.strict,
        partial=options.only is not None,
        jobs=options.jobs,
    )
    chosen = {entry.id for entry in entries}
    for record in (record for record in gallery.records if record["id"] in chosen):
        print(f"{record['id']:8} {_outcome(record)}")
    print(f"{len(checkpoints)} checkpoints, {len(skipped)} files passed over; see {gallery.folder / 'index.html'}")
    return 0


def _outcome(record: dict) -> str:
    if record["status"] == "missing":
        return f"not drawn; needs {'; '.join(record['missing'])}"
    lacking = f" (without {'; '.join(record['missing'])})" if record["missing"] else ""
    return f"{record['files'][0]}{lacking}"


def _read(options: argparse.Namespace) -> "tuple[list[PrefixCheckpoint], list[Skipped]]":
    from aligner_probe.checkpoints import Skipped, download_published, load_checkpoint, scan_checkpoints
    from aligner_probe.errors import CheckpointError

    reading = {"gate": options.gate, "adapter_length": options.adapter_length}
    checkpoints, skipped = [], []
    folders = list(options.checkpoints)
    if options.published is not None or not folders:
        local = Path(options.published) if options.published else data_folder("published")
        if local is not None:
            folders.insert(0, local)
        else:
            if VARIABLE in os.environ:
                print(f"${VARIABLE} has no published/ in it; downloading the authors' files", file=sys.stderr)
            for path in download_published():
                try:
                    checkpoints.append(load_checkpoint(path, **reading))
                except CheckpointError as error:
                    skipped.append(Skipped(str(path), error.reason))
    for folder in folders:
        found, passed_over = scan_checkpoints(folder, **reading)
        checkpoints += found
        skipped += passed_over
    # The same file by two ways is one checkpoint.
    return list({checkpoint.sha256: checkpoint for checkpoint in checkpoints}.values()), skipped


def _names(text: str) -> list[str]:
    """Known figure names; the error names the nearest."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        find(names)
    except AlignerProbeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not names:
        raise argparse.ArgumentTypeError("no figure is named; leave the option out to draw all")
    return names


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise argparse.ArgumentTypeError(
            f"unknown format {', '.join(unknown) or text!r}; expected {', '.join(FORMATS)}"
        )
    return formats


if __name__ == "__main__":
    sys.exit(run(main))
