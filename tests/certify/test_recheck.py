"""Bundles: yes for what is proven, no or a coded error for everything else; never an exception, never a wrong yes."""

from __future__ import annotations

import hashlib
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qebgate.certificates import save_evidence
from qebgate.certify.bundle import ARRAYS_FILE, JSON_FILE, digest
from qebgate.certify.errors import EvidenceError
from qebgate.certify.recheck import Answer, recheck
from qebgate.cli import run
from qebgate.errors import ModelError
from qebgate.gate import Options
from qebgate.gate import check as run_gate
from qebgate.policy import load_policy

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
POLICY = """
version: 1
models:
  mlp: {float: models/mlp_float.tflite, quantized: models/mlp_int8.tflite, runtime: litert-xnnpack}
regions:
  near: {kind: ball, data: data/golden.npz, array: x, limit: 1, radius: 1, unit: lsb, domain: grid}
checks:
  - {id: logits, model: mlp, region: near, engines: [dra], property: {kind: max_abs, limit: 0.5, outputs: [0, 3, 7]}}
"""


def seeds(usual: int, all_of_them: int) -> list[Any]:
    """The first few in every run, the others in slow ones."""
    return [k if k < usual else pytest.param(k, marks=pytest.mark.slow) for k in range(all_of_them)]


VARIANTS = seeds(4, 25)
"""Tampered bundles of each kind of tampering; there are more than 20 kinds."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a policy, and its evidence in ``ev``."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(EXAMPLE / "models", folder / "models")
    shutil.copytree(EXAMPLE / "data", folder / "data")
    (folder / "qebgate.yaml").write_text(POLICY)
    source = load_policy(folder / "qebgate.yaml")
    report = run_gate(source, Options())
    saved = save_evidence(source, report, (), folder / "ev")
    assert saved.warnings == ()
    assert saved.written == 1
    return folder


@pytest.fixture(scope="module")
def bundle(home: Path) -> Path:
    (path,) = (home / "ev").iterdir()
    return path


def answer(path: Path, root: Path | None = None) -> Answer | str:
    """The answer, or the code of the error."""
    try:
        return recheck(path, root)
    except (EvidenceError, ModelError) as e:
        return e.code


def accepted(a: Answer | str) -> bool:
    return isinstance(a, Answer) and a.yes


class Copy:
    """A bundle that is changed and sealed again, as somebody who knows the format would."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.path = folder / "bundle"
        shutil.copytree(bundle, self.path)
        self.fields: dict[str, Any] = json.loads((bundle / JSON_FILE).read_text())
        with np.load(bundle / ARRAYS_FILE) as z:
            self.arrays = {k: z[k] for k in z.files}
        self.fields["models"]["root"] = str(bundle / self.fields["models"]["root"])
        self.question, self.claim = self.fields["question"], self.fields["claim"]

    def seal(self) -> Answer | str:
        out = BytesIO()
        np.savez(out, **self.arrays)
        (self.path / ARRAYS_FILE).write_bytes(out.getvalue())
        self.fields["arrays"]["sha256"] = hashlib.sha256(out.getvalue()).hexdigest()
        self.fields["sha256"] = digest(self.fields)
        (self.path / JSON_FILE).write_text(json.dumps(self.fields))
        return answer(self.path)


