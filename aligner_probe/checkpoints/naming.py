"""What the authors' file and folder names tell of a run.

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
    """One label for one base, whether a file name or the hub names it."""
    found = LLAMA_2.search(name.lower())
    return f"LLaMA-2 {found[1]}B" if found else name


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
