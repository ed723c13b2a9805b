"""The checkpoints that figures are drawn from, grouped as the paper compares them: by data set and base model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from aligner_probe.arguments import accepts
from aligner_probe.checkpoints.given import many_checkpoints
from aligner_probe.checkpoints.prefix import METHOD_NAMES, PrefixCheckpoint
from aligner_probe.figures.drawing import MissingInputs
from aligner_probe.figures.experiments import Experiments
from aligner_probe.html import Shown

#: What the paper's figures show, left and right.
PAPER_DATA_SETS = ("Alpaca", "MetaMath")
#: Digits of a hash that tell two data sets, or two bases, of one name apart.
DIGITS = 6


@dataclass(frozen=True, repr=False)
class Group(Shown):
    """Checkpoints trained on one data set for one base model: a panel of the paper's figures."""

    data_set: str
    base_model: str
    checkpoints: tuple[PrefixCheckpoint, ...]

    def shown(self) -> dict[str, Any]:
        return {
            "data and base": self.title,
            "checkpoints": [c.method_label for c in self.checkpoints],
        }

    @property
    def title(self) -> str:
        return f"{self.data_set} · {self.base_model}"

    def aligner(self, n_tokens: int) -> PrefixCheckpoint | None:
        """The first Aligner of this size."""
        return next((c for c in self.aligners if c.n_tokens == n_tokens), None)

    @property
    def aligners(self) -> list[PrefixCheckpoint]:
        return [c for c in self.checkpoints if c.method == "aligner"]

    @property
    def llama_adapter(self) -> PrefixCheckpoint | None:
        return next((c for c in self.checkpoints if c.method == "llama_adapter"), None)

    def legend(self, checkpoint: PrefixCheckpoint) -> str:
        """Method and size, with stage and run where they are named."""
        extra = [checkpoint.metadata[key] for key in ("stage", "run") if checkpoint.metadata.get(key)]
        return f"{checkpoint.method_label} ({', '.join(extra)})" if extra else checkpoint.method_label


@accepts(checkpoints=many_checkpoints)
class Collection(Shown):
    """All checkpoints from which figures are drawn, and the runs of a reproduction if they are given.

    The checkpoints are put into groups by data set and base model, in the paper's order and then by name.

    Args:
        checkpoints: the checkpoints, or one.
        experiments: the runs of a reproduction, on the micro-world or another base model; None where there are none.
    """

    def shown(self) -> dict[str, Any]:
        return {
            "checkpoints": [c.label for c in self.checkpoints],
            "runs of a reproduction": self.has_experiments,
        }

    def __init__(self, checkpoints: Iterable[PrefixCheckpoint], experiments: Experiments | None = None):
        ordered = sorted(
            checkpoints, key=lambda c: (c.method != "aligner", c.n_tokens, c.metadata.get("stage", "") == "DPO")
        )
        ordered = _data_sets_told_apart(_bases_named_once(ordered))
        self.checkpoints = tuple(_told_apart(ordered))
        self._experiments = experiments

    @property
    def has_experiments(self) -> bool:
        return self._experiments is not None

    @property
    def experiments(self) -> Experiments:
        """The runs of a reproduction; raises MissingInputs where there are none."""
        if self._experiments is None:
            raise MissingInputs(["runs of a reproduction (--microworld, or --runs DIR)"])
        return self._experiments

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        keys = dict.fromkeys((c.data_set, c.base_model, c.d_model) for c in self.checkpoints)

        def order(key: tuple[str, str, int]) -> tuple:
            paper = PAPER_DATA_SETS.index(key[0]) if key[0] in PAPER_DATA_SETS else len(PAPER_DATA_SETS)
            return key[2], key[1], paper, key[0]

        return tuple(
            Group(
                data_set,
                base_model,
                tuple(c for c in self.checkpoints if (c.data_set, c.base_model, c.d_model) == key),
            )
            for key in sorted(keys, key=order)
            for data_set, base_model, _ in [key]
        )

    def together(self, *methods: str) -> str:
        """Why methods that are all present cannot be compared (they are in different groups); otherwise, what is
        missing.
        """
        here = {c.method for c in self.checkpoints}
        needs = f"{' and '.join(methods)} trained on the same data for the same base model"
        if not here >= {"aligner", "llama_adapter"}:
            return needs
        groups = "; ".join(f"{group.title}: {', '.join(map(group.legend, group.checkpoints))}" for group in self.groups)
        return (
            f"{needs}; as named here they are apart ({groups}). A folder of ap.save_adapter records its data set and "
            "its base; of other files the names tell them, for instance alpaca/adapter-llama2-7B.pth"
        )

    @property
    def expected_data_sets(self) -> tuple[str, ...]:
        """The paper's two where one of them is here; else those that are here, so that nobody's own are amiss."""
        here = {group.data_set for group in self.groups}
        return PAPER_DATA_SETS if here & set(PAPER_DATA_SETS) else tuple(sorted(here))

    def missing(self, method: str, n_tokens: int | None = None) -> list[str]:
        """What the paper's figure shows of a method and no data set has, in words; empty where all is here."""
        lacking = [
            data_set
            for data_set in self.expected_data_sets
            if not any(
                c.data_set == data_set and c.method == method and n_tokens in (None, c.n_tokens)
                for c in self.checkpoints
            )
        ]
        if not lacking:
            return []
        size = f"-{n_tokens}" if n_tokens else ""
        is_papers = method == "llama_adapter" and self.expected_data_sets == PAPER_DATA_SETS
        why = " (the authors published none)" if is_papers else ""
        return [f"{METHOD_NAMES[method]}{size} trained on {' and on '.join(lacking)}{why}"]


