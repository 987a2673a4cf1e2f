"""Make the tiny network and the rows of this folder: python tests/fixed_point/make.py"""

import itertools
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


def main() -> None:
    rng = np.random.default_rng(5)
    sizes = (2, 4, 2)
    arrays = {}
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w{k}"] = rng.uniform(-1.2, 1.2, (n, m)).astype(np.float32)  # a few saturate
        arrays[f"b{k}"] = rng.uniform(-0.5, 0.5, m).astype(np.float32)
    np.savez(HERE / "net.npz", **arrays)
    np.savez(HERE / "rows.npz", x=np.array([[100, 30], [0, 255], [255, 255]], np.uint8))


if __name__ == "__main__":
    main()
