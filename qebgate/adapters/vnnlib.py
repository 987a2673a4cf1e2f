"""VNN-LIB files, as far as input boxes go: ``declare-const X_i``, and bounds of single inputs, also in disjunctions.

The properties of a check are qebgate's own, so what a file says about outputs is left out; a disjunct that speaks of
inputs and outputs counts as its inputs' box, which holds at least its inputs.  Files are hostile: sizes and depths are
limited, and numbers are read as exact decimals and rounded so that no input of a box is lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Literal

from qebgate.adapters.files import read_file
from qebgate.errors import DataError, printable

MAX_BYTES = 64 << 20
MAX_DEPTH = 12
MAX_BOXES = 10_000
MAX_NUMBERS = 20_000_000
"""Numbers of all boxes together."""

Box = tuple[tuple[float, ...], tuple[float, ...]]
Expr = str | list["Expr"]
Side = tuple[int, Literal["lower", "upper"], Fraction]

_TOKEN = re.compile(r"\s+|;[^\n]*|(?P<token>[()]|[^\s();]+)")
_NAME = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
_NUMBER = re.compile(r"[-+]?([0-9]{1,400})?(\.[0-9]{0,400})?([eE][-+]?[0-9]{1,3})?")


def read_boxes(path: Path, size: int) -> list[Box]:
    """The boxes ``(lower, upper)`` of ``size`` inputs each that a file describes, in its order; DataError."""
    where = printable(path)
    data = read_file(path, MAX_BYTES, DataError)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as e:
        raise _damaged(where, f"byte {e.start} is no ASCII text") from None
    declared: set[str] = set()
    always: list[Side] = []
    choices: list[list[list[Side]]] = []
    for line, command in _commands(text, where):
        at = f"{where}:{line}"
        if not isinstance(command, list) or not command or not isinstance(command[0], str):
            raise _damaged(at, "no command")
        if command[0] == "declare-const" and len(command) == 3 and isinstance(command[1], str):
            if _NAME.fullmatch(command[1]) is None or command[2] != "Real" or command[1] in declared:
                raise _damaged(at, f"the declaration of {printable(command[1], 40)}")
            declared.add(command[1])
        elif command[0] == "assert" and len(command) == 2:
            found = _assertion(command[1], declared, at)
            if len(found) == 1:
                always += found[0]
            elif found:
                choices.append(found)
        elif command[0] not in ("set-logic", "set-info", "check-sat", "get-model", "exit"):
            raise _damaged(at, f"the command {printable(command[0], 40)}")
    inputs = {n for n in declared if n.startswith("X")}
    if inputs != {f"X_{i}" for i in range(size)}:
        found = f"{len(inputs)} inputs; the model has {size}"
        raise DataError("QEB490", "the VNN-LIB file does not fit the model", where, found, "declare X_0, X_1, ...")
    count = math.prod(len(c) for c in choices)
    if count > MAX_BOXES or count * size > MAX_NUMBERS:
        raise DataError("QEB491", "the VNN-LIB file describes too many boxes", where, f"{count}")
    return [_box([*always, *(s for part in chosen for s in part)], size, where) for chosen in product(*choices)]


def _commands(text: str, where: str) -> Iterator[tuple[int, Expr]]:
    """Top-level expressions with their lines."""
    stack: list[list[Expr]] = []
    at, line, begun = 0, 1, 1
    while at < len(text):
        m = _TOKEN.match(text, at)
        assert m is not None  # every character is a space, a comment or a token
        token, start = m["token"], line
        line += m[0].count("\n")
        at = m.end()
        if token is None:
            continue
        if token == "(":  # noqa: S105
            if not stack:
                begun = start
            stack.append([])
            if len(stack) > MAX_DEPTH:
                raise _damaged(f"{where}:{start}", "expressions are nested too deeply")
        elif not stack:
            raise _damaged(f"{where}:{start}", f"{printable(token, 40)} outside of an expression")
        elif token == ")":  # noqa: S105
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield begun, done
        else:
            stack[-1].append(token)
    if stack:
        raise _damaged(f"{where}:{begun}", "an expression has no end")


def _assertion(e: Expr, declared: set[str], at: str) -> list[list[Side]]:
    """An assertion as a disjunction of conjunctions of bounds; those of outputs are empty."""
    if isinstance(e, list) and e and e[0] == "or":
        return [side for part in e[1:] for side in _assertion(part, declared, at)]
    if isinstance(e, list) and e and e[0] == "and":
        parts = [_assertion(part, declared, at) for part in e[1:]]
        if math.prod(len(p) for p in parts) > MAX_BOXES:
            raise DataError("QEB491", "the VNN-LIB file describes too many boxes", at)
        return [[s for part in chosen for s in part] for chosen in product(*parts)]
    return [_comparison(e, declared, at)]


def _comparison(e: Expr, declared: set[str], at: str) -> list[Side]:
    if not (isinstance(e, list) and len(e) == 3 and e[0] in ("<=", ">=")):
        raise _damaged(at, "an assertion that is no bound of one input")
    a, b = (e[1], e[2]) if e[0] == "<=" else (e[2], e[1])
    if not (isinstance(a, str) and isinstance(b, str)):
        raise _damaged(at, "a bound by more than a number")
    names = [_NAME.fullmatch(x) for x in (a, b)]
    for m in names:
        if m is not None and m[0] not in declared:
            raise _damaged(at, f"{m[0]} is not declared")
    if any(m is not None and m[1] == "Y" for m in names):
        return []
    if (names[0] is None) == (names[1] is None):
        raise _damaged(at, "an assertion that is no bound of one input")
    if names[0] is not None:
        return [(int(names[0][2]), "upper", _number(b, at))]
    assert names[1] is not None
    return [(int(names[1][2]), "lower", _number(a, at))]


def _number(text: str, at: str) -> Fraction:
    m = _NUMBER.fullmatch(text)
    if m is None or not (m[1] or (m[2] and len(m[2]) > 1)):
        raise _damaged(at, f"{printable(text, 40)} is no number")
    return Fraction(text)


def _box(sides: list[Side], size: int, where: str) -> Box:
    lower: list[Fraction | None] = [None] * size
    upper: list[Fraction | None] = [None] * size
    for i, side, value in sides:
        if i >= size:
            raise _damaged(where, f"a bound of X_{i}")
        if side == "lower":
            known = lower[i]
            lower[i] = value if known is None else max(known, value)
        else:
            known = upper[i]
            upper[i] = value if known is None else min(known, value)
    lo, hi = [_rounded(v, -math.inf) for v in lower], [_rounded(v, math.inf) for v in upper]
    for i, (a, b) in enumerate(zip(lower, upper, strict=True)):
        if a is None or b is None:
            fix = "every input needs both bounds"
            raise DataError("QEB490", "the VNN-LIB file does not bound an input", where, f"X_{i}", fix)
        if a > b:
            raise DataError("QEB452", "a region is empty", where, f"X_{i}: {float(a)!r} > {float(b)!r}")
    return tuple(lo), tuple(hi)


def _rounded(value: Fraction | None, towards: float) -> float:
    """The float64 next to a number, on the side of ``towards``."""
    if value is None:
        return towards
    try:
        near = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    exact = Fraction(near)
    beside = (exact > value and towards < 0) or (exact < value and towards > 0)
    return math.nextafter(near, towards) if beside else near


def _damaged(where: str, found: str) -> DataError:
    fix = "only bounds of single inputs, `and` and `or` are read"
    return DataError("QEB492", "the file is no VNN-LIB file of input boxes", where, found, fix)
