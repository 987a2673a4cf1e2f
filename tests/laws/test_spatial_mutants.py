"""Wrong edits of operators on images, made on purpose (see :mod:`tests.laws.test_mutants`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qebgate.ops import resize_bilinear, transpose_conv
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics import float_error
from qebgate.semantics.linear import LinearNode
from qebgate.semantics.registry import SEMANTICS
from tests.laws.test_mutants import Mutant, Patch, hunt


def _integer_positions(m: Patch, make: Callable[..., object]) -> None:
    """In the bounds only: execution stays as it is."""
    wrong = type("Wrong", (resize_bilinear.ResizeBilinear,), {"integer": make})
    m.setattr(resize_bilinear, "ResizeBilinear", wrong)


def _one_map_for_both(m: Patch) -> None:
    """The float weights on both sides, as if integer kernels did not round positions."""
    _integer_positions(m, lambda self, node, graph, runtime: self.exact(node, graph))


def _kernel_of_the_delegate(m: Patch) -> None:
    real = resize_bilinear.ResizeBilinear.integer
    _integer_positions(m, lambda self, node, graph, runtime: real(self, node, graph, Runtime.XNNPACK))


def _positions_exact(m: Patch) -> None:
    real = float_error.Taps.slack
    m.setattr(float_error.Taps, "slack", staticmethod(lambda *a: 0.0 * real(*a)))
    m.setattr(float_error, "gamma", lambda n, u=0.0: 0.0)


def _padding_swapped(m: Patch) -> None:
    """A transposed convolution placed as if all of its padding came after."""
    real = transpose_conv.geometry
    m.setattr(transpose_conv, "geometry", lambda w: replace(real(w), pad=(0, 0)))


def _all_vectors(m: Patch) -> None:
    m.setattr(transpose_conv, "scalar_tail", lambda channels: np.zeros(channels, bool))


def _delegate_takes_all(m: Patch) -> None:
    """Gaps between kernels are left to builtin, which rounds otherwise."""
    m.setattr(LinearNode, "kernel", lambda self, runtime: runtime)
    m.setattr(SEMANTICS["TRANSPOSE_CONV"].__class__, "run_int", _as_delegated)


def _as_delegated(self, node, graph, inputs, runtime):
    """Execution stays as it is, whatever the bounds believe."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(LinearNode, "kernel", KERNEL)
        return RUN_INT(self, node, graph, inputs, runtime)


KERNEL, RUN_INT = LinearNode.kernel, SEMANTICS["TRANSPOSE_CONV"].__class__.run_int

MUTANTS = (
    Mutant("all padding comes after", _padding_swapped, "TRANSPOSE_CONV", "point"),
    Mutant("the last channels round as ruy does", _all_vectors, "TRANSPOSE_CONV", "point"),
    Mutant("the delegate takes kernels with gaps", _delegate_takes_all, "TRANSPOSE_CONV", "point"),
    Mutant("positions on codes are exact", _one_map_for_both, "RESIZE_BILINEAR", "point"),
    Mutant("every kernel has the delegate's positions", _kernel_of_the_delegate, "RESIZE_BILINEAR", "point"),
    Mutant("nothing of a resize is rounded in float32", _positions_exact, "RESIZE_BILINEAR", "point", "float32"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_the_checks_catch_it(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.apply(monkeypatch)
    assert hunt(mutant.where, mutant.how, mutant.floats) is not None


@pytest.mark.parametrize("where,how,floats", sorted({(m.where, m.how, m.floats) for m in MUTANTS}))
def test_they_find_nothing_in_what_was_not_changed(where: str, how: str, floats: str) -> None:
    assert hunt(where, how, floats, tries=1) is None
