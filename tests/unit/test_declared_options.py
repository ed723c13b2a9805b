"""The options of the methods, as the command shows them without torch, are those of the classes."""

import inspect

import pytest

from aligner_probe.adapters import METHODS
from aligner_probe.adapters.registry import config_class
from aligner_probe.commands import train
from aligner_probe.commands.declared import options_of, package_methods
from aligner_probe.commands.method_options import method_options


def test_the_source_says_what_the_classes_say():
    assert set(package_methods()) == set(METHODS)
    for name, cls in METHODS.items():
        assert package_methods()[name] == options_of(config_class(cls)), name


@pytest.mark.parametrize("name", METHODS)
def test_every_option_has_help_a_flag_and_a_keyword(name):
    flags = {option for action in train.parser()._actions for option in action.option_strings}
    for option in package_methods()[name]:
        assert option.help, option.name
        assert f"--{option.flag}" in flags
        assert option.name in inspect.signature(METHODS[name]).parameters


def test_options_become_keyword_arguments():
    shared = ["--model", "M", "--task", "T", "--out", "O"]
    given = ["--method", "lora", "--r", "4", "--alpha", ".5", "--targets", "q,o", "--start-layer", "1", "--seed", "3"]
    options = train.parser().parse_args([*shared, *given])
    expected = {"r": 4, "alpha": 0.5, "targets": ("q", "o"), "start_layer": 1}
    assert method_options(options, package_methods()) == expected
    frozen = train.parser().parse_args([*shared, "--freeze", "gates", "--gate-per", "layer"])
    assert method_options(frozen, package_methods()) == {"train": "tokens", "gate_per": "layer"}
