"""The paper's Experiments 1 to 3 and Figure 5 on any base model: instructions, math and safety, by every method.

What is the same on all base models. An experiment, a method with its number of tokens, a recipe, and a seed are a cell
(`cells.py`). A cell is trained, asked and written by `run.py`, on the study engine (`runner.py`), which times it before
(`timing.py`), goes on after an interrupt, and works in processes or on a Ray cluster. `results.py` reads the folder,
and `aligner-probe figures` draws it.

What differs is the source (`source.py`): what the experiments train on, what is asked, how it is measured, and how long
a training is. There are two.

- The micro-world (`world.py`): data drawn from a seed (`tasks.py`), its cells and sizes (`plan.py`), learning rates
  chosen by validation (`sweep.py`), and answers judged by a rule (`judge.py`).
- Published data (`real.py`, `real_data.py`), on any other base model. Instructions: Alpaca, measured by the loss of
  held-out rows, by MMLU as knowledge that is kept, and by the form of answers to the Vicuna questions, for which no
  judge is needed; a judge compares these answers in pairs where one is given (`judging/runs.py`). Math: MetaMath or
  GSM8K, measured by the final number, and MMLU. Safety: Alpaca, then DPO on pairs, measured by the preferences on
  held-out pairs, refusals of harmful requests, and refusals of harmless ones. `measures.py` has what is measured by
  likelihood.

The sizes of the second are a scale (`scales.py`): `laptop`, a subset for an evening that says what it cannot decide, or
`paper`, the paper's own sizes. `real_plan.py` makes the cells of a scale. Where the base model is not on this machine,
`costs.py` computes time and memory from sizes.
"""
