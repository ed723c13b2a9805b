"""Every signature of the package is checked while the tests run, also of functions that are defined again and again."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import cache_from_source

import pytest
import torch
from jaxtyping import Float, TypeCheckError, install_import_hook, jaxtyped
from jaxtyping._import_hook import Typechecker
from torch import Tensor

from aligner_probe.evaluation.intervals import items_needed

[CHECKER] = (checker for key, checker in Typechecker.lookup.items() if key != "0")


def defined(n, annotation):
    """Functions of one name, each with a body of its own."""

    def one(at):
        @jaxtyped(typechecker=CHECKER)
        def added(x: annotation, y: Float[Tensor, " a"]) -> Float[Tensor, " a"]:
            return x[: len(x) - (at == "wrong return")] + at if isinstance(at, int) else x[:-1]

        return added

    return [one(at) for at in (*range(n), "wrong return")]


def test_functions_that_share_a_check_keep_their_bodies_and_their_refusals():
    x = torch.zeros(3)
    *right, wrong = defined(3, Float[Tensor, " a"])
    assert [int(f(x, x)[0]) for f in right] == [0, 1, 2]
    for f in right:
        with pytest.raises(TypeCheckError, match="added"):
            f(x, torch.zeros(4))
        with pytest.raises(TypeCheckError, match="added"):
            f(x.int(), x)
    with pytest.raises(TypeCheckError, match="return value"):
        wrong(x, x)


def test_another_annotation_is_another_check():
    x = torch.zeros(3)
    for annotation, other in ((Float[Tensor, " a"], x.int()), (Tensor, None)):
        for f in defined(2, annotation)[:2]:
            f(x, x)
            with pytest.raises(TypeCheckError, match="added"):
                f(other, x)


def test_a_default_without_a_hash_is_checked_too():
    for at in range(2):

        @jaxtyped(typechecker=CHECKER)
        def kept(x: int, more: list = []) -> int:  # noqa: B006
            return x + at + len(more)  # noqa: B023

        assert kept(1) == 1 + at
        with pytest.raises(TypeCheckError, match="kept"):
            kept("1")


@dataclass
class Sized:
    x: Float[Tensor, " a"]
    n: int


@dataclass
class Plain:
    n: int
    names: tuple[str, ...] = ()

    def longer(self, by: int) -> int:
        return self.n + by if by else "none"

    @property
    def first(self) -> str:
        return self.names[0] if self.names else None


def bare(n):
    return n


def wants(n: int, *names: str, more: dict[str, int] | None = None) -> list[int]:
    return [n, *(more or {}).values()]


def counted(n: int) -> Iterator[int]:
    yield from range(n)


def several(of: Callable[[Float[Tensor, " a"]], int], x: Float[Tensor, " a"] | None) -> int:
    return of(x)


def test_signatures_with_and_without_arrays_are_refused_alike():
    check = jaxtyped(typechecker=CHECKER)
    x = torch.zeros(3)
    assert check(bare) is bare
    assert check(wants)(1, "a", more={"b": 2}) == [1, 2]
    assert list(check(counted)(3)) == [0, 1, 2]
    assert check(several)(len, x) == 3
    sized, plain = check(Sized), check(Plain)
    Plain.longer, Plain.first = check(Plain.longer), check(Plain.first)
    assert (sized(x, 1).n, plain(2, ("a",)).longer(1), plain(2, ("a",)).first) == (1, 3, "a")
    for refused in (
        lambda: check(wants)("1"),
        lambda: check(wants)(1, 2),
        lambda: check(wants)(1, more={"b": "c"}),
        lambda: check(wants)(1, more={"b": None}),
        lambda: check(counted)("3"),
        lambda: check(several)(len, x.int()),
        lambda: sized(x.int(), 1),
        lambda: sized(x, "1"),
        lambda: plain("1"),
        lambda: plain(1, (2,)),
        lambda: plain(1).longer("1"),
        lambda: plain(1).longer(0),
        lambda: plain(1).first,
    ):
        with pytest.raises(TypeCheckError):
            refused()


def returns_of(*returned):
    """Functions of one signature, which return what is given whatever their parameters are."""

    def one(value):
        @jaxtyped(typechecker=CHECKER)
        def product(
            x: Float[Tensor, "a b"], *more: Float[Tensor, " b"], scale: float = 1.0, **named: Float[Tensor, " c"]
        ) -> Float[Tensor, "a c"] | None:
            return value

        return product

    return [one(value) for value in returned]


def test_a_return_value_has_the_axes_of_the_parameters():
    """Positional, repeated, by keyword and by any name; the next call has axes of its own."""
    x, more, named = torch.zeros(2, 3), torch.zeros(3), torch.zeros(4)
    right, nothing, *wrong = returns_of(
        torch.zeros(2, 4), None, torch.zeros(3, 4), torch.zeros(2, 5), torch.zeros(2, 4).int(), torch.zeros(2), 0.0
    )
    assert right(x, more, more, scale=2.0, by=named).shape == (2, 4)
    assert nothing(x) is None
    for f in wrong:
        with pytest.raises(TypeCheckError, match="return value"):
            f(x, more, by=named)
    assert wrong[0](torch.zeros(3, 1)).shape == (3, 4)
    for refused in (
        lambda: right(x, named, by=named),
        lambda: right(x, more, by=named.int()),
        lambda: right(x, more, scale="2", by=named),
        lambda: right(x, more, by=named, other=more),
    ):
        with pytest.raises(TypeCheckError, match="the parameters"):
            refused()


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError, match="items_needed"):
        items_needed("none", 0.5)


def test_what_a_checked_module_imports_is_no_checked_module(tmp_path, monkeypatch):
    """Its bytecode has its usual name, so that it is read where it lies."""
    (tmp_path / "other_package.py").write_text(
        "from importlib import _bootstrap_external\nNAME = _bootstrap_external.cache_from_source(__file__)\n"
    )
    (tmp_path / "checked.py").write_text("import other_package\ndef one(x: int) -> int:\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    with install_import_hook("checked", "beartype.beartype"):
        import checked
    try:
        expected = cache_from_source(str(tmp_path / "other_package.py"))
        assert checked.other_package.__cached__ == expected == checked.other_package.NAME
        with pytest.raises(TypeCheckError, match="one"):
            checked.one("1")
    finally:
        for name in ("checked", "other_package"):
            sys.modules.pop(name, None)
