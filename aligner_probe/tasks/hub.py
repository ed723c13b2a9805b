"""Data sets by name, read by the library `datasets`: "hub:NAME[:CONFIG][:SPLIT]".

NAME is that of a data set on the Hugging Face hub, or a local folder that `datasets` reads or has saved. The library is
imported only when it is asked for. It executes no code of a data set: only its own readers of JSON, CSV, Parquet, Arrow
and text files are used.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.tasks.tables import BATCH, plain

HUB = "hub:"
READERS = ("json", "csv", "parquet", "arrow", "text")
EXPECTED = 'expected "hub:NAME", "hub:NAME:SPLIT" or "hub:NAME:CONFIG:SPLIT"'


@dataclass(frozen=True)
class HubRows:
    """The rows of one split.

    Attributes:
        said: The whole name, with config and split, and with the revision of the data set or its fingerprint.
        name: The last part of the name of the data set.
        rows: The rows, in order.
        sha256: The hash of the rows.
    """

    said: str
    name: str
    rows: list[dict[str, Any]]
    sha256: str


def is_hub(path: Any) -> bool:
    """Whether a path is the name of a data set for `datasets`."""
    return str(path).startswith(HUB)


def read_hub(path: str, most: int) -> HubRows:
    """The rows of a data set, of its only split or of "train" where none is named.

    `most` is the most bytes that they may take.

    Raises AlignerProbeError for a data set that is unknown or cannot be reached, a config or a split that it does not
    have, a config that has to be named, files that only code could read, and too many rows.
    """
    chosen = _Chosen.of(path)
    loaded = chosen.load(most)
    if loaded.data.nbytes > most:
        raise AlignerProbeError(
            f"{path}: holds {loaded.data.nbytes:,} bytes, over the limit of {most:,}; take a part of it, for instance "
            f'"{HUB}{chosen.name}:{chosen.config or "default"}:{chosen.base}[:10000]"'
        )
    rows, digest = [], hashlib.sha256()
    for row in _rows(loaded):
        rows.append(row)
        digest.update(json.dumps(row, sort_keys=True).encode("utf-8", errors="surrogatepass") + b"\n")
    said = ":".join([part for part in (chosen.name, chosen.config, chosen.split) if part])
    return HubRows(
        f"{HUB}{said}@{chosen.revision or loaded._fingerprint}", Path(chosen.name).name, rows, digest.hexdigest()
    )


def other_split(path: str, split: str) -> str | None:
    """The name of another split of the same data set; None where it has none, or where `path` names a split itself."""
    name, *more = _parts(path)
    chosen = _Chosen.of(path)
    if chosen.names_split or split not in chosen.splits:
        return None
    return HUB + ":".join([name, *more, split])


def _rows(loaded: Any) -> Iterator[dict[str, Any]]:
    # As Arrow has them: `datasets` itself would decode images and sound.
    for table in loaded.with_format("arrow").iter(batch_size=BATCH):
        for row in table.to_pylist():
            yield plain(row)


def _parts(path: str) -> list[str]:
    """Name, config and split; the colon of a slice ("train[:100]") parts nothing."""
    parts = re.split(r":(?![^\[]*\])", path.removeprefix(HUB))
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise AlignerProbeError(f"{path}: has {len(parts)} parts, {sum(map(bool, parts))} with text; {EXPECTED}")
    return parts


@dataclass(frozen=True)
class _Chosen:
    """One split of one config of a data set; `split` may be a part of one ("train[:100]"), of which `base` is whole."""

    path: str
    name: str
    config: str | None
    split: str
    splits: tuple[str, ...]
    names_split: bool
    revision: str | None
    saved: Any = None

    @property
    def base(self) -> str:
        return self.split.partition("[")[0]

    @classmethod
    def of(cls, path: str) -> "_Chosen":
        """Ask `datasets` what a name means."""
        name, *more = _parts(path)
        saved = _saved(path, name) if Path(name).is_dir() else None
        if saved is not None:
            if len(more) == 2:
                raise AlignerProbeError(f"{path}: is a saved data set, which has no configs; expected hub:FOLDER:SPLIT")
            splits = tuple(saved) if isinstance(saved, dict) else ("train",)
            split = _split(path, splits, more[0] if more else None)
            return cls(path, name, None, split, splits, bool(more), None, saved)
        configs, default = _asked(path, lambda datasets: _configs(datasets, name))
        if len(more) == 2:
            config, wanted = more
        elif more and more[0] in configs:
            config, wanted = more[0], None
        else:
            config, wanted = default, more[0] if more else None
        if config is None:
            raise AlignerProbeError(
                f"{path}: has the configs {_some(configs)}, and none is named; expected one, for instance "
                f'"{HUB}{name}:{configs[0]}"'
            )
        if config not in configs:
            raise AlignerProbeError(
                f"{path}: has no config {config!r} ({did_you_mean(config, configs)}expected one of {_some(configs)})"
            )
        builder = _asked(path, lambda datasets: datasets.load_dataset_builder(name, config))
        reader = type(builder).__module__.removeprefix("datasets.packaged_modules.").partition(".")[0]
        if reader not in READERS:
            raise AlignerProbeError(
                f"{path}: its files are read by {type(builder).__module__}, which is not used here; expected files of "
                f"{', '.join(READERS)}. Write its rows to a JSONL file"
            )
        splits = tuple(_asked(path, lambda datasets: datasets.get_dataset_split_names(name, config)))
        split = _split(path, splits, wanted)
        revision = None if Path(name).is_dir() else builder.hash
        return cls(path, name, config, split, splits, wanted is not None, revision)

    def load(self, most: int) -> Any:
        """The rows as a data set of `datasets`, downloaded and kept in its cache."""
        if self.saved is not None:
            whole = self.saved[self.base] if isinstance(self.saved, dict) else self.saved
            if self.split != self.base:
                raise AlignerProbeError(f"{self.path}: is a saved data set; expected a whole split, without [...]")
            return whole

        def load(datasets: Any) -> Any:
            info = datasets.load_dataset_builder(self.name, self.config).info
            for what, size in (("download", info.download_size), ("data", info.dataset_size)):
                if size is not None and size > 16 * most:
                    raise AlignerProbeError(
                        f"{self.path}: its {what} has {size:,} bytes; expected {16 * most:,} at most"
                    )
            return datasets.load_dataset(self.name, self.config, split=self.split)

        return _asked(self.path, load)


def _configs(datasets: Any, name: str) -> tuple[list[str], str | None]:
    return datasets.get_dataset_config_names(name), datasets.get_dataset_default_config_name(name)


def _saved(path: str, folder: str) -> Any:
    """What `save_to_disk` has left in a folder; None where it has left nothing."""
    if not any((Path(folder) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    return _asked(path, lambda datasets: datasets.load_from_disk(folder))


def _split(path: str, splits: tuple[str, ...], wanted: str | None) -> str:
    if wanted is None:
        if "train" in splits or len(splits) == 1:
            return "train" if "train" in splits else splits[0]
        raise AlignerProbeError(f'{path}: has the splits {_some(splits)}; expected one by name, "{path}:{splits[0]}"')
    if wanted.partition("[")[0] not in splits:
        raise AlignerProbeError(
            f"{path}: has no split or config {wanted!r} ({did_you_mean(wanted, splits)}expected one of {_some(splits)})"
        )
    return wanted


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _asked(path: str, ask: Any) -> Any:
    """What `datasets` answers. Its errors become one line."""
    try:
        import datasets
    except ImportError as error:
        raise AlignerProbeError(
            f"{path}: needs the package datasets ({error}); install it with `pip install datasets`"
        ) from error
    try:
        return ask(datasets)
    except AlignerProbeError:
        raise
    except ConnectionError as error:
        raise AlignerProbeError(
            f"{path}: cannot be reached ({_line(error)}); expected a network, a data set that was read before, or a "
            "local folder"
        ) from error
    except Exception as error:  # whatever a data set of a stranger makes the library raise
        raise AlignerProbeError(
            f"{path}: cannot be read by datasets ({type(error).__name__}: {_line(error)}); expected the name of a data "
            "set on the hub, or a local folder with its files"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
