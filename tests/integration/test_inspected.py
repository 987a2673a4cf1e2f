"""The benchmark of real files, on small ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from benchmarks.inspected import measure, table

MODELS = Path(__file__).resolve().parents[1] / "models" / "keras"


def test_it_tells_pairs_from_others(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    roles = [
        ("digits.float.tflite", "float", ""),
        ("digits.keras2.h5", "float_h5", ""),
        ("digits.int8.tflite", "int8", "SAME WEIGHTS"),
        ("digits.keras2.h5", "dynamic_range", "in truth a float model"),
    ]
    known = [{"name": "small", "file": f"small/{f}", "role": r, "notes": n} for f, r, n in roles]
    for f, _, _ in roles:
        shutil.copy(MODELS / f, tmp_path / "small" / f)
    (tmp_path / "manifest.json").write_text(json.dumps(known))
    np.save(tmp_path / "small" / "inputs.npy", np.load(MODELS / "rows.npz")["digits_x"][:2])
    answers = measure(tmp_path, [], 2, points=1)
    wrong = [a for a in answers if not a.right]
    assert any("float32" in a.found and a.said == "dynamic range" for a in wrong)
    right = [a for a in answers if a.right]
    assert sum(a.said == "the same" for a in right) == 2
    executed = [a for a in right if a.said == "exact" and not a.what.startswith("check")]
    checked = [a for a in right if a.what.startswith("check")]
    assert len(executed) == 3
    assert len(checked) == 9 and all(a.said == "exact" and a.found.startswith("executed: gap") for a in checked)
    assert any(a.said == "no float reference" for a in right) and any(a.said == "no quantized model" for a in right)
    assert any("WRONG" in line for line in table(answers, "command"))
