"""The commands, `aligner-probe COMMAND`: one thin module for each, which parses, reads, calls and prints.

`entry.py` finds the command's module, `running.py` calls it, and `options.py` holds the options that several commands
share. Nothing heavy is imported before the options are parsed, so that `--help` answers at once.
"""

from aligner_probe.commands.running import INTERRUPTED, going_on, run

__all__ = ["COMMANDS", "INTERRUPTED", "going_on", "run"]

#: Each command and what it does; its module in this package has the same name.
COMMANDS = {
    "probe": "find out whether a task is form, latent, or new to a base model",
    "train": "train an adapter on a task, and save it with everything that made it",
    "generate": "let several adapters answer the same questions, all in the same batches",
    "export": "write an adapter for another tool to read, exactly, or say why that is not possible",
    "evaluate": "judge answers, count harmful ones and refusals of harmless requests, and ask benchmarks",
    "forensics": "explain the equal parameters of two checkpoints by precision and a shared random start",
    "figures": "draw the paper's figures and tables, from the micro-world, the authors' weights or your own",
    "reproduce": "make the paper's experiments on any base model or the micro-world, by every method",
    "microworld": "pretrain the micro-world's base model, examine it, write its corpus and its tasks",
}
