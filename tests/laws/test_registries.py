"""Law 5: registries and files agree."""

from __future__ import annotations

from pathlib import Path

from qebgate.adapters.tflite.opcodes import OPTIONS_TYPE
from qebgate.domains.layers import Affine, MaxPool, Opaque
from qebgate.engines.dra.program import program
from qebgate.ops.registry import LOWERINGS
from qebgate.runtimes.profiles import Runtime
from qebgate.semantics.float_error import _RULES
from qebgate.semantics.registry import SEMANTICS
from tests.laws.pairs import codec_of, grid_cell, one_operator, task_of
from tests.semantics.cases import CASES


def test_every_operator_with_a_meaning_has_bounds_and_the_other_way_round() -> None:
    assert set(LOWERINGS) == set(SEMANTICS)
    assert all(x.op == name for name, x in LOWERINGS.items())
    assert all(x.name == name for name, x in SEMANTICS.items())


def test_every_operator_has_a_float32_error_and_random_cases() -> None:
    assert set(_RULES) == set(SEMANTICS)
    assert set(CASES) == set(SEMANTICS)


def test_every_file_in_ops_and_semantics_is_known(root: Path) -> None:
    """A file that no registry reaches would be an operator that is silently not supported."""
    for package, registry in (("ops", LOWERINGS), ("semantics", SEMANTICS)):
        modules = {type(x).__module__ for x in registry.values()}
        files = {p.stem for p in (root / "qebgate" / package).glob("*.py")}
        operators = {f for f in files if f.upper() in SEMANTICS}
        assert {m.rsplit(".", 1)[1] for m in modules} >= operators
        assert {m.rsplit(".", 1)[1] for m in modules} <= files


def test_the_reader_knows_the_options_of_every_operator_that_has_some() -> None:
    from qebgate.semantics.base import Semantics

    parses = {name for name, s in SEMANTICS.items() if type(s).parse is not Semantics.parse}
    assert parses <= set(OPTIONS_TYPE)


def test_every_operator_is_lowered_to_layers_that_end_at_its_value() -> None:
    import numpy as np

    kinds = set()
    for op in sorted(LOWERINGS):
        twins = one_operator(op, 3)
        codec = codec_of(twins.pair)
        task = task_of(twins.pair, grid_cell(twins.pair, codec, np.random.default_rng(0)), codec, Runtime.BUILTIN)
        p = program(task)
        kinds |= {type(x) for x in p.layers}
        written = [x.output for x in p.layers]
        assert len(set(written)) == len(written)
        assert p.output in written
        known = {-1}
        for x in p.layers:
            assert set(x.inputs) <= known
            known.add(x.output)
    assert kinds == {Affine, MaxPool, Opaque}


def test_the_support_table_is_up_to_date(root: Path) -> None:
    from benchmarks.support import page

    assert (root / "docs" / "support.md").read_text() == "\n".join(page()) + "\n"
