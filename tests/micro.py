"""A tiny untrained base of the micro-world's shape, and a reproduction of a few steps on it."""

import functools
import tempfile
from pathlib import Path

from aligner_probe.arms.catalogue import REPRODUCED_ARMS
from aligner_probe.microworld import vocabulary
from aligner_probe.microworld.pretrain import Pretraining, new_model
from aligner_probe.microworld.world import World
from aligner_probe.reproduction.cells import EXPERIMENTS
from aligner_probe.reproduction.plan import MIXED, Config, plan, rate_key
from aligner_probe.reproduction.run import ReproductionBench
from aligner_probe.reproduction.world import WorldSource

SHAPE = Pretraining(d_model=32, d_mlp=48, n_layers=4, n_heads=4)
CONFIG = Config(
    steps=6,
    safety_steps=3,
    dpo_steps=4,
    evaluate_every=2,
    batch_size=8,
    n_train=24,
    n_validation=8,
    n_test=10,
    n_sums=6,
    mixed=dict.fromkeys(MIXED, 2),
    max_new_tokens=8,
    published_epochs=2.0,
    sweep_steps=2,
    sweep_rates=2,
)
RATES = {
    stage: {rate_key(m, arm): 0.02 for m in REPRODUCED_ARMS for arm in ("main", "gates", "tokens")}
    for stage in EXPERIMENTS
}
#: Keeps the folder until the process ends.
_folder = tempfile.TemporaryDirectory(prefix="micro-")


@functools.cache
def base() -> Path:
    """The base's folder."""
    world = World.from_seed(0)
    folder = Path(_folder.name) / "base"
    new_model(SHAPE, len(vocabulary.vocabulary(world))).save_pretrained(folder)
    vocabulary.save(world, folder)
    return folder


@functools.cache
def bench() -> ReproductionBench:
    return bench_of(CONFIG)


def bench_of(config: Config) -> ReproductionBench:
    return ReproductionBench(base(), WorldSource(0, config))


@functools.cache
def runs() -> dict:
    """The plan's runs by id."""
    return {run.id: run for run in plan(CONFIG, RATES)}
