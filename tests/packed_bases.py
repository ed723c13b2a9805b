"""Small base models in four and eight bits, and the same weights unpacked by hand."""

import functools
import importlib.util

import pytest
import torch
from learning import Letters
from tiny_adapters import shaken

import aligner_probe as ap
from aligner_probe.adapters import Aligner
from aligner_probe.packed import has_packed_weight
from aligner_probe.quantised import QUANTIZATIONS

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 64,
}
#: The values of the sixteen codes of nf4: table 8 of the QLoRA paper (arXiv 2305.14314).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def needs(quantization):
    package = QUANTIZATIONS[quantization]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is missing: pip install "aligner-probe[quantised]"')
    return quantization


def made(seed=0, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**SIZES | changes)).eval()
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.12)
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def loader(path):
    """A function that loads the base in `path` with a quantisation (None for none); a fresh bridge each time.

    `shared` gives one bridge for each quantisation, and `unpacked` a plain bridge with the weights of that one.
    """
    made().save_pretrained(path)

    def load(quantization=None, **options):
        base = ap.load_model(path, quantization=quantization, **options)
        base.tokenizer = Letters()
        return base

    load.path = path
    load.shared = functools.cache(load)
    load.unpacked = functools.cache(lambda quantization: unquantised(load.shared(quantization)))
    return load


def by_hand(projection):
    """The weight of a projection, unpacked from its stored bytes without the package that packed them."""
    weight = projection.weight
    if hasattr(weight, "qdata"):
        return weight.qdata.float() * weight.scale
    state, stored = weight.quant_state, weight.data.flatten()
    codes = torch.stack([stored >> 4, stored & 15], dim=1).flatten().long()
    values = torch.tensor(NF4)[codes].view(-1, 64) * state.absmax[:, None]
    return values.view(state.shape)


def unquantised(base):
    """A plain bridge with the weights that a quantised one computes with."""
    model = made()
    for name, module in base.original_model.named_modules():
        if has_packed_weight(module):
            model.get_submodule(name.replace("._original_component", "")).weight.data = by_hand(module)
    bridge = ap.load_model(model)
    bridge.tokenizer = Letters()
    return bridge


def by_transformers(path, quantization):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

    if quantization == "nf4":
        how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        how = TorchAoConfig(Int8WeightOnlyConfig())
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=how)


def saved(base, path, n_tokens=1):
    return ap.save_adapter(shaken(Aligner(base, n_tokens, 1)), path)


@pytest.fixture(params=list(QUANTIZATIONS))
def quantization(request):
    """Each quantisation whose package is installed."""
    return needs(request.param)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`loader` of a base of this module."""
    return loader(tmp_path_factory.mktemp("base"))
