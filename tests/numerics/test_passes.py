"""What is not a finite number within the limit never passes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qebgate.engines.portfolio import answered
from qebgate.evidence import Bound
from qebgate.numerics.rounding import passes
from qebgate.properties import Property

NOTHING = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("bad", NOTHING)
def test_nothing_that_is_not_finite_passes(bad: float) -> None:
    assert not passes(bad, 1.0)
    assert not passes(1.0, bad)
    assert not passes(bad, bad)


def test_the_limit_itself_passes_and_the_next_number_does_not() -> None:
    assert passes(1.0, 1.0)
    assert not passes(math.nextafter(1.0, 2.0), 1.0)


def test_an_infinite_side_answers_nothing() -> None:
    bound = Bound(np.array([-math.inf]), np.array([0.0]), "certified", "dra", 0.0)
    assert not answered(Property("max_abs", 1.0), [bound])
    assert not answered(Property("max_abs", math.inf), [bound])
