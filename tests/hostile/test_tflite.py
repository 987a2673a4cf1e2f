"""Damaged and hostile models: each is read or refused with a code, soon and with little memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qebgate.adapters import load_model
from qebgate.errors import QebgateError, UnsupportedError
from qebgate.ir.graph import Graph
from tests.semantics.lstm_cases import lstm_parts
from tests.support.tflite_builder import Builder
from tests.support.tiny import dense_float, dense_int8, network_int8

SECONDS = 1.0


@pytest.fixture
def attempt(tmp_path):
    """Read bytes as a model: a Graph, or the code of the error; anything else escapes."""
    path = tmp_path / "model.tflite"

    def attempt(data: bytes) -> Graph | str:
        path.write_bytes(data)
        text = ""
        start = time.process_time()
        try:
            result: Graph | str = load_model(path)
        except QebgateError as e:
            result, text = e.code, str(e)
        assert time.process_time() - start < SECONDS
        assert text.replace("\n", "").isprintable()
        return result

    return attempt


def models() -> dict[str, bytes]:
    b, x, y = dense_int8()
    f, u, v = dense_float()
    lstm = lstm_parts(np.random.default_rng(0), 3, 2, 4).build()
    return {"int8": b.build(x, y), "float": f.build(u, v), "network": network_int8(), "lstm": lstm}


MODELS = models()


def check(graph: Graph) -> None:
    """What every graph that was read satisfies, whatever the file held."""
    n = len(graph.tensors)
    for node in graph.nodes:
        assert all(-1 <= i < n for i in node.inputs)
        assert all(0 <= o < n for o in node.outputs)
    scales = {i for node in graph.nodes for i in node.intermediates}
    for k, t in enumerate(graph.tensors):
        assert all(d > 0 for d in t.shape) or (t.shape == (0,) and k in scales)
        if t.const is not None:
            assert t.const.shape == t.shape
            assert t.dtype.value != "float32" or np.isfinite(t.const).all()


@pytest.mark.parametrize("name", ["int8", "float"])
def test_every_prefix(attempt, name):
    data = MODELS[name]
    codes = Counter(attempt(data[:k]) for k in range(len(data)))
    assert set(codes) <= {"QEB401", "QEB403", "QEB405"}, codes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["bit", "byte", "word"])
def test_random_damage(attempt, name, kind):
    rng = np.random.default_rng(["bit", "byte", "word"].index(kind))
    data = MODELS[name]
    read, tries = 0, 150 if name == "lstm" else 1500
    for _ in range(tries):
        bad = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            if kind == "bit":
                bad[rng.integers(8, len(bad))] ^= 1 << int(rng.integers(8))
            elif kind == "byte":
                bad[rng.integers(8, len(bad))] = int(rng.integers(256))
            else:
                at = int(rng.integers(2, len(bad) // 4)) * 4
                value = int(
                    rng.choice([0, 1, 4, 2**31 - 1, 2**31, 2**32 - 1, len(bad) - at, int(rng.integers(len(bad)))])
                )
                struct.pack_into("<I", bad, at, value)
        result = attempt(bytes(bad))
        if isinstance(result, Graph):
            check(result)
            read += 1
    assert read < tries


@pytest.mark.parametrize("name", ["int8", "float"])
def test_every_word_overwritten(attempt, name):
    data = MODELS[name]
    for at in range(8, len(data) - 3, 2):
        for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(data)):
            bad = bytearray(data)
            struct.pack_into("<I", bad, at, value)
            result = attempt(bytes(bad))
            if isinstance(result, Graph):
                check(result)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_noise_after_the_identifier(attempt, tail):
    assert isinstance(attempt(struct.pack("<I", 8) + b"TFL3" + tail), str)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_splices(attempt, data):
    source, target = (data.draw(st.sampled_from(sorted(MODELS))) for _ in range(2))
    a, b = MODELS[source], bytearray(MODELS[target])
    start, length = data.draw(st.integers(0, len(a) - 1)), data.draw(st.integers(1, 200))
    at = data.draw(st.integers(8, len(b) - 1))
    piece = a[start : start + length][: len(b) - at]
    b[at : at + len(piece)] = piece
    result = attempt(bytes(b))
    if isinstance(result, Graph):
        check(result)


# --- made by hand ----------------------------------------------------------------------------------------------


class Raw:
    """A flatbuffer written byte by byte, back references and all."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0\0\0\0TFL3")

    def table(self, fields: dict[int, bytes | int]) -> int:
        """A table with inline ``bytes`` or, for an int, an offset to be patched by :meth:`link`."""
        slots = max(fields, default=-1) + 1
        body, offsets = b"", [0] * slots
        for slot, value in sorted(fields.items()):
            offsets[slot] = 4 + len(body)
            body += value if isinstance(value, bytes) else b"\0\0\0\0"
        self.data += b"\0" * (-len(self.data) % 4)
        vtable = len(self.data)
        self.data += struct.pack(f"<{2 + slots}H", 4 + 2 * slots, 4 + len(body), *offsets)
        self.data += b"\0" * (-len(self.data) % 4)
        pos = len(self.data)
        self.data += struct.pack("<i", pos - vtable) + body
        return pos

    def at(self, table: int, slot: int) -> int:
        vtable = table - struct.unpack_from("<i", self.data, table)[0]
        return table + struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0]

    def link(self, at: int, target: int) -> None:
        struct.pack_into("<I", self.data, at, target - at)

    def vector(self, raw: bytes, count: int) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        pos = len(self.data)
        self.data += struct.pack("<I", count) + raw
        return pos

    def offsets(self, count: int) -> int:
        return self.vector(bytes(4 * count), count)


