"""A copy of a reproduction's results that can be published: scores and measures, without texts and without weights.

    share("out/mine", "artifacts/real/reproduction")
    results = load_results("artifacts/real/reproduction")     # the same scores and values

Data sets have licences of their own, and an answer to a harmful request is better not spread. So the copy has neither
questions nor answers. Figures of scores are drawn from it as from the whole folder.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import read_json, write_text
from aligner_probe.jobs.folder import begin
from aligner_probe.reproduction.results import ITEMS, JUDGED, PLAN, RESULT, RUNS, load_results

#: The texts of an item beside its prompt. Its category and the rule of scoring are no texts.
EXPECTED = ("reference", "content", "form")
#: How the hash of a prompt begins.
HASH = "sha256:"
#: What stands in plan.json of a copy: no run has answers to the mixed questions.
WITHOUT_TEXTS = {"asks_questions": []}


def share(folder: str | Path, to: str | Path) -> int:
    """Copy the finished results of a reproduction, without texts and adapters; return how many runs were copied.

    The copy has plan.json, items.json, each runs/ID/result.json, and judged.json where a judge was asked. In items.json
    the SHA-256 of a prompt stands for the prompt, and nothing for the expected answer. Runs that an earlier copy in
    `to` has stay there, so that runs made on several machines come together.

    Raises AlignerProbeError where `folder` has no results or damaged ones, where they are of the micro-world, or where
    `to` is a copy of results of another plan or other data.
    """
    folder, to = Path(folder), Path(to)
    results = load_results(folder)
    if not results.is_real:
        raise AlignerProbeError(
            f"{folder} has results of the micro-world, whose texts are made by rules; share the folder as it is"
        )
    files = {
        PLAN: json.dumps(results.plan | WITHOUT_TEXTS, indent=1, sort_keys=True) + "\n",
        ITEMS: json.dumps(_hashed(read_json(folder / ITEMS)), indent=1) + "\n",
    }
    begin(to, files, "another plan, base model or data than these")
    for run in results.runs:
        content = read_json(folder / RUNS / run.id / RESULT)
        content.pop("answers", None)
        write_text(to / RUNS / run.id / RESULT, json.dumps(content | {"responses": []}, sort_keys=True) + "\n")
    if (folder / JUDGED).is_file():
        write_text(to / JUDGED, (folder / JUDGED).read_text(encoding="utf-8"))
    return len(results.runs)


def _hashed(asked: Any) -> Any:
    """What items.json holds, without its texts: lists of items by experiment and set, at any depth."""
    if isinstance(asked, list):
        return [_without_texts(item) for item in asked]
    return {name: _hashed(inside) for name, inside in asked.items()}


def _without_texts(item: dict[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(item["prompt"].encode()).hexdigest()
    return item | {"prompt": HASH + digest} | dict.fromkeys(EXPECTED, "")