def _bases_named_once(checkpoints: list[PrefixCheckpoint]) -> list[PrefixCheckpoint]:
    """One name for one base and one base for one name, where fingerprints are recorded.

    One base may be named by its hub id and by a folder: the first name in alphabetical order stands for it. Two bases
    of one name get the first digits of their fingerprints behind it.
    """
    names: dict[str, str] = {}
    for c in checkpoints:
        if c.metadata.get("base_fingerprint") and "base_model" in c.metadata:
            fingerprint = c.metadata["base_fingerprint"]
            names[fingerprint] = min(names.get(fingerprint, c.base_model), c.base_model)
    named = [_relabelled(c, "base_model", names.get(c.metadata.get("base_fingerprint", ""))) for c in checkpoints]
    return _one_each(named, "base_model", "base_fingerprint")


def _data_sets_told_apart(checkpoints: list[PrefixCheckpoint]) -> list[PrefixCheckpoint]:
    """Two data sets of one name get the first digits of their SHA-256 behind it."""
    return _one_each(checkpoints, "data_set", "data_sha256")


def _one_each(checkpoints: list[PrefixCheckpoint], label: str, identity: str) -> list[PrefixCheckpoint]:
    identities: dict[str, set[str]] = {}
    for c in checkpoints:
        if label in c.metadata and c.metadata.get(identity):
            identities.setdefault(c.metadata[label], set()).add(c.metadata[identity])
    return [
        _relabelled(c, label, f"{c.metadata[label]} ({c.metadata[identity][:DIGITS]})")
        if c.metadata.get(identity) and len(identities.get(c.metadata.get(label, ""), ())) > 1
        else c
        for c in checkpoints
    ]


def _relabelled(checkpoint: PrefixCheckpoint, label: str, value: str | None) -> PrefixCheckpoint:
    if value is None or checkpoint.metadata.get(label) == value:
        return checkpoint
    return replace(checkpoint, metadata=checkpoint.metadata | {label: value})


def _told_apart(checkpoints: list[PrefixCheckpoint]) -> Iterator[PrefixCheckpoint]:
    """Runs of one kind (other seeds) get the end of their path as a name, as much of it as it takes."""
    kinds: dict[tuple, list[PrefixCheckpoint]] = {}
    for checkpoint in checkpoints:
        kinds.setdefault((checkpoint.label, checkpoint.metadata.get("stage")), []).append(checkpoint)
    for checkpoint in checkpoints:
        alike = kinds[checkpoint.label, checkpoint.metadata.get("stage")]
        if len(alike) == 1:
            yield checkpoint
            continue
        paths = [Path(c.source).with_suffix("").parts for c in alike]
        depth = next((d for d in range(1, 9) if len({p[-d:] for p in paths}) == len(paths)), 9)
        name = "/".join(Path(checkpoint.source).with_suffix("").parts[-depth:])
        yield replace(checkpoint, metadata=checkpoint.metadata | {"run": name})
