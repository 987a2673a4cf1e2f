"""VNN-LIB files: the boxes are exactly the file's, and anything else is a coded error."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qebgate.adapters.vnnlib import read_boxes
from qebgate.errors import DataError, QebgateError

DECLARED = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n"
FIRST = "(assert (>= X_0 -1.0))(assert (<= X_0 1.0))"
SECOND = "(assert (<= -2 X_1))(assert (>= 3e-1 X_1))"


def boxes(tmp_path: Path, text: str | bytes, size: int = 2):
    path = tmp_path / "a.vnnlib"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_boxes(path, size)


def test_one_box_with_either_side_first_and_outputs_left_out(tmp_path: Path) -> None:
    text = f"; property 1\n(set-logic QF_LRA)\n{DECLARED}{FIRST}\n{SECOND}\n(assert (<= Y_0 7))(check-sat)"
    (box,) = boxes(tmp_path, text)
    assert box[0] == (-1.0, -2.0) and box[1][0] == 1.0
    assert Fraction(box[1][1]) >= Fraction(3, 10) > Fraction(math.nextafter(box[1][1], 0))


def test_disjunctions_are_several_boxes(tmp_path: Path) -> None:
    either = "(assert (or (and (>= X_1 0) (<= X_1 1) (>= Y_0 1)) (and (>= X_1 5) (<= X_1 6))))"
    found = boxes(tmp_path, DECLARED + FIRST + either)
    assert found == [((-1.0, 0.0), (1.0, 1.0)), ((-1.0, 5.0), (1.0, 6.0))]
    twice = "(assert (or (<= X_0 0.5) (>= X_0 0.5)))" + either
    assert len(boxes(tmp_path, DECLARED + FIRST + twice)) == 4


def test_repeated_bounds_meet(tmp_path: Path) -> None:
    more = "(assert (and (<= X_0 0.25) (>= X_0 -3)))"
    assert boxes(tmp_path, DECLARED + FIRST + SECOND + more)[0][1][0] == 0.25


@settings(max_examples=60, deadline=None)
@given(st.decimals(-1000, 1000, allow_nan=False, places=12), st.integers(-300, 300))
def test_numbers_are_rounded_outwards(tmp_path_factory: pytest.TempPathFactory, value: object, power: int) -> None:
    """No input that satisfies the file's bounds exactly is lost."""
    text = f"{value:f}e{power}"
    one = "(declare-const X_0 Real)"
    path = tmp_path_factory.mktemp("v")
    (box,) = boxes(path, f"{one}(assert (<= X_0 {text}))(assert (>= X_0 {text}))", 1)
    exact = Fraction(text)
    for v, below in ((box[0][0], True), (box[1][0], False)):
        if math.isfinite(v):
            assert Fraction(v) <= exact if below else Fraction(v) >= exact
            beside = math.nextafter(v, math.inf if below else -math.inf)
            assert not math.isfinite(beside) or (Fraction(beside) > exact if below else Fraction(beside) < exact)
        else:
            assert v == (-math.inf if exact < 0 else math.inf) or abs(exact) > Fraction(2) ** 1023


WRONG = [
    # name, text, code, what the error says
    ("unbounded", DECLARED + FIRST + "(assert (<= X_1 1))", "QEB490", "X_1"),
    ("no inputs", FIRST, "QEB492", "X_0 is not declared"),
    ("too few inputs", "(declare-const X_0 Real)" + FIRST, "QEB490", "1 inputs"),
    ("declared twice", DECLARED * 2, "QEB492", "X_0"),
    ("an integer", "(declare-const X_0 Int)", "QEB492", "X_0"),
    ("another name", "(declare-const Z_0 Real)", "QEB492", "Z_0"),
    ("leading zero", "(declare-const X_00 Real)", "QEB492", "X_00"),
    ("empty box", DECLARED + FIRST + SECOND + "(assert (>= X_0 2))", "QEB452", "X_0"),
    ("two inputs in a bound", DECLARED + "(assert (<= X_0 X_1))", "QEB492", "no bound of one input"),
    ("a sum", DECLARED + "(assert (<= (+ X_0 X_1) 1))", "QEB492", "more than a number"),
    ("two numbers", DECLARED + "(assert (<= 1 2))", "QEB492", "no bound of one input"),
    ("strictly less", DECLARED + "(assert (< X_0 1))", "QEB492", "no bound of one input"),
    ("negation", DECLARED + "(assert (not (<= X_0 1)))", "QEB492", "no bound of one input"),
    ("no number", DECLARED + "(assert (<= X_0 nan))", "QEB492", "nan"),
    ("infinite", DECLARED + "(assert (<= X_0 inf))", "QEB492", "inf"),
    ("a huge exponent", DECLARED + "(assert (<= X_0 1e99999999))", "QEB492", "no number"),
    ("hexadecimal", DECLARED + "(assert (<= X_0 0x10))", "QEB492", "no number"),
    ("unknown command", "(define-fun f () Real 1)", "QEB492", "define-fun"),
    ("text outside", "hello", "QEB492", "hello"),
    ("unclosed", DECLARED + "(assert (<= X_0 1)", "QEB492", "no end"),
    ("closed twice", "(check-sat))", "QEB492", "outside"),
    ("nested", "(" * 50 + ")" * 50, "QEB492", "nested"),
    ("empty expression", "()", "QEB492", "no command"),
    ("not text", b"\xff\xfe", "QEB492", "byte 0"),
    ("an escape in a name", "(declare-const \x1b[31mX Real)", "QEB492", "\\x1b"),
]


@pytest.mark.parametrize(("text", "code", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_files(tmp_path: Path, text: str | bytes, code: str, words: str) -> None:
    with pytest.raises(DataError) as e:
        boxes(tmp_path, text)
    assert e.value.code == code and words in str(e.value) and "\x1b" not in str(e.value)
    assert str(tmp_path / "a.vnnlib") in (e.value.where or "")


def test_errors_name_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        boxes(tmp_path, DECLARED + "\n; comment\n(assert\n (<= X_0 zero))")
    assert (e.value.where or "").endswith("a.vnnlib:6")


def test_bombs_are_refused_quickly(tmp_path: Path) -> None:
    many = "(assert (or (<= X_0 0) (>= X_0 0)))" * 40
    wide = "(assert (and " + "(or (<= X_0 0) (>= X_0 0)) " * 40 + "))"
    deep = "(" * 1_000_000
    start = time.perf_counter()
    for text in (DECLARED + many, DECLARED + wide, deep, "a" * 1_000_000, "(assert " + ") (" * 100_000):
        with pytest.raises(DataError):
            boxes(tmp_path, text)
    assert time.perf_counter() - start < 10


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="()<=>XY_01 orandset.-+e;\n", max_size=80))
def test_any_text_is_boxes_or_a_coded_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    try:
        found = boxes(tmp_path_factory.mktemp("v"), "(declare-const X_0 Real)" + text, 1)
    except QebgateError as e:
        assert e.code
    else:
        assert all(lo[0] <= hi[0] for lo, hi in found)