def test_yes(home: Path, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = recheck(bundle)
    assert found.yes
    assert found.notes == ()
    assert "within the limit 0.5" in found.why
    assert run(["recheck", str(home / "ev")]) == 0
    assert capsys.readouterr().out.startswith("yes ")
    # sealed again unchanged, and elsewhere
    assert accepted(Copy(bundle, tmp_path).seal())
    shutil.copytree(bundle, tmp_path / "moved")
    assert answer(tmp_path / "moved") == "QEB400"
    assert accepted(answer(tmp_path / "moved", home))


def test_other_models_and_policies(home: Path, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(home / "models", other / "models")
    assert "not at hand" in str(recheck(bundle, other).notes)
    shutil.copy(other / "models/mlp_qat_int8.tflite", other / "models/mlp_int8.tflite")
    assert answer(bundle, other) == "QEB482"
    shutil.copy(home / "models/mlp_int8.tflite", other / "models/mlp_int8.tflite")
    (other / "qebgate.yaml").write_text(POLICY + "# changed\n")
    assert answer(bundle, other) == "QEB482"
    assert run(["recheck", str(bundle), "--root", str(other)]) == 2


@pytest.mark.parametrize("seed", VARIANTS)
def test_bytes_are_not_changed_unseen(bundle: Path, tmp_path: Path, seed: int) -> None:
    """Flips, cuts, insertions in either file, not sealed again: always refused."""
    rng = np.random.default_rng(seed)
    for n in range(8):
        path = tmp_path / f"b{n}"
        shutil.copytree(bundle, path)
        name = path / (JSON_FILE, ARRAYS_FILE)[n % 2]
        data = bytearray(name.read_bytes())
        at = int(rng.integers(len(data)))
        if n < 4:
            data[at] ^= int(rng.integers(1, 256))
        elif n < 6:
            del data[at : at + int(rng.integers(1, 400))]
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 50)))
        if bytes(data) == name.read_bytes():
            continue
        name.write_bytes(bytes(data))
        found = answer(path)
        # white space between tokens of the JSON is no content
        same = name.name == JSON_FILE and _same_json(bytes(data), (bundle / JSON_FILE).read_bytes())
        assert same or found == "QEB481", found


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


def widened(c: Copy, rng: np.random.Generator) -> None:
    k = int(rng.integers(3))
    c.claim["upper"][k] += abs(c.claim["upper"][k]) * 10 ** rng.uniform(-5, 0)


def tightened(c: Copy, rng: np.random.Generator) -> None:
    k, side = int(rng.integers(3)), ("lower", "upper")[int(rng.integers(2))]
    sign = -1 if side == "upper" else 1
    c.claim[side][k] += sign * abs(c.claim[side][k]) * 10 ** rng.uniform(-7, 0)
    _figure(c)


def figure(c: Copy, rng: np.random.Generator) -> None:
    c.claim["proven"] *= 1 + rng.uniform(-0.5, 0.5)


def larger_region(c: Copy, rng: np.random.Generator) -> None:
    r = c.question["region"]
    k = rng.choice(64, int(rng.integers(8, 64)), replace=False)
    for i in k:
        r["lower"][i], r["upper"][i] = max(-128, r["lower"][i] - 3), min(127, r["upper"][i] + 3)


def other_region(c: Copy, rng: np.random.Generator) -> None:
    r = c.question["region"]
    lower = rng.integers(-128, 126, 64)
    r["lower"], r["upper"] = lower.tolist(), (lower + 2).tolist()


def broken_region(c: Copy, rng: np.random.Generator) -> None:
    r, k = c.question["region"], int(rng.integers(64))
    what = int(rng.integers(6))
    if what == 0:
        r["lower"][k] = r["upper"][k] + 1
    elif what == 1:
        r["upper"][k] = 128
    elif what == 2:
        r["lower"][k] -= 0.5
    elif what == 3:
        del r["lower"][k]
    elif what == 4:
        r["lower"], r["upper"] = [], []
    else:
        r["domain"] = "real"


def smaller_limit(c: Copy, rng: np.random.Generator) -> None:
    c.question["limit"] = c.claim["proven"] * rng.uniform(0, 0.999)


def bad_limit(c: Copy, rng: np.random.Generator) -> None:
    c.question["limit"] = [-1.0, "1", None, True, 10**400, [1]][int(rng.integers(6))]


def in_quanta(c: Copy, rng: np.random.Generator) -> None:
    del rng
    c.question["property"] = "max_lsb"


