"""The tokenizer inside a TransformerBridge: the one that `AutoTokenizer` gives, with the same ids for every text.

TransformerLens rebuilds a tokenizer that has a BOS token with `add_bos_token=True`. The copy then puts a BOS before
every text, also where the model was trained without one (GPT-2, Pythia, SmolLM2), and every prompt is shifted by one
position. This module puts the tokenizer itself into the bridge and sets TransformerLens' own options to what it does,
so that `model.to_tokens`, `model.generate` and this project's functions see the ids that a user of transformers sees.
"""

import warnings
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.bridges import state_of
from aligner_probe.errors import AlignerProbeWarning

#: The end token that TransformerLens adds to a tokenizer that has none.
ADDED_BY_TRANSFORMER_LENS = "<|endoftext|>"
#: Two tokenizers are taken to be the same if they agree on these texts and on their EOS.
TRIALS = ("a", "b 1", "Hello, world.")


def attach_tokenizer(bridge: TransformerBridge, tokenizer: Any) -> TransformerBridge:
    """Put a tokenizer, or None, into a bridge as it is, and return the bridge.

    A tokenizer without a usable pad token takes one of its own special tokens as its pad token, because TransformerLens
    pads every list of texts. No token is added to the tokenizer.
    """
    bridge._tokenizer = bridge._driver.tokenizer = tokenizer  # the property's setter would make TransformerLens' copy
    if hasattr(tokenizer, "encode"):
        from transformer_lens.model_bridge.sources._bridge_builder import detect_tokenizer_bos_eos

        _set_pad_token(tokenizer, bridge.W_E.shape[0])
        starts, ends = detect_tokenizer_bos_eos(tokenizer)
        bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = starts, ends
        bridge.cfg.default_prepend_bos = starts
    state_of(bridge).tokenizer = tokenizer
    return bridge


def own_tokenizer(bridge: TransformerBridge) -> Any:
    """The tokenizer of a bridge, as `AutoTokenizer` gives it; None where the bridge has none.

    Where TransformerLens has replaced it by a copy that gives other ids (`TransformerBridge.boot_transformers`, or a
    second assignment to `bridge.tokenizer`), the tokenizer is read again from where the copy says that it is from, put
    back into the bridge, and a warning says so. Where that place cannot be read without a network, or lacks tokens of
    the copy, the copy stays and a warning says so. Nothing is read twice for the same tokenizer.
    """
    tokenizer, known = bridge.tokenizer, state_of(bridge).tokenizer
    if tokenizer is None or known is tokenizer:
        return tokenizer
    # A bridge that was built here without a tokenizer takes the first one that it is given as it is.
    if known is None or not hasattr(tokenizer, "get_vocab"):
        attach_tokenizer(bridge, tokenizer)
        return tokenizer
    original = _read_again(tokenizer)
    if original is None:
        if getattr(tokenizer, "add_bos_token", False):
            _warn(
                f"TransformerLens makes a bridge's tokenizer put {tokenizer.bos_token!r} before every text, and "
                f"{tokenizer.name_or_path!r} could not be read to see whether the tokenizer itself does; it stays as "
                "it is. If that is wrong, give load_model the name or the folder of the model"
            )
    elif not _same(original, tokenizer):
        missing = set(tokenizer.get_vocab()) - set(original.get_vocab()) - {ADDED_BY_TRANSFORMER_LENS}
        if missing:
            _warn(
                f"the bridge's tokenizer gives other ids than the one of {tokenizer.name_or_path!r}, which lacks its "
                f"token {min(missing)!r}; it stays as it is. If TransformerLens added a BOS to it, save the tokenizer "
                "to the model's folder and give load_model that folder"
            )
        else:
            _warn(
                f"TransformerLens had rebuilt this bridge's tokenizer: {TRIALS[0]!r} became "
                f"{tokenizer(TRIALS[0])['input_ids']}, with the end token {tokenizer.eos_token!r}. The tokenizer of "
                f"{tokenizer.name_or_path!r} itself gives {original(TRIALS[0])['input_ids']}, with the end token "
                f"{original.eos_token!r}; it was put back. For a BOS all the same, write it into the prompts"
            )
            tokenizer = original
    attach_tokenizer(bridge, tokenizer)
    return tokenizer


def _set_pad_token(tokenizer: Any, n_rows: int) -> None:
    def usable(token_id: Any) -> bool:
        return isinstance(token_id, int) and 0 <= token_id < n_rows

    if not hasattr(tokenizer, "pad_token") or usable(tokenizer.pad_token_id):
        return
    for token in (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token):
        if token is not None and usable(tokenizer.convert_tokens_to_ids(token)):
            tokenizer.pad_token = token
            return


def _read_again(tokenizer: Any) -> Any:
    """The tokenizer of the place that another one is from, read without a network; None where that cannot be done."""
    from transformers import AutoTokenizer

    name = getattr(tokenizer, "name_or_path", "")
    if not name:
        return None
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception:  # OSError, ValueError, errors of the tokenizers library: there is none to be had
        return None


def _same(one: Any, other: Any) -> bool:
    return one.eos_token_id == other.eos_token_id and all(
        one(text)["input_ids"] == other(text)["input_ids"] for text in TRIALS
    )


def _warn(text: str) -> None:
    warnings.warn(text, AlignerProbeWarning, stacklevel=3)
