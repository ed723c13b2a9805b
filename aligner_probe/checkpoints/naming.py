"""Labels of checkpoints for figures, from the record of the training or from the authors' file and folder names.

For instance `MetaMath_Supervised_Finetuning/aligner100token-llama2-7B-lr0.009bs64-wu1-epoch-3.0-valloss0.6433.pth`.
Names are used for labels only. What a file holds is determined from its content.
"""

import re
from pathlib import PurePath
from typing import Any

DATA_SETS = {"metamath": "MetaMath", "alpaca": "Alpaca", "beaver": "Beaver", "gsm8k": "GSM8K", "hh_rlhf": "HH-RLHF"}
#: LLaMA-2's name in the authors' file names and on the hub (meta-llama/Llama-2-7b-hf).
LLAMA_2 = re.compile(r"llama-?2-(\d+)b")


def base_label(name: str) -> str:
    """The label of a base model that is named by a file name, by a hub id or by the path of a local folder.

    LLaMA-2 has the same label under all its names. Any other hub id stays as it is, and of a path the last part is
    kept.
    """
    match = LLAMA_2.search(name.lower())
    if match:
        return f"LLaMA-2 {match[1]}B"
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return (PurePath(name).name if is_path else "") or name


def trained_on(provenance: dict[str, Any]) -> dict[str, Any]:
    """Labels from the provenance.json of a native folder: `data_set`, `stage` and `base_model`.

    `data_set` is the name of the task of the last training. `data_sha256` and `base_fingerprint` are added, because two
    data sets or two base models can have the same name. What the file does not record is left out.
    """
    task, base = _dictionary(provenance, "run", "task"), _dictionary(provenance, "base")
    labels = {
        "data_set": task.get("name"),
        "data_sha256": task.get("sha256"),
        "stage": "DPO" if task.get("kind") == "preference" else None,
        "base_model": _dictionary(provenance, "run", "base").get("name"),
        "base_fingerprint": base.get("fingerprint"),
    }
    return {key: value for key, value in labels.items() if isinstance(value, str) and value}


def _dictionary(content: Any, *keys: str) -> dict[str, Any]:
    """The dictionary that is nested under these keys; empty if there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def describe(path: PurePath | str) -> dict[str, Any]:
    """What the file name and the folder name of a path tell.

    The keys are those of `data_set`, `base_model`, `stage`, `n_tokens` and `validation_loss` that are named there.
    """
    path = PurePath(path)
    folder, name = (path.parent.name.lower(), path.name.lower())
    known: dict[str, Any] = {}
    for text in (name, folder):
        for key, label in DATA_SETS.items():
            if key in text:
                known.setdefault("data_set", label)
    for text in (name, folder):
        if base := LLAMA_2.search(text):
            known.setdefault("base_model", f"LLaMA-2 {base[1]}B")
    if tokens := re.search(r"aligner(\d+)tokens?\b", name):
        known["n_tokens"] = int(tokens[1])
    if loss := re.search(r"valloss(\d+\.\d+)", name):
        known["validation_loss"] = float(loss[1])
    if known.get("data_set") == "Beaver":
        known["stage"] = "DPO" if "-dpo-" in name else "SFT"
    return known