def outputs(c: Copy, rng: np.random.Generator) -> None:
    c.question["outputs"] = [[0, 3], [0, 3, 8], [3, 0, 7], [0, 3, 3], [0, 3, 10], [0, 3, -1], [], [0, 3, 7, 8]][
        int(rng.integers(8))
    ]


def runtime(c: Copy, rng: np.random.Generator) -> None:
    c.question["runtime"] = ["fixed-point", "litert-builtin", "tflm", "", "x" * 5000][int(rng.integers(5))]


def file_hash(c: Copy, rng: np.random.Generator) -> None:
    which = ("float_file", "quantized_file")[int(rng.integers(2))]
    h = list(c.fields["models"][which]["sha256"])
    at = int(rng.integers(64))
    h[at] = "0" if h[at] != "0" else "1"
    c.fields["models"][which]["sha256"] = "".join(h)


def policy_hash(c: Copy, rng: np.random.Generator) -> None:
    c.fields["policy"]["sha256"] = hashlib.sha256(rng.bytes(8)).hexdigest()


def swapped_models(c: Copy, rng: np.random.Generator) -> None:
    m = c.fields["models"]
    if rng.random() < 0.5:
        m["float_file"], m["quantized_file"] = m["quantized_file"], m["float_file"]
    else:
        m["float_file"]["path"] = ["", "..", "/dev/zero", "/etc/passwd", "a\0b"][int(rng.integers(5))]


def missing_key(c: Copy, rng: np.random.Generator) -> None:
    part = [c.fields, c.question, c.claim, c.fields["models"], c.fields["leaves"][0]][int(rng.integers(5))]
    keys = [k for k in part if k not in ("sha256", "arrays")]
    del part[keys[int(rng.integers(len(keys)))]]


def surplus_key(c: Copy, rng: np.random.Generator) -> None:
    part = [c.fields, c.question, c.claim, c.fields["models"], c.fields["leaves"][0]][int(rng.integers(5))]
    part["also"] = 1


def wrong_type(c: Copy, rng: np.random.Generator) -> None:
    part = [c.fields, c.question, c.claim, c.fields["models"], c.fields["leaves"][0]][int(rng.integers(5))]
    keys = [k for k in part if k not in ("sha256", "arrays", "policy", "input_quantization", "fixed_point", "leaves")]
    part[keys[int(rng.integers(len(keys)))]] = [None, {}, [[]], {"a": [None]}, True][int(rng.integers(5))]


def missing_hints(c: Copy, rng: np.random.Generator) -> None:
    del c.arrays[_some(c, rng)]


def surplus_hints(c: Copy, rng: np.random.Generator) -> None:
    name = ["leaf0.slopes.99", "leaf1.slopes.1", "x", "leaf0.slopes.-1", "leaf", "leaf0.target0.entries", "leafX.a"]
    c.arrays[name[int(rng.integers(7))]] = np.ones((10, 4), np.float32)


def misshapen_hints(c: Copy, rng: np.random.Generator) -> None:
    k = _some(c, rng)
    a = c.arrays[k]
    c.arrays[k] = [a[:-1], a[:, 1:], a[..., None], a.astype(np.int32), a[:, :1], a[0]][int(rng.integers(6))]


def not_finite(c: Copy, rng: np.random.Generator) -> None:
    a = c.arrays[_some(c, rng)]
    a[int(rng.integers(10)), int(rng.integers(a.shape[1]))] = [np.nan, np.inf, -np.inf, 1e38][int(rng.integers(4))]


def ruined_hints(c: Copy, rng: np.random.Generator) -> None:
    """Sound whatever they are; but the claim no longer follows."""
    for a in c.arrays.values():
        a[:] = rng.normal(size=a.shape) * 3


