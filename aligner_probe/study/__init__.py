"""The study engine: a plan of cells, each of which is made once into a folder of its own, and timed beforehand.

A probe and the reproduction of the paper are studies. docs/howto/add_a_study.md shows how to add another one.
"""

from aligner_probe.study.bench import Bench
from aligner_probe.study.results import cell_folder, read_result
from aligner_probe.study.study import Cell, Study, waves
from aligner_probe.study.timing import StepCost, seconds_a_step, seconds_an_item, threads_of_a_worker

__all__ = [
    "Bench",
    "Cell",
    "StepCost",
    "Study",
    "cell_folder",
    "read_result",
    "seconds_a_step",
    "seconds_an_item",
    "threads_of_a_worker",
    "waves",
]
