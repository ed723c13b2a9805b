"""Where the data of the experiments on real base models are: a folder, or data sets of the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligner_probe.data import VARIABLE
from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction.cells import Experiment

#: The experiments that ask the Vicuna questions; both train on Alpaca.
ASKING: frozenset[Experiment] = frozenset({"instructions", "safety"})


@dataclass(frozen=True)
class DataNames:
    """Where each part of the data is read from: a file, or a data set of the hub, named as for `load_task`.

    `harmful` is None where no file has harmful requests; they are then taken from pairs of which only the chosen answer
    refuses. `alpaca_test` is None where held-out rows come from `alpaca`, and `questions` where the Vicuna questions
    are not there.
    """

    alpaca: str
    alpaca_test: str | None
    math: str
    math_test: str
    mmlu: str
    pairs: str
    pairs_test: str
    harmful: str | None
    questions: str | None

    @classmethod
    def of(cls, folder: Path) -> "DataNames":
        """The parts in a folder that has alpaca/, gsm8k/, mmlu/, hh_rlhf_harmless/ and vicuna80/.

        Where it also has metamathqa/, pku_saferlhf/ or beavertails_evaluation/, the paper's own data, these are taken.
        """

        def part(*names: str) -> Path:
            return next((folder / name for name in names if (folder / name).is_dir()), folder / names[-1])

        math, pairs = part("metamathqa", "gsm8k"), part("pku_saferlhf", "hh_rlhf_harmless")
        harmful = folder / "beavertails_evaluation" / "test.jsonl"
        return cls(
            alpaca=str(part("alpaca") / "train.jsonl"),
            alpaca_test=str(part("alpaca") / "test.jsonl"),
            math=str(math / "train.jsonl"),
            math_test=str(part("gsm8k") / "test.jsonl"),
            mmlu=str(part("mmlu") / "test.jsonl"),
            pairs=str(pairs / "train.jsonl"),
            pairs_test=str(pairs / "test.jsonl"),
            harmful=str(harmful) if harmful.is_file() else None,
            questions=str(part("vicuna80") / "test.jsonl"),
        )

    @classmethod
    def of_hub(cls, questions: str | None) -> "DataNames":
        """The paper's data sets on the hub; `questions` is the file of the Vicuna questions, which the hub lacks."""
        return cls(
            alpaca="hub:tatsu-lab/alpaca",
            alpaca_test=None,
            math="hub:meta-math/MetaMathQA",
            math_test="hub:openai/gsm8k:main:test",
            mmlu="hub:cais/mmlu:all:test",
            pairs="hub:PKU-Alignment/PKU-SafeRLHF:default:train",
            pairs_test="hub:PKU-Alignment/PKU-SafeRLHF:default:test",
            harmful="hub:PKU-Alignment/BeaverTails-Evaluation",
            questions=questions,
        )

    def needed(self, experiments: Sequence[Experiment]) -> dict[str, str]:
        """The parts that experiments need, by name."""
        wanted = {"questions", "alpaca", "alpaca_test"} if ASKING & set(experiments) else set()
        wanted |= {"mmlu"} if set(experiments) & {"instructions", "math"} else set()
        wanted |= {"math", "math_test"} if "math" in experiments else set()
        wanted |= {"pairs", "pairs_test", "harmful"} if "safety" in experiments else set()
        return {name: value for name, value in vars(self).items() if name in wanted and value is not None}

    def check(self, experiments: Sequence[Experiment]) -> None:
        """Raise AlignerProbeError, before anything is loaded, where a file that experiments need is not there."""
        if self.questions is None and ASKING & set(experiments):
            raise AlignerProbeError(
                f"the Vicuna questions are not there; set ${VARIABLE} to a folder with data/vicuna80/test.jsonl in it, "
                "or name such a folder: --data FOLDER"
            )
        files = [Path(name) for name in self.needed(experiments).values() if not name.startswith("hub:")]
        for file in files:
            if not file.is_file():
                raise AlignerProbeError(
                    f"{file} is missing; expected the data of the experiments ({', '.join(experiments)}): "
                    f"{', '.join('/'.join(one.parts[-2:]) for one in files)}; name their folder: --data FOLDER"
                )