def leaf(c: Copy, rng: np.random.Generator) -> None:
    """Restrictions that leave a part of the region out, or that mean nothing."""
    i = int(rng.integers(64))
    lo, hi = (c.question["region"][k][i] for k in ("lower", "upper"))
    bad = [
        {"kind": "input", "input": i, "at_most": hi - 1},
        {"kind": "input", "input": i, "at_least": lo + 1},
        {"kind": "input", "input": 64, "at_most": hi},
        {"kind": "input", "input": i, "at_least": hi + 1},
        {"kind": "neuron", "input": i, "at_most": hi},
        {"kind": "input", "input": -1, "at_most": hi},
    ]
    if lo == hi:
        bad = bad[2:]
    c.fields["leaves"][0]["restrictions"] = [bad[int(rng.integers(len(bad)))]]


def _some(c: Copy, rng: np.random.Generator) -> str:
    return sorted(c.arrays)[int(rng.integers(len(c.arrays)))]


def _figure(c: Copy) -> None:
    c.claim["proven"] = max(*(-v for v in c.claim["lower"]), *c.claim["upper"])


TAMPERING = [
    widened, tightened, figure, larger_region, other_region, broken_region, smaller_limit, bad_limit, in_quanta,
    outputs, runtime, file_hash, policy_hash, swapped_models, missing_key, surplus_key, wrong_type, missing_hints,
    surplus_hints, misshapen_hints, not_finite, ruined_hints, leaf,
]  # fmt: skip


@pytest.mark.parametrize("how", TAMPERING, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", VARIANTS)
def test_tampered_bundles_are_rejected(bundle: Path, tmp_path: Path, how: Any, seed: int) -> None:
    """Changed and sealed again with right hashes: never yes, never anything but an answer or a coded error."""
    c, rng = Copy(bundle, tmp_path), np.random.default_rng(seed)
    how(c, rng)
    found = c.seal()
    assert not accepted(found), how.__name__
    if not isinstance(found, Answer):
        assert found in {"QEB400", "QEB404", "QEB481", "QEB482", "QEB483", "QEB461", "QEB462"}, found


@pytest.mark.parametrize("seed", VARIANTS)
def test_changed_hints_prove_nothing_false(bundle: Path, tmp_path: Path, seed: int) -> None:
    """Where a changed hint still gives the claim, the claim is as true as before."""
    c, rng = Copy(bundle, tmp_path), np.random.default_rng(seed)
    a = c.arrays[_some(c, rng)]
    at = tuple(int(rng.integers(n)) for n in a.shape)
    a[at] += rng.normal()
    found = c.seal()
    assert isinstance(found, Answer)
    assert found.yes or "follow" in found.why or "wider" in found.why


HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 10**30, 1e308, -1e308, 5e-324, "", "x", "\ud800", "a\0b", "9" * 5000, "../../..",
    [], {}, [[]], [0], [1e308], {"a": 1}, "litert-reference", 0.1, ["\n"], "\u0661",
]  # fmt: skip
"""Values of every type and size."""


