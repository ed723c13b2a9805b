"""What figures call a checkpoint: by the record of its training, or by the authors' file and folder names.

For instance `MetaMath_Supervised_Finetuning/aligner100token-llama2-7B-lr0.009bs64-wu1-epoch-3.0-valloss0.6433.pth`.
Names are hints for labels and nothing else: what a file holds is told from its content.
"""

import re
from pathlib import PurePath
from typing import Any

DATA_SETS = {"metamath": "MetaMath", "alpaca": "Alpaca", "beaver": "Beaver", "gsm8k": "GSM8K", "hh_rlhf": "HH-RLHF"}
#: As in the authors' file names and on the hub (meta-llama/Llama-2-7b-hf).
LLAMA_2 = re.compile(r"llama-?2-(\d+)b")


def base_label(name: str) -> str:
    """One label for one base, whether a file name, the hub or a path of a local folder names it.

    A hub id stays as it is. Of a path only the last part is kept.
    """
    found = LLAMA_2.search(name.lower())
    if found:
        return f"LLaMA-2 {found[1]}B"
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return (PurePath(name).name if is_path else "") or name


def trained_on(provenance: dict[str, Any]) -> dict[str, Any]:
    """The labels that a native folder's provenance.json gives: `data_set`, `stage` and `base_model`.

    `data_sha256` and `base_fingerprint` come with them, because two data sets or two bases may have the same name.
    What is not recorded is left out. `data_set` is the name of the task of the last training.
    """
    task, base = _dictionary(provenance, "run", "task"), _dictionary(provenance, "base")
    found = {
        "data_set": task.get("name"),
        "data_sha256": task.get("sha256"),
        "stage": "DPO" if task.get("kind") == "preference" else None,
        "base_model": _dictionary(provenance, "run", "base").get("name"),
        "base_fingerprint": base.get("fingerprint"),
    }
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _dictionary(content: Any, *keys: str) -> dict[str, Any]:
    """The dictionary under these keys; empty where there is none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def describe(path: PurePath | str) -> dict[str, Any]:
    """Those of `data_set`, `base_model`, `stage`, `n_tokens`, `validation_loss` that the end of a path names."""
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
