"""How long the commands take as whole processes: --help, forensics of two one-token checkpoints, all figures.

    python benchmarks/commands.py [--runs 5]

Needs the authors' weights in $ALIGNER_PROBE_DATA/published. Prints minimum, median and maximum of wall-clock seconds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

PAIR = ("published:alpaca-1-7b", "published:metamath-1-7b")
IMPORTS = "import aligner_probe.analysis.forensics, aligner_probe.checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command, after one that is not")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "forensics --help": ["-m", "aligner_probe.forensics", "--help"],
            "figures --help": ["-m", "aligner_probe.figures", "--help"],
            "imports of forensics alone": ["-c", IMPORTS],
            "forensics of two one-token checkpoints": ["-m", "aligner_probe.forensics", *PAIR],
            "all figures of the published weights": ["-m", "aligner_probe.figures", "--published", "--out", out],
        }
        print(f"{'command':42} {'min':>7} {'median':>7} {'max':>7}  seconds, {runs} runs")
        for name, arguments in commands.items():
            seconds = [_seconds(arguments) for _ in range(runs + 1)][1:]
            print(f"{name:42} {min(seconds):7.2f} {statistics.median(seconds):7.2f} {max(seconds):7.2f}")


def _seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
