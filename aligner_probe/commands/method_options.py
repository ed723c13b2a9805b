"""The options of the adapter's method in `aligner-probe train`: which there are, and which method takes which.

This is the one place that turns the command line into the keyword arguments of an adapter class.
"""

import argparse
from typing import Any

from aligner_probe.commands.options import Group, finite, names, start_seed
from aligner_probe.errors import AlignerProbeError

#: The methods, and which of the options below each takes.
METHODS = {
    "aligner": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function", "gate_per"),
    "llama_adapter": ("n_tokens", "start_layer", "train", "initial_gate", "gate_function", "gate_per"),
    "lora": ("r", "alpha", "targets", "start_layer"),
    "output_bias": ("subspace", "scale", "start_layer"),
    "prefix_tuning": ("n_tokens", "spread", "start_layer"),
    "prompt_tuning": ("n_tokens",),
    "full": (),
}
DEFAULT_METHOD = "aligner"
#: What is trained when --freeze names the other part.
TRAINS = {"tokens": "gates", "gates": "tokens"}


def add_method_options(group: Group) -> None:
    """Add the options of all methods; `method_options` reads them."""
    group.add_argument("--n-tokens", type=int, metavar="N", help="number of prefix or prompt tokens")
    group.add_argument("--start-layer", type=int, metavar="L", help="first adapted layer (default: 2 on deep models)")
    group.add_argument("--freeze", choices=TRAINS, help="leave these at their initial values, as a control")
    group.add_argument(
        "--initial-gate",
        type=finite,
        metavar="G",
        help="initial value of every gate (default: 0; with --freeze gates, the value at which the adapter adds 5 %% "
        "of the norm of the residual stream)",
    )
    group.add_argument("--gate-function", choices=("linear", "tanh"), help="what the gates pass through")
    group.add_argument("--gate-per", choices=("head", "layer"), help="one gate for each head, or for each layer")
    group.add_argument("--r", type=int, help="LoRA: rank")
    group.add_argument("--alpha", type=finite, help="LoRA: scale (lora_alpha)")
    group.add_argument("--targets", type=names, metavar="q,v", help="LoRA: the projections that it adapts")
    group.add_argument(
        "--subspace", type=int, metavar="K", help="output_bias: train along K random directions instead of all"
    )
    group.add_argument("--scale", type=finite, help="output_bias: scale of the random directions")
    group.add_argument("--spread", type=finite, help="prefix_tuning: standard deviation of the initial values")
    group.add_argument("--seed", type=start_seed, metavar="S", help="seed of the initial values (default: 0)")


def method_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given for the method, as keyword arguments of its adapter class.

    Raises AlignerProbeError for an option that the method does not take, and for any of them beside --adapter, whose
    file holds them already.
    """
    method = options.method or DEFAULT_METHOD
    given = {name: getattr(options, name) for taken in METHODS.values() for name in taken if name != "train"}
    given["train"] = TRAINS.get(options.freeze)
    given = {name: value for name, value in given.items() if value is not None}
    flags = {name: "--freeze" if name == "train" else f"--{name.replace('_', '-')}" for name in given}
    if options.adapter is not None:
        flags |= {name: f"--{name}" for name in ("method", "seed") if getattr(options, name) is not None}
        if flags:
            raise AlignerProbeError(f"--adapter has its own {', '.join(flags.values())}; leave these out")
    for name in given:
        if name not in METHODS[method]:
            takes = ", ".join("freeze" if o == "train" else o.replace("_", "-") for o in METHODS[method])
            raise AlignerProbeError(f"{method} takes no {flags[name]}; it takes {takes or 'no options'}")
    return given
