"""Trees over the inputs: accepted as they are written, rejected once a part is missing, moved, or not what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.certificates import save_evidence
from qebgate.certify.bundle import JSON_FILE
from qebgate.certify.check import bounds, program_of
from qebgate.certify.errors import EvidenceError
from qebgate.certify.execute import MOST, floats
from qebgate.certify.recheck import Answer, recheck
from qebgate.engines.split import tree as split_tree
from qebgate.engines.split.tree import Tree
from qebgate.gate import Options
from qebgate.gate import check as run_gate
from qebgate.policy import load_policy
from tests.certify.ask import question_of
from tests.certify.test_recheck import Copy, accepted
from tests.engines.tiny import MODELS, RUNTIMES, outside, tiny

EXACT = 2.0**-55
LIMITS = {"grid": 0.0148, "real": 0.0207}
"""Between what one analysis proves and the largest gap."""
NAMES = ["dense_8_8-int8", "conv-int8", "residual_relu-int8", "dense_4-float_io"]


@pytest.mark.parametrize("name", NAMES)
def test_executed_parts_contain_everything(name: str) -> None:
    t, rng = tiny(name), np.random.default_rng(sum(name.encode()))
    for k, runtime in enumerate(RUNTIMES):
        cell = t.box(rng)
        if (cell.count or 0) > MOST:
            continue
        floats_, h, error = ("float32", t.float32, 0.0) if k % 2 == 0 else ("real", t.real, EXACT)
        question = question_of(t.task(cell, runtime, floats_, 1.0))  # type: ignore[arg-type]
        lower, upper = bounds(question, None)
        gap = t.quantized(runtime).astype(np.longdouble)[t.rows(cell)] - h[t.rows(cell)]
        assert outside(lower, upper, gap, error) == 0
        assert np.max(np.maximum(-lower, upper)) <= np.abs(gap).max() * (1 + 1e-4) + 1e-5
        if k == 0:  # the float side alone: LiteRT's own evaluation is within its error too
            x = t.inputs.x[t.rows(cell)].reshape(-1, t.side).astype(np.float64)
            y, e = floats(program_of(question), x)
            assert (np.abs(t.litert(runtime)[t.rows(cell)] - y) <= e).all()


def test_large_and_real_parts_are_not_executed() -> None:
    t = tiny("dense_8_8-int8")
    with pytest.raises(EvidenceError, match="more than"):
        bounds(question_of(t.task(t.whole, RUNTIMES[0])), None)
    cell = t.whole
    real = type(cell)(cell.lower, cell.upper, None, 0, cell.centre)
    task = t.task(real, RUNTIMES[0])
    program = program_of(question_of(t.task(cell, RUNTIMES[0])))
    with pytest.raises(EvidenceError, match="real"):
        bounds(question_of(task), None, program)


def project(folder: Path, domain: str, limit: float) -> Path:
    """A bundle of one box of a tiny network, split."""
    shutil.copy(MODELS / "dense_8_8.float.tflite", folder / "f.tflite")
    shutil.copy(MODELS / "dense_8_8.int8.tflite", folder / "q.tflite")
    np.savez(folder / "x.npz", x=np.array([[10, -20]], np.int64))
    region = {"kind": "ball", "data": "x.npz", "array": "x", "values": "codes", "radius": 24, "unit": "lsb"}
    policy = {
        "version": 1,
        "models": {"m": {"float": "f.tflite", "quantized": "q.tflite", "runtime": "litert-builtin"}},
        "regions": {"r": region | {"domain": domain}},
        "checks": [
            {"id": "c", "model": "m", "region": "r", "engines": ["split"], "effort": "deep",
             "property": {"kind": "max_abs", "limit": limit}}
        ],
    }  # fmt: skip
    if domain == "real":
        policy["models"]["m"]["input_quantization"] = "nearest"  # type: ignore[index]
    (folder / "qebgate.yaml").write_text(json.dumps(policy))
    source = load_policy(folder / "qebgate.yaml")
    report = run_gate(source, Options())
    assert report.verdict == "pass"
    saved = save_evidence(source, report, (), folder / "ev")
    assert (saved.written, saved.warnings) == (1, ())
    (path,) = (folder / "ev").iterdir()
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Tree, "leaf", 100)
        m.setattr(split_tree, "SMALL", 50)
        return project(tmp_path_factory.mktemp("grid"), "grid", LIMITS["grid"])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("real"), "real", LIMITS["real"])


def parts(path: Path) -> list[dict[str, Any]]:
    return json.loads((path / JSON_FILE).read_text())["leaves"]


def test_accepted(bundle: Path, real: Path, tmp_path: Path) -> None:
    leaves = parts(bundle)
    assert sum(x["executed"] for x in leaves) >= 3
    assert sum(not x["executed"] for x in leaves) >= 3
    assert len(parts(real)) >= 2
    assert not any(x["executed"] for x in parts(real))
    for k, path in enumerate((bundle, real)):
        assert recheck(path).yes
        (tmp_path / str(k)).mkdir()
        assert accepted(Copy(path, tmp_path / str(k)).seal())


def drop(c: Copy, rng: np.random.Generator) -> None:
    """A leaf and its hints."""
    leaves = c.fields["leaves"]
    k = int(rng.integers(len(leaves)))
    del leaves[k]
    renamed = {}
    for name, a in c.arrays.items():
        leaf, rest = name.split(".", 1)
        n = int(leaf.removeprefix("leaf"))
        if n != k:
            renamed[f"leaf{n - (n > k)}.{rest}"] = a
    c.arrays = renamed


def narrow(c: Copy, rng: np.random.Generator) -> None:
    """A leaf ends a code (on real regions a little) earlier."""
    leaves = [x for x in c.fields["leaves"] if x["restrictions"]]
    r = leaves[int(rng.integers(len(leaves)))]["restrictions"]
    one = r[int(rng.integers(len(r)))]
    by = 1 if c.question["region"]["domain"] == "grid" else 10.0 ** rng.uniform(-9, -3)
    for key, sign in (("at_least", 1), ("at_most", -1)):
        if one.get(key) is not None:
            one[key] += sign * by


def between(c: Copy, rng: np.random.Generator) -> None:
    """A leaf that ends between two codes."""
    leaves = [x for x in c.fields["leaves"] if x["restrictions"]]
    one = leaves[int(rng.integers(len(leaves)))]["restrictions"][0]
    for key in ("at_least", "at_most"):
        if one.get(key) is not None:
            one[key] += 0.5


def twice(c: Copy, rng: np.random.Generator) -> None:
    """One leaf stands for two."""
    leaves = c.fields["leaves"]
    a, b = rng.choice(len(leaves), 2, replace=False)
    leaves[a]["restrictions"] = leaves[b]["restrictions"]


def not_executed(c: Copy, rng: np.random.Generator) -> None:
    """A leaf with hints says that it is executed, or the other way round."""
    leaves = c.fields["leaves"]
    k = int(rng.integers(len(leaves)))
    leaves[k]["executed"] = not leaves[k]["executed"]


def larger(c: Copy, rng: np.random.Generator) -> None:
    r = c.question["region"]
    i, by = int(rng.integers(2)), 40 if r["domain"] == "grid" else 0.3
    if rng.random() < 0.5:
        r["lower"][i] -= by
    else:
        r["upper"][i] += by


def tighter(c: Copy, rng: np.random.Generator) -> None:
    side = ("lower", "upper")[int(rng.integers(2))]
    k = int(rng.integers(len(c.claim[side])))
    c.claim[side][k] *= 1 - 10 ** rng.uniform(-6, 0)
    c.claim["proven"] = max(*(-v for v in c.claim["lower"]), *c.claim["upper"])


def foreign_hints(c: Copy, rng: np.random.Generator) -> None:
    """Hints for a leaf that is executed, or does not exist."""
    leaves = c.fields["leaves"]
    k = [len(leaves), *(k for k, x in enumerate(leaves) if x["executed"])]
    c.arrays[f"leaf{k[int(rng.integers(len(k)))]}.slopes.1"] = np.ones((10, 8), np.float32)


@pytest.mark.parametrize("how", [drop, narrow, between, twice, not_executed, larger, tighter, foreign_hints])
def test_tampered(bundle: Path, real: Path, tmp_path: Path, how: Any) -> None:
    for seed in range(4):
        path = bundle if seed % 2 == 0 else real
        if path is real and how == between:
            continue
        (tmp_path / str(seed)).mkdir()
        c = Copy(path, tmp_path / str(seed))
        how(c, np.random.default_rng(seed))
        try:
            found = c.seal()
        finally:
            shutil.rmtree(tmp_path / str(seed))
        assert not accepted(found), (how.__name__, seed)
        if how in (drop, narrow):
            assert isinstance(found, Answer)
            assert "cover" in found.why
