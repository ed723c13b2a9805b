"""The front door's signatures: a notebook's `?` and completion show every option, and its docstring says what it is."""

import inspect
import re

import pytest

import aligner_probe as ap

#: Data that users read and do not make: the docstring names its attributes, which are checked in the same way.
EXCEPTIONS = ("AlignerProbeError", "AlignerProbeWarning")


def offered():
    return [name for name in ap.__all__ if name not in EXCEPTIONS]


def parameters_of(name):
    signature = inspect.signature(getattr(ap, name))
    return [one for one in signature.parameters.values() if one.name != "self"]


@pytest.mark.parametrize("name", offered())
def test_every_option_is_in_the_signature(name):
    kinds = {one.kind for one in parameters_of(name)}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds


@pytest.mark.parametrize("name", offered())
def test_every_option_is_named_in_the_docstring(name):
    found = inspect.getdoc(getattr(ap, name)) or ""
    unnamed = [one.name for one in parameters_of(name) if not re.search(rf"\b{one.name}\b", found)]
    assert not unnamed


@pytest.mark.parametrize("name", offered())
def test_every_option_has_a_type(name):
    assert all(one.annotation is not one.empty for one in parameters_of(name))
