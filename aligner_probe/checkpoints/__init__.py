"""Checkpoints of prefix adapters: one in-memory form, importers for every format they come in, the authors' files."""

from aligner_probe.checkpoints.native import save_checkpoint
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.checkpoints.published import download_published, list_published
from aligner_probe.checkpoints.reading import Skipped, load_checkpoint, scan_checkpoints

__all__ = [
    "PrefixCheckpoint",
    "Skipped",
    "download_published",
    "list_published",
    "load_checkpoint",
    "save_checkpoint",
    "scan_checkpoints",
]
