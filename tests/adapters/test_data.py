"""Rows of inputs from .npy and .npz files."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qebgate.adapters.data import fit_rows, load_rows
from qebgate.errors import DataError

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", ">f4", ">i2"]


def fails(path, code, array=None) -> DataError:
    with pytest.raises(DataError) as caught:
        load_rows(path, array)
    assert caught.value.code == code, caught.value
    return caught.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4, 1)])
def test_reads_what_numpy_writes(tmp_path, dtype, order, shape):
    a = np.asarray(np.arange(np.prod(shape)).reshape(shape).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "b.npz", x=a, y=np.zeros(3))
    np.savez_compressed(tmp_path / "c.npz", x=a)
    for rows in (load_rows(tmp_path / "a.npy"), load_rows(tmp_path / "b.npz", "x"), load_rows(tmp_path / "c.npz")):
        assert np.array_equal(rows, a)
        assert rows.dtype == a.dtype.newbyteorder("=")
        assert rows.dtype.isnative
        assert not rows.flags.writeable
        assert rows.flags.c_contiguous


def test_names(tmp_path):
    np.savez(tmp_path / "a.npz", first=np.ones(2), second=np.ones(2))
    assert "first, second" in str(fails(tmp_path / "a.npz", "QEB446"))
    assert "first, second" in str(fails(tmp_path / "a.npz", "QEB446", "third"))
    np.save(tmp_path / "a.npy", np.ones(2))
    fails(tmp_path / "a.npy", "QEB446", "x")
    np.savez(tmp_path / "none.npz")
    assert "none" in str(fails(tmp_path / "none.npz", "QEB446", "x"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    a = np.ones((3000, 2), np.float32)
    a[2047, 1] = value
    np.save(tmp_path / "a.npy", a)
    assert "row 2047" in str(fails(tmp_path / "a.npy", "QEB448"))


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0)])
def test_no_rows(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    fails(tmp_path / "a.npy", "QEB450")


@pytest.mark.parametrize("dtype", ["complex64", "U5", "S5", "bool", "M8[s]", [("a", "f4")]])
def test_other_types(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros(3, dtype))
    fails(tmp_path / "a.npy", "QEB445")


class Canary:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path):
    canary = tmp_path / "canary"
    evil = np.array([Canary(canary)], dtype=object)
    np.save(tmp_path / "a.npy", evil)
    np.savez(tmp_path / "a.npz", x=evil)
    np.savez(tmp_path / "s.npz", x=np.array([(Canary(canary), 1)], dtype=[("a", "O"), ("b", "f4")]))
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Canary(canary)))
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Canary(canary), protocol=0))
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(Canary(canary), protocol=0))
    assert "pickled" in str(fails(tmp_path / "a.npy", "QEB444"))
    fails(tmp_path / "a.npz", "QEB444", "x")
    fails(tmp_path / "s.npz", "QEB445", "x")
    fails(tmp_path / "p.npy", "QEB444")
    fails(tmp_path / "p.npz", "QEB443")
    fails(tmp_path / "p.pkl", "QEB444")
    assert not canary.exists()


def test_not_a_data_file(tmp_path):
    for data, code in (
        (b"", "QEB401"),
        (b"\x93NUM", "QEB443"),
        (b"\x93NUMPY", "QEB449"),
        (b"\x93NUMPY\x01\x00\xff", "QEB449"),
        (b"PK\x03\x04", "QEB449"),
        (b"version https://git-lfs.github.com/spec/v1\n", "QEB402"),
        (b"1,2,3\n", "QEB443"),
    ):
        (tmp_path / "a.npz").write_bytes(data)
        fails(tmp_path / "a.npz", code)
    fails(tmp_path / "missing.npz", "QEB400")
    fails(tmp_path, "QEB400")


def npy(header: str, data: bytes = b"") -> bytes:
    raw = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': [1]}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 1500 + ")" * 1500 + "}",
        "{" * 3000,
        "-" * 4000 + "1",
        "__import__('os').system('true')",
        "\0",
        "{[]: 1}",
        "9" * 4000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 100 + ")}",
        "",
    ],
)
def test_hostile_headers(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(npy(header, bytes(4)))
    fails(tmp_path / "a.npy", "QEB449")


def test_header_that_claims_to_be_long(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{}")
    fails(tmp_path / "a.npy", "QEB449")


def test_zip_bomb(tmp_path):
    shape = (1 << 28,)  # 1 GiB of float32, in about 1 MB
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as z,
        z.open("x.npy", "w", force_zip64=True) as f,
    ):
        f.write(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"))
        for _ in range(64):
            f.write(bytes(1 << 24))
    assert (tmp_path / "a.npz").stat().st_size < 4 << 20
    fails(tmp_path / "a.npz", "QEB447", "x")


def test_size_in_the_directory_is_a_lie(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,)}", bytes(4_000_000)))
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x01\x02") + 24
    for size in (0, 100, 4_000_072, 2**31, 2**32 - 1):
        data[at : at + 4] = size.to_bytes(4, "little")
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(DataError):
            load_rows(tmp_path / "a.npz", "x")


def test_two_arrays_of_one_name(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(4)))
        with pytest.warns(UserWarning, match="Duplicate"):
            z.writestr("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"\0\0\x80?"))
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    fails(tmp_path / "a.npz", "QEB449", "x")


def test_truncated_and_extended_files(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6.0))
    np.save(tmp_path / "a.npy", np.arange(6.0))
    for name in ("a.npz", "a.npy"):
        whole = (tmp_path / name).read_bytes()
        for data in [whole[:k] for k in range(len(whole))] + [whole + b"\0"]:
            (tmp_path / "cut").write_bytes(data)
            with pytest.raises(DataError):
                load_rows(tmp_path / "cut")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    (np.savez_compressed if data.draw(st.booleans()) else np.savez)(folder / "a.npz", x=np.arange(6, dtype=np.float32))
    raw = bytearray((folder / "a.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "b.npz").write_bytes(raw)
    try:
        rows = load_rows(folder / "b.npz")
    except DataError:
        return
    assert np.isfinite(rows).all()
    assert rows.nbytes <= 24


@pytest.mark.parametrize(
    "rows, shape, fitted",
    [
        ((5, 4), (1, 4), (5, 1, 4)),
        ((5, 1, 4), (1, 4), (5, 1, 4)),
        ((5, 6, 6, 2), (1, 6, 6, 2), (5, 1, 6, 6, 2)),
        ((5, 1, 6, 6, 2), (1, 6, 6, 2), (5, 1, 6, 6, 2)),
        ((1, 4), (1, 4), (1, 1, 4)),
        ((5,), (1,), (5, 1)),
        ((5, 1), (1,), (5, 1)),
    ],
)
def test_the_batch_axis_is_added_where_the_shape_fits(rows, shape, fitted):
    a = np.arange(np.prod(rows)).reshape(rows)
    b = fit_rows(a, shape)
    assert b.shape == fitted
    assert np.array_equal(b.reshape(-1), a.reshape(-1))


@pytest.mark.parametrize(
    "rows, shape",
    [
        ((5, 72), (1, 6, 6, 2)),
        ((5, 6, 6), (1, 6, 6, 1)),
        ((5, 6, 6, 1), (1, 36)),
        ((5, 3), (1, 4)),
        ((4,), (1, 4)),
        ((5, 1, 1, 4), (1, 4)),
        ((5, 2, 6, 6, 2), (1, 6, 6, 2)),
        ((5, 4, 1), (1, 4)),
    ],
)
def test_nothing_else_is_reshaped(rows, shape):
    with pytest.raises(DataError) as caught:
        fit_rows(np.zeros(rows), shape)
    assert caught.value.code == "QEB441"
    assert str(rows) in str(caught.value)
    assert str(shape)[1:-1].removeprefix("1, ") in str(caught.value)
