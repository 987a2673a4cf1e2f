"""Figures against their definitions in exact arithmetic: bounds never below, witnesses never above."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qebgate.properties import Property

KINDS = ("max_abs", "max_lsb", "max_rel", "same_top1", "max_l2")
# few values, so that ties are common, and hard ones
VALUES = st.one_of(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.floats(-1e3, 1e3, width=32), st.just(1e-40))


def outputs(k: int):
    return arrays(np.float64, k, elements=VALUES)


def prop(kind: str, k: int, limit: float = 1.0) -> Property:
    return Property.of_kind(kind, limit, k, scale=0.25, floor=0.3)  # type: ignore[arg-type]


def exact(kind: str, q: np.ndarray, f: np.ndarray) -> tuple[Fraction, bool]:
    """The figure, squared for ``max_l2``; for ``same_top1`` the float margin, and whether the models disagree."""
    gap = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(q, f, strict=True)]
    if kind == "max_l2":
        return sum((g * g for g in gap), Fraction(0)), True
    if kind == "max_rel":
        floor = Fraction(0.3)
        return max(abs(g) / max(abs(Fraction(float(b))), floor) for g, b in zip(gap, f, strict=True)), True
    if kind == "same_top1":
        c = int(np.argmax(f))
        margin = min(Fraction(float(f[c])) - Fraction(float(f[j])) for j in range(len(f)) if j != c)
        return margin, c != int(np.argmax(q))
    return max(abs(g) for g in gap) / (Fraction(0.25) if kind == "max_lsb" else 1), True


def at_most(figure: float, kind: str, truth: tuple[Fraction, bool]) -> bool:
    """Whether a figure is at most the true one."""
    value, counts = truth
    if kind == "same_top1":
        return figure == 0 if not counts else Fraction(math.nextafter(figure, -math.inf)) <= value
    shown = Fraction(figure)
    return (shown * shown if kind == "max_l2" else shown) <= value


def at_least(figure: float, kind: str, truth: tuple[Fraction, bool]) -> bool:
    value, counts = truth
    if kind == "same_top1":
        return not counts or Fraction(figure) > value
    shown = Fraction(figure)
    return (shown * shown if kind == "max_l2" else shown) >= value


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_bounds_are_never_below_the_truth(kind: str, data: st.DataObject) -> None:
    """Of a box of gaps, with and without the outputs' ranges, and of a batch with an error of the float side."""
    k = data.draw(st.integers(2, 4))
    q, f = data.draw(outputs(k)), data.draw(outputs(k))
    truth = exact(kind, q, f)
    p = prop(kind, k)
    room = [data.draw(arrays(np.float64, k, elements=st.sampled_from([0.0, 0.0, 1e-6, 0.5]))) for _ in range(4)]
    gap = q - f
    lower, upper = np.nextafter(gap, -np.inf) - room[0], np.nextafter(gap, np.inf) + room[1]
    ranges = ((f - room[2], f + room[3]), (q - room[3], q + room[2]))
    plain, known = p.of_box(lower, upper), p.of_box(lower, upper, ranges)
    assert at_least(plain, kind, truth) and at_least(known, kind, truth)
    assert known <= plain
    error = room[2]
    anchor = f + error * data.draw(st.sampled_from([-1.0, 0.0, 1.0])) * 0.5
    assert at_least(float(p.of_batch(q[None], anchor[None], np.maximum(error, np.abs(anchor - f)))[0]), kind, truth)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_witnesses_are_never_above_the_truth(kind: str, data: st.DataObject) -> None:
    """Also where the float side is known up to an interval: of every float output in it."""
    k = data.draw(st.integers(2, 4))
    q, f = (a.astype(np.float32).astype(np.float64) for a in (data.draw(outputs(k)), data.draw(outputs(k))))
    p = prop(kind, k)
    truth = exact(kind, q, f)
    gap = q - f
    figure = p.of_outputs(gap, q, (f, f))
    if kind not in ("max_abs", "max_lsb"):  # those round to nearest
        assert at_most(figure, kind, truth)
    room = np.abs(data.draw(arrays(np.float64, k, elements=st.sampled_from([0.0, 1e-6, 0.7]))))
    certain = np.sign(gap) * np.maximum(np.abs(gap) - room, 0.0)
    vague = p.of_outputs(certain, q, (f - room, f + room))
    if kind in ("max_rel", "same_top1"):
        assert at_most(vague, kind, truth)
    below = np.nextafter(gap, -np.inf), np.nextafter(gap, np.inf)
    assert figure <= p.of_box(*below, ((f, f), (q, q)))
    assert figure <= float(p.of_batch(q[None], f[None], np.zeros(k))[0])


def test_a_disagreement_at_the_margin_counts() -> None:
    """The property fails where the float model decides by at least the margin: its figure is above the margin then."""
    f, q = np.array([1.0, 0.75]), np.array([0.0, 1.0])
    at, beyond = Property.of_kind("same_top1", 0.25, 2), Property.of_kind("same_top1", math.nextafter(0.25, 1), 2)
    for p, holds in ((at, False), (beyond, True)):
        figure = p.of_outputs(q - f, q, (f, f))
        assert (figure <= p.limit) is holds
    zero = Property.of_kind("same_top1", 0.0, 2)
    tie = np.array([0.5, 0.5])
    assert zero.of_outputs(q - tie, q, (tie, tie)) > 0.0  # the float model's tie goes to the lowest index
    assert zero.of_outputs(q[::-1] - tie, q[::-1], (tie, tie)) == 0.0
    same = np.array([1.0, 1.0])
    assert zero.of_outputs(same - f, same, (f, f)) == 0.0  # and so does the quantized one's


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_and_infinite_gaps_prove_nothing(kind: str) -> None:
    p = prop(kind, 2)
    wide = np.array([-np.inf, 0.0]), np.array([0.0, np.inf])
    assert not math.isfinite(p.of_box(*wide))
    nan = np.array([np.nan, 0.0])
    assert not math.isfinite(p.of_box(nan, nan))


def test_many_classes_are_compared_in_parts() -> None:
    rng = np.random.default_rng(0)
    k = 3000
    f = rng.normal(size=k)
    q = f + rng.normal(scale=0.01, size=k)
    p = Property.of_kind("same_top1", 0.0, k)
    gap = q - f
    figure = p.of_box(gap - 1e-9, gap + 1e-9)
    i, j = np.argmin(gap), np.argmax(gap)
    assert gap[j] - gap[i] <= figure <= gap[j] - gap[i] + 1e-8
    assert p.of_box(gap, gap, ((f, f), (f, f))) == 0.0
