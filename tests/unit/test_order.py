"""The option --shuffle of these tests, tried on files of its own."""

import shutil
import subprocess
import sys

from conftest import ROOT


def order(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_a_seed_draws_one_order_in_which_every_file_stays_together(tmp_path):
    for name in ("conftest.py", "typechecking.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    for letter in "abcd":
        (tmp_path / f"test_{letter}.py").write_text("".join(f"def test_{i}(): pass\n" for i in range(5)))
    first, again, other = (order(tmp_path, "--shuffle", seed) for seed in "112")
    plain = [f"test_{letter}.py::test_{i}" for letter in "abcd" for i in range(5)]
    assert first == again
    assert plain != first != other != plain
    assert plain == sorted(first) == sorted(other)
    files = [name.split("::")[0] for name in first]
    assert len([file for file, before in zip(files, [None, *files], strict=False) if file != before]) == 4
