"""Draw the paper's figures and tables: of the micro-world, of the authors' weights, or of your own.

aligner-probe figures [--microworld | --runs DIR] [--published [DIR]] [--checkpoints DIR ...] [--out DIR] [--only IDS]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands.options import Parser, command_parser
from aligner_probe.data import VARIABLE, data_folder
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures.catalogue import CATALOGUE, IMAGE_TYPES, Entry, find

if TYPE_CHECKING:
    from aligner_probe.checkpoints import PrefixCheckpoint, Skipped
    from aligner_probe.figures.experiments import Experiments

LOCAL_OR_DOWNLOAD = ""
#: Where to, by what is drawn; the first is the set that the repository keeps.
OUT, OUT_PUBLISHED, OUT_OTHER = Path("figures"), Path("figures/published"), Path("figures/own")


def parser() -> Parser:
    listed = "\n".join(f"  {entry.id:8} {entry.title} ({entry.paper}){_marked(entry)}" for entry in CATALOGUE)
    parser = command_parser(
        "figures",
        f"figures:\n{listed}\n\nfig06a is fig07, fig06b is fig15. *: of runs (--microworld or --runs), **: of the "
        "micro-world alone.",
    )
    parser.add_argument(
        "--microworld",
        action="store_true",
        help="the project's own runs, from artifacts/: all figures (the default where nothing is given)",
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const=LOCAL_OR_DOWNLOAD,
        metavar="DIR",
        help="the authors' published weights: from DIR, a copy of their aligner_weights/; else from "
        f"${VARIABLE}/published (default ../shared/published); else downloaded",
    )
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="the folder of `reproduce` on another base model than the micro-world"
    )
    parser.add_argument("--checkpoints", nargs="+", type=Path, default=[], metavar="DIR", help="folders of your own")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where to (default: {OUT} for the micro-world alone, {OUT_PUBLISHED}, and {OUT_OTHER} for what is mixed)",
    )
    parser.add_argument(
        "--only", type=_names, metavar="IDS", help="some of the figures below, for instance fig07,table1"
    )
    parser.add_argument(
        "--formats", type=_formats, default=("png",), metavar="F,F", help=f"of {', '.join(IMAGE_TYPES)} (default: png)"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="processes (default: 2, or 1 core's)"
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail where a figure or panel lacks inputs, or a file cannot be read"
    )
    parser.add_reading_options()
    return parser


def _marked(entry: Entry) -> str:
    return " **" if entry.of_world else " *" if entry.of_runs else ""


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.microworld and options.runs is not None:
        raise AlignerProbeError("--microworld and --runs are two base models; expected one of them at a time")
    if options.published is None and options.runs is None and not options.checkpoints:
        options.microworld = True
    # What only the micro-world has is no gap in other sets, and what only runs have none in sets of weights.
    if options.runs is not None:
        drawn = [entry for entry in CATALOGUE if not entry.of_world]
    else:
        drawn = [entry for entry in CATALOGUE if options.microworld or not entry.of_runs]
    entries = find(options.only) if options.only else drawn
    checkpoints, skipped, experiments = _read(options)
    for file in skipped:
        print(f"passed over {file.path}: {file.reason}", file=sys.stderr)

    from aligner_probe.figures.collection import Collection
    from aligner_probe.figures.gallery import draw_gallery

    gallery = draw_gallery(
        entries,
        Collection(checkpoints, experiments),
        options.out or _place(options),
        formats=options.formats,
        skipped=skipped,
        strict=options.strict,
        partial=options.only is not None,
        jobs=options.jobs,
    )
    chosen = {entry.id for entry in entries}
    for record in (record for record in gallery.records if record["id"] in chosen):
        kept = "; kept from an earlier run, delete it to draw it anew" if record["id"] in gallery.kept else ""
        print(f"{record['id']:8} {_outcome(record)}{kept}")
    print(f"{len(checkpoints)} checkpoints, {len(skipped)} files passed over; see {gallery.folder / 'index.html'}")
    return 0


def _outcome(record: dict) -> str:
    if record["status"] == "missing":
        return f"not drawn; needs {'; '.join(record['missing'])}"
    lacking = f" (without {'; '.join(record['missing'])})" if record["missing"] else ""
    return f"{record['files'][0]}{lacking}"


def _place(options: argparse.Namespace) -> Path:
    if options.runs is not None:
        return OUT_OTHER / options.runs.name
    if options.checkpoints or (options.microworld and options.published is not None):
        return OUT_OTHER
    return OUT if options.microworld else OUT_PUBLISHED


def _read(options: argparse.Namespace) -> "tuple[list[PrefixCheckpoint], list[Skipped], Experiments | None]":
    from aligner_probe.checkpoints import Skipped, download_published, load_checkpoint, scan_checkpoints
    from aligner_probe.errors import CheckpointError

    reading = {"gate": options.gate, "adapter_length": options.adapter_length}
    checkpoints, skipped, experiments = [], [], None
    if options.microworld or options.runs is not None:
        from aligner_probe.figures.experiments import load_experiments

        experiments = load_experiments(options.runs)
        checkpoints += experiments.weights()
    folders = list(options.checkpoints)
    if options.published is not None:
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
    return list({checkpoint.sha256: checkpoint for checkpoint in checkpoints}.values()), skipped, experiments


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
    unknown = [name for name in formats if name not in IMAGE_TYPES]
    if unknown or not formats:
        raise argparse.ArgumentTypeError(
            f"unknown format {', '.join(unknown) or text!r}; expected {', '.join(IMAGE_TYPES)}"
        )
    return formats
