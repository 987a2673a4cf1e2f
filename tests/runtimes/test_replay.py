"""The installed interpreter in a child process: results, limits, crashes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qebgate.errors import DataError, ExitCode, ModelError, ReplayError
from qebgate.runtimes import replay
from qebgate.runtimes.patch import redirect_output
from qebgate.runtimes.profiles import DEPLOYED, Runtime
from qebgate.runtimes.replay import Limits, Replayer, cpu_features, runtime_version
from tests.support.tflite_builder import Builder

RELUS = 3


def float_net() -> bytes:
    """x -> RELU -> FULLY_CONNECTED -> SOFTMAX; tensors 0, 1, 3 (logits), 4."""
    b = Builder()
    x, h = b.tensor((1, 4)), b.tensor((1, 4))
    w = b.tensor((3, 4), data=np.arange(12) / 10)
    z, y = b.tensor((1, 3)), b.tensor((1, 3))
    b.op("RELU", [x], [h])
    b.op("FULLY_CONNECTED", [h, w, -1], [z])
    b.op("SOFTMAX", [z], [y], beta=1.0)
    return b.build([x], [y])


def int8_net() -> bytes:
    """FULLY_CONNECTED -> SOFTMAX on int8; the delegate takes only the first."""
    b = Builder()
    x = b.tensor((1, 4), "int8", scale=0.1, zero_point=1)
    w = b.tensor((3, 4), "int8", data=np.arange(12), scale=0.1)
    z, y = b.tensor((1, 3), "int8", scale=0.5, zero_point=0), b.tensor((1, 3), "int8", scale=1 / 256, zero_point=-128)
    b.op("FULLY_CONNECTED", [x, w, -1], [z], version=4)
    b.op("SOFTMAX", [z], [y], version=2, beta=1.0)
    return b.build([x], [y])


X = np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float32)
W = (np.arange(12, dtype=np.float32) / 10).reshape(3, 4)


@pytest.mark.parametrize("runtime", DEPLOYED)
def test_float_model_and_its_logits(runtime: Runtime) -> None:
    logits = np.maximum(X, 0) @ W.T
    with Replayer(float_net(), runtime, output=3) as r:
        assert r.output_shape == (1, 3)
        np.testing.assert_allclose(r.run(X), logits, rtol=1e-5, atol=1e-6)
    with Replayer(float_net(), runtime) as r:
        first, second = r.run(X), r.run(X[:7])  # the child stays alive
        np.testing.assert_array_equal(first[:7], second)
        np.testing.assert_allclose(first.sum(-1), 1.0, rtol=1e-5)
        assert r.run(X[:0]).shape == (0, 1, 3)
        assert r.version == runtime_version()


def test_a_path_works_as_well_as_bytes(tmp_path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(int8_net())
    codes = np.random.default_rng(0).integers(-128, 128, (5, 1, 4))
    with Replayer(path, Runtime.REFERENCE) as a, Replayer(int8_net(), Runtime.REFERENCE) as b:
        np.testing.assert_array_equal(a.run(codes), b.run(codes.astype(np.int8)))


def test_delegation_is_reported_per_operator() -> None:
    with Replayer(int8_net(), Runtime.XNNPACK) as r:
        assert [(o.op, o.delegated) for o in r.operators] == [("FULLY_CONNECTED", True), ("SOFTMAX", False)]
    with Replayer(float_net(), Runtime.XNNPACK) as r:
        assert all(o.delegated for o in r.operators)
        assert len(r.operators) == RELUS
    for runtime in (Runtime.REFERENCE, Runtime.BUILTIN):
        with Replayer(float_net(), runtime) as r:
            assert not any(o.delegated for o in r.operators)


def test_large_batches_are_sent_in_chunks() -> None:
    x = np.tile(X, (60, 1, 1))
    with Replayer(float_net(), Runtime.BUILTIN) as r:
        y = r.run(x)
    assert y.shape == (3000, 1, 3)
    np.testing.assert_array_equal(y[:50], y[-50:])


def test_wrong_shape_and_codes_out_of_range() -> None:
    with Replayer(int8_net(), Runtime.BUILTIN) as r:
        with pytest.raises(DataError, match="input shape"):
            r.run(np.zeros((2, 4), np.int8))
        with pytest.raises(DataError, match="int8"):
            r.run(np.full((2, 1, 4), 200))


def aborting() -> bytes:
    """The int8 reference SOFTMAX aborts the process on 512 equal logits."""
    b = Builder()
    x = b.tensor((1, 600), "int8", scale=0.1, zero_point=0)
    y = b.tensor((1, 600), "int8", scale=1 / 256, zero_point=-128)
    b.op("SOFTMAX", [x], [y], version=2, beta=1.0)
    return b.build([x], [y])


def crashing() -> bytes:
    """A depthwise convolution without a bias: builtin reads through a null pointer."""
    b = Builder()
    q = {"scale": 0.5, "zero_point": 0}
    x, y = b.tensor((1, 4, 4, 8), "int8", **q), b.tensor((1, 4, 4, 8), "int8", **q)
    w = b.tensor((1, 1, 3, 8), "int8", data=np.ones((1, 1, 3, 8)), axis=3, **q)
    b.op("DEPTHWISE_CONV_2D", [x, w], [y], padding=0, stride_h=1, stride_w=1, depth_multiplier=1)
    return b.build([x], [y])


@pytest.mark.parametrize(("model", "runtime"), [(aborting(), Runtime.REFERENCE), (crashing(), Runtime.BUILTIN)])
def test_a_crash_becomes_a_coded_error(model: bytes, runtime: Runtime) -> None:
    with Replayer(model, runtime) as r:
        with pytest.raises(ReplayError) as caught:
            r.run(np.zeros((1, *r.input_shape), np.int8))
        assert caught.value.code == "QEB703"
        assert caught.value.exit_code is ExitCode.BUG
        assert runtime.value in str(caught.value)
        with pytest.raises(ReplayError, match="not running"):
            r.run(np.zeros((1, *r.input_shape), np.int8))


@pytest.mark.parametrize("model", [b"", b"nonsense", float_net()[:200]])
def test_a_broken_model_is_refused(model: bytes) -> None:
    with pytest.raises(ReplayError), Replayer(model, Runtime.XNNPACK):
        pass


def _wide(n: int, invocations: int) -> tuple[bytes, np.ndarray]:
    b = Builder()
    x, w, y = b.tensor((1, n)), b.tensor((n, n), data=np.zeros((n, n))), b.tensor((1, n))
    b.op("FULLY_CONNECTED", [x, w, -1], [y])
    return b.build([x], [y]), np.zeros((invocations, 1, n), np.float32)


def test_time_limit() -> None:
    model, x = _wide(2500, 1000)
    with pytest.raises(ReplayError) as caught, Replayer(model, Runtime.REFERENCE, limits=Limits(seconds=1.5)) as r:
        r.run(x)
    assert caught.value.code == "QEB702"
    assert "1.5 seconds" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_memory_limit() -> None:
    """A model of 1 kB that needs 1.6 GB."""
    b = Builder()
    x, y = b.tensor((1, 4)), b.tensor((1, 400_000_004))
    p = b.tensor((2, 2), "int32", data=[(0, 0), (0, 400_000_000)])
    b.op("PAD", [x, p], [y])
    limits = Limits(memory=1 << 30)
    with pytest.raises(ReplayError), Replayer(b.build([x], [y]), Runtime.REFERENCE, limits=limits) as r:
        r.run(X[:1])


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PACKAGE", "ai-edge-litert-that-is-not-there")
    with pytest.raises(ReplayError) as caught:
        Replayer(float_net(), Runtime.BUILTIN)
    assert caught.value.code == "QEB701"
    assert caught.value.fix == "pip install ai-edge-litert-that-is-not-there"


def test_the_child_imports_nothing_heavy() -> None:
    code = (
        "import sys, qebgate.runtimes._child, qebgate.runtimes.replay\n"
        "bad = {'tensorflow', 'ortools', 'scipy', 'ai_edge_litert'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_and_features() -> None:
    assert runtime_version() is not None
    assert len(cpu_features()) >= 1


# -- redirecting the output ---------------------------------------------------------------------------


def test_redirection_changes_four_bytes_at_most() -> None:
    model = float_net()
    patched = redirect_output(model, 3)
    assert len(patched) == len(model)
    assert 1 <= sum(a != b for a, b in zip(model, patched, strict=True)) <= 4
    assert redirect_output(patched, 4) == model


@pytest.mark.parametrize("tensor", [-1, 5, 1 << 40])
def test_a_tensor_that_does_not_exist(tensor: int) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        redirect_output(float_net(), tensor)


def test_one_of_several_outputs() -> None:
    b = Builder()
    x, y, z = b.tensor((1, 4)), b.tensor((1, 4)), b.tensor((1, 4))
    b.op("RELU", [x], [y])
    b.op("RELU6", [x], [z])
    model = b.build([x], [y, z])
    data = np.array([[[-1.0, 2.0, 7.0, 0.5]]], np.float32)
    for tensor, expected in ((y, [0, 2, 7, 0.5]), (z, [0, 2, 6, 0.5])):
        with Replayer(model, Runtime.BUILTIN, tensor) as r:
            np.testing.assert_array_equal(r.run(data)[0, 0], expected)
    assert redirect_output(model, y) == model


def test_hostile_bytes_never_escape() -> None:
    """Truncations and damaged bytes: a coded error or a model of the same length."""
    model = float_net()
    rng = np.random.default_rng(0)
    damaged = [model[:n] for n in range(0, len(model), 7)]
    for _ in range(3000):
        raw = bytearray(model)
        for at in rng.integers(0, len(raw), 2):
            raw[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        damaged.append(bytes(raw))
    refused = 0
    for raw in damaged:
        try:
            assert len(redirect_output(raw, 3)) == len(raw)
        except ModelError:
            refused += 1
    assert refused > len(model) // 14