def shared(tensors: int, operators: int, name: int, shape: int) -> bytes:
    """A model whose tensors are all one table, whose operators are all one table, with a long name and shape."""
    r = Raw()
    root = r.table({0: struct.pack("<I", 3), 1: 0, 2: 0, 4: 0})
    r.link(0, root)
    codes, graphs, buffers = r.offsets(1), r.offsets(1), r.offsets(1)
    r.link(r.at(root, 1), codes)
    r.link(r.at(root, 2), graphs)
    r.link(r.at(root, 4), buffers)
    r.link(codes + 4, r.table({3: struct.pack("<i", 9)}))
    graph = r.table({0: 0, 1: 0, 2: 0, 3: 0})
    r.link(graphs + 4, graph)
    ts, os, ends = r.offsets(tensors), r.offsets(operators), r.vector(struct.pack("<i", 0), 1)
    r.link(r.at(graph, 0), ts)
    r.link(r.at(graph, 1), ends)
    r.link(r.at(graph, 2), ends)
    r.link(r.at(graph, 3), os)
    operator = r.table({1: 0, 2: 0})
    for k in range(operators):
        r.link(os + 4 + 4 * k, operator)
    tensor = r.table({0: 0, 3: 0, 7: 0})
    big = r.vector(struct.pack("<i", 1) * shape, shape)
    r.link(r.at(operator, 1), big)
    r.link(r.at(operator, 2), big)
    for k in range(tensors):
        r.link(ts + 4 + 4 * k, tensor)
    r.link(r.at(tensor, 0), big)
    r.link(r.at(tensor, 7), big)
    r.link(r.at(tensor, 3), r.vector(b"a" * name, name))
    r.link(buffers + 4, r.table({}))
    return bytes(r.data)


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1), (32_000, 0, 200_000, 4), (10, 16_000, 10, 200_000), (16_000, 16_000, 9, 8), (2**17, 1, 1, 1)],
)
def test_shared_tables_cost_no_more_than_the_file(attempt, sizes):
    assert isinstance(attempt(shared(*sizes)), str)


def test_little_memory(tmp_path):
    """Absurd claims are refused before anything of their size is allocated."""
    path = tmp_path / "model.tflite"
    b, x, y = dense_float()
    b.graph.tensors[0].shape = np.array([1, 2**31 - 1], np.int32)
    wide = Builder()
    u, v = wide.tensor((1, 2**20)), wide.tensor((1, 2**27))
    wide.op("FULLY_CONNECTED", [u, wide.tensor((2**27, 2**20)), -1], [v])
    for data in (b.build(x, y), wide.build([u], [v]), shared(16_000, 16_000, 99, 8)):
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(QebgateError):
                load_model(path)
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 2**30, 10_000])
def test_lists_that_claim_to_be_long(attempt, count):
    r = Raw()
    root = r.table({0: struct.pack("<I", 3), 2: 0})
    r.link(0, root)
    r.link(r.at(root, 2), r.vector(b"", count))
    assert attempt(bytes(r.data)) == "QEB405"


def test_a_table_that_contains_itself_is_no_cycle(attempt):
    """Offsets lead forwards: one that leads back wraps around to far behind the end."""
    r = Raw()
    root = r.table({0: struct.pack("<I", 3), 2: 0})
    r.link(0, root)
    graphs = r.offsets(1)
    r.link(r.at(root, 2), graphs)
    struct.pack_into("<I", r.data, graphs + 4, (root - graphs - 4) % 2**32)
    assert attempt(bytes(r.data)) == "QEB405"


@pytest.mark.parametrize("offset", [0, 4, 7, 100, 2**31, 2**32 - 1])
def test_root_offsets(attempt, offset):
    assert isinstance(attempt(struct.pack("<I", offset) + b"TFL3" + bytes(64)), str)


@pytest.mark.parametrize(
    "vtable", [b"\0\0\0\0", b"\x03\0\x04\0", b"\xff\xff\x04\0", b"\x04\0\xff\xff", b"\x04\0\0\0", b"\x05\0\x04\0"]
)
def test_layouts_of_tables(attempt, vtable):
    data = struct.pack("<I", 12) + b"TFL3" + vtable + struct.pack("<i", 4) + bytes(16)
    assert attempt(data) == "QEB405"
    for soffset in (-(2**31), 2**31 - 1, -5, 12, 13):
        assert isinstance(
            attempt(struct.pack("<I", 12) + b"TFL3" + vtable + struct.pack("<i", soffset) + bytes(16)), str
        )


def test_many_problems_are_cut(tmp_path):
    b = Builder()
    t = [b.tensor((1, 3)) for _ in range(201)]
    for k in range(200):
        b.op("CUSTOM", [t[k]], [t[k + 1]], custom=f"op{k}")
    path = tmp_path / "model.tflite"
    path.write_bytes(b.build([t[0]], [t[-1]]))
    with pytest.raises(UnsupportedError) as caught:
        load_model(path)
    assert len(caught.value.related) == 50
    assert "200" in str(caught.value)


def test_a_file_that_is_no_model_at_all(attempt):
    assert attempt(Path(__file__).read_bytes()) == "QEB403"
