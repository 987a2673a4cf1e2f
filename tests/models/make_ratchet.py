"""Make the models of the ratchet's tests: one float network, quantized as usual, better and worse.

    python tests/models/make_ratchet.py          # needs the [tensorflow] extra

``usual`` has one scale per tensor, ``better`` one per channel, and ``worse`` was calibrated on a fifth of the range.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from make import Net, convert, dense, make

HERE = Path(__file__).resolve().parent / "ratchet"
NET = Net("ratchet", (4,), dense(10, 10, 3))
VARIANTS = {"usual": ("per_tensor", 1.0), "better": ("int8", 1.0), "worse": ("per_tensor", 0.2)}


def main() -> None:
    model = make(NET, 5)
    (HERE / "float.tflite").write_bytes(convert(model, NET, "float", 0))
    for name, (variant, calibration) in VARIANTS.items():
        content = convert(model, replace(NET, calibration=calibration), variant, 0)
        (HERE / f"{name}.tflite").write_bytes(content)


if __name__ == "__main__":
    main()
