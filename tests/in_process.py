"""A command that is called in this process: a new one would import torch and transformers for seconds.

tests/commands/test_commands.py starts every command in a process of its own, and test_readme.py those of the README.
"""

import subprocess

from aligner_probe.commands import run


def called(capsys, main, *arguments):
    """The exit code, output and errors of a command's `main` with these arguments, as of a finished process."""
    capsys.readouterr()
    words = [str(argument) for argument in arguments]
    try:
        code = run(main, words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return subprocess.CompletedProcess(words, code, said.out, said.err)