@pytest.mark.parametrize("seed", seeds(20, 80))
def test_any_value_anywhere(bundle: Path, tmp_path: Path, seed: int) -> None:
    """One value or key of the statement replaced by a hostile one: an answer or a coded error, and no false yes."""
    rng = np.random.default_rng(seed)
    c = Copy(bundle, tmp_path)
    about = {"tool", "check", "row", "engine", "seed", "limits", "assumptions", "policy", "refine"}
    node: Any = c.fields
    free = False
    while True:
        keys = [k for k in node if k not in ("sha256", "arrays")] if isinstance(node, dict) else range(len(node))
        key = list(keys)[int(rng.integers(len(keys)))]
        free |= key in about or key in ("runtime_version", "root")
        inner = node[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            node = inner
            continue
        value = HOSTILE[int(rng.integers(len(HOSTILE)))]
        if isinstance(node, dict) and isinstance(value, str) and rng.random() < 0.3:
            node[value] = node.pop(key)
        else:
            node[key] = value
        break
    before = json.loads((bundle / JSON_FILE).read_text())
    found = c.seal()
    same = c.question == before["question"] and c.claim == before["claim"]
    # what is about the question is proven or refused; a smaller region or a larger limit may be just as true
    assert free or same or not accepted(found) or c.question["limit"] >= c.claim["proven"]


def add_tree(c: Copy, splits: list[list[float]]) -> None:
    """Leaves of one side of the gap at output 3, without multipliers at all where there are splits."""
    sizes = {int(k.rsplit(".", 1)[1]): a.shape[1] for k, a in c.arrays.items() if ".slopes." in k}
    value, output = sorted(sizes)[-2:]
    m, rows = sizes[value], 1 + int(max(s[0] for s in splits))
    c.fields["leaves"][0]["targets"].append({"value": output, "kind": "gap"})
    name = f"leaf0.target{len(c.fields['leaves'][0]['targets']) - 1}"
    c.arrays[f"{name}.entries"] = np.full(rows, 3, np.int32)
    c.arrays[f"{name}.signs"] = np.ones(rows, np.int8)
    c.arrays[f"{name}.multipliers.{value}"] = np.zeros((2, rows, m), np.float32)
    c.arrays[f"{name}.splits.{value}"] = np.array(splits, np.float64)


FAR = 2.0**100
TREE: list[list[float]] = [[0, 5, -FAR, 0.25, -FAR, FAR], [1, 5, 0.25, FAR, -FAR, 7], [2, 5, 0.25, FAR, 8, FAR]]


def test_a_tree_is_read(bundle: Path, tmp_path: Path) -> None:
    c = Copy(bundle, tmp_path)
    add_tree(c, TREE)
    assert accepted(c.seal())


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(0, 0, 3), (0, 0, -1), (0, 0, 0.5), (1, 1, 1e6), (1, 1, -1), (2, 4, 7.5), (0, 2, 0.5), (2, 5, 3), (1, 2, np.nan)],
)
def test_broken_trees(bundle: Path, tmp_path: Path, row: int, column: int, value: float) -> None:
    c = Copy(bundle, tmp_path)
    add_tree(c, TREE)
    (name,) = (k for k in c.arrays if ".splits." in k)
    c.arrays[name][row, column] = value
    assert c.seal() == "QEB481"


def test_an_incomplete_tree_proves_nothing(bundle: Path, tmp_path: Path) -> None:
    """A leaf that leaves nothing over is not one that covers everything: the claim cannot shrink to it."""
    c = Copy(bundle, tmp_path)
    impossible: list[list[float]] = [[0, 5, 1e9, FAR, -FAR, FAR]]
    add_tree(c, impossible)
    assert accepted(c.seal())  # ignored, the old claim still follows
    c.claim["upper"][1] = c.claim["lower"][1] / 2
    _figure(c)
    found = c.seal()
    assert isinstance(found, Answer)
    assert not found.yes


def test_a_split_region(bundle: Path, tmp_path: Path) -> None:
    """Two leaves that cover the region, each with the same hints: the claim is the hull's."""
    c = Copy(bundle, tmp_path)
    r = c.question["region"]
    i = next(k for k in range(64) if r["lower"][k] + 1 < r["upper"][k])
    part = c.fields["leaves"][0]
    at = r["lower"][i]
    c.fields["leaves"] = [
        part | {"restrictions": [{"kind": "input", "input": i, "at_most": at}]},
        part | {"restrictions": [{"kind": "input", "input": i, "at_least": at + 1}]},
    ]
    c.arrays |= {k.replace("leaf0", "leaf1"): v for k, v in c.arrays.items()}
    found = c.seal()
    assert isinstance(found, Answer)
    assert found.yes or "wider" in found.why  # smaller parts may have a better bound than claimed
    c.fields["leaves"][1]["restrictions"][0]["at_least"] = at + 2
    dropped = c.seal()
    assert isinstance(dropped, Answer)
    assert "cover" in dropped.why
