"""Reading well-formed and nearly well-formed models."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from qebgate.adapters import load_model
from qebgate.adapters.tflite import opcodes, read_tflite
from qebgate.adapters.tflite.flatbuffer import FlatBuffer
from qebgate.adapters.tflite.tensors import Buffers, read_tensor
from qebgate.errors import ModelError, UnsupportedError
from qebgate.ir.graph import Scheme
from qebgate.ir.tensor import DType
from qebgate.semantics.base import Activation
from qebgate.semantics.registry import SEMANTICS
from tests.support.tflite_builder import Builder
from tests.support.tiny import dense_float, dense_int8


@pytest.fixture
def read(tmp_path):
    def read(data: bytes):
        path = tmp_path / "model.tflite"
        path.write_bytes(data)
        return load_model(path)

    return read


def fails(read, data: bytes, code: str, kind: type[ModelError] = ModelError) -> ModelError:
    with pytest.raises(kind) as caught:
        read(data)
    assert caught.value.code == code, caught.value
    assert "model.tflite" in (caught.value.where or ""), caught.value
    return caught.value


def messages(error: ModelError) -> str:
    return "\n".join([error.message, *(f"{r.message} @ {r.where}" for r in error.related)])


def test_reads_every_field(read):
    b, x, y = dense_int8()
    data = b.build(x, y)
    g = read(data)
    assert g.source.sha256 == hashlib.sha256(data).hexdigest()
    assert g.source.format == "tflite"
    assert [t.name for t in g.tensors] == ["x", "w", "b", "y"]
    assert [t.shape for t in g.tensors] == [(1, 4), (3, 4), (3,), (1, 3)]
    assert [t.dtype for t in g.tensors] == [DType.INT8, DType.INT8, DType.INT32, DType.INT8]
    assert [t.is_const for t in g.tensors] == [False, True, True, False]
    assert g.input.q.axis is None
    assert (g.input.q.s, g.input.q.z) == (float(np.float32(0.05)), -3)
    w = g.tensors[1]
    assert w.q.axis == 0
    assert np.array_equal(w.q.scale, b.graph.tensors[1].quantization.scale.astype(np.float64))
    assert w.const is not None
    assert w.const.tobytes() == b.model.buffers[1].data.tobytes()
    assert not w.const.flags.writeable
    (node,) = g.nodes
    assert (node.op, node.inputs, node.outputs, node.version) == ("FULLY_CONNECTED", (0, 1, 2), (3,), 4)
    assert node.attrs.activation is Activation.RELU
    assert not node.attrs.keep_dims


def test_a_bias_left_out_and_default_options(read):
    b = Builder()
    x, w, y = b.tensor((1, 2)), b.tensor((3, 2), data=np.ones((3, 2))), b.tensor((1, 3))
    b.op("FULLY_CONNECTED", [x, w, -1], [y])
    b.graph.operators[0].builtinOptions = None
    b.graph.operators[0].builtinOptionsType = 0
    g = read(b.build([x], [y]))
    assert g.nodes[0].inputs == (0, 1, -1)
    assert g.nodes[0].attrs.activation is Activation.NONE


def test_old_files_have_the_deprecated_operator_code_only(read):
    b, x, y = dense_float()
    b.model.operatorCodes[0].builtinCode = 0
    assert read(b.build(x, y)).nodes[0].op == "FULLY_CONNECTED"


def test_new_files_may_have_the_new_operator_code_only(read):
    b, x, y = dense_float()
    b.model.operatorCodes[0].deprecatedBuiltinCode = 0
    assert read(b.build(x, y)).nodes[0].op == "FULLY_CONNECTED"


def test_one_zero_point_serves_all_channels(read):
    b, x, y = dense_int8()
    b.graph.tensors[1].quantization.zeroPoint = np.zeros(1, np.int64)
    assert read(b.build(x, y)).tensors[1].q.zero_point.shape == (3,)


def test_a_dynamic_batch_is_one(read):
    b, x, y = dense_float()
    b.graph.tensors[0].shapeSignature = np.array([-1, 4], np.int32)
    assert read(b.build(x, y)).input.shape == (1, 4)


def test_the_names_of_operators_and_types_are_the_schemas():
    named = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    assert dict(enumerate(opcodes.BUILTIN_OPERATORS)) == {
        k: v for k, v in named.items() if k < len(opcodes.BUILTIN_OPERATORS)
    }
    assert len(opcodes.BUILTIN_OPERATORS) >= 209
    types = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    assert dict(enumerate(opcodes.TENSOR_TYPES)) == {k: v for k, v in types.items() if k < len(opcodes.TENSOR_TYPES)}


def test_the_options_tables_are_the_schemas():
    from tests.support.tflite_builder import OPTIONS

    for op, kind in OPTIONS.items():
        if op in opcodes.OPTIONS_TYPE:
            assert opcodes.OPTIONS_TYPE[op] == getattr(schema.BuiltinOptions, kind), op


# --- what is refused -------------------------------------------------------------------------------------------


def test_all_unsupported_operators_are_reported_at_once(read):
    b = Builder()
    t = [b.tensor((1, 3)) for _ in range(6)]
    b.op("LSH_PROJECTION", [t[0]], [t[1]])
    b.op("CUSTOM", [t[1]], [t[2]], custom="Flex\nErf")
    b.raw_op(7777, [t[2]], [t[3]])
    b.op("LSH_PROJECTION", [t[3]], [t[4]])
    w = b.tensor((3, 3), data=np.eye(3))
    b.op("FULLY_CONNECTED", [t[4], w, -1], [t[5]], version=99)
    e = fails(read, b.build([t[0]], [t[5]]), "QEB430", UnsupportedError)
    text = messages(e)
    assert "LSH_PROJECTION is not supported @ operators #0, #3" in text
    assert "CUSTOM 'Flex\\\\nErf' is not supported @ operator #1" in text
    assert "UNKNOWN_7777 is not supported @ operator #2" in text
    assert "FULLY_CONNECTED of version 99" in text
    assert len(e.related) == 4


def test_operators_that_fail_their_checks_are_reported_together(read):
    b = Builder()
    x, y, z, v = (b.tensor((1, 3)) for _ in range(4))
    b.op("FULLY_CONNECTED", [x, b.tensor((3, 2), data=np.ones((3, 2))), -1], [y])
    b.op("FULLY_CONNECTED", [y, b.tensor((3, 3), data=np.ones((3, 3))), -1], [z], weights_format=1)
    b.op("FULLY_CONNECTED", [z, b.tensor((4, 3), data=np.ones((4, 3))), -1], [v])
    e = fails(read, b.build([x], [v]), "QEB433", UnsupportedError)
    assert len(e.related) == 3
    assert all(f"#{k}" in messages(e) for k in range(3))


@pytest.mark.parametrize(
    "name", sorted({"ADD", "RELU", "LOGISTIC", "SOFTMAX", "RESHAPE", "CONV_2D"} - set(SEMANTICS)) or ["WHERE"]
)
def test_an_operator_that_is_not_registered_is_refused(read, name):
    b = Builder()
    x, y = b.tensor((1, 3)), b.tensor((1, 3))
    b.op(name, [x], [y])
    assert name in fails(read, b.build([x], [y]), "QEB430", UnsupportedError).message


def test_dynamic_range_of_other_operators_is_named(read):
    b = Builder()
    x, y = b.tensor((1, 2)), b.tensor((1, 2))
    w = b.tensor((1, 2), "int8", data=np.ones((1, 2)), scale=[0.1])
    b.op("ADD", [x, w], [y])
    e = fails(read, b.build([x], [y]), "QEB435", UnsupportedError)
    assert "dynamic-range quantization of ADD" in e.message
    assert "representative" in (e.fix or "")


@pytest.mark.parametrize(
    "dtype, scheme", [("float16", Scheme.FLOAT16), ("int8", Scheme.WEIGHT_ONLY), (None, Scheme.DYNAMIC_RANGE)]
)
def test_schemes_of_constants(read, dtype, scheme):
    b = Builder()
    x, y, w = b.tensor((1, 2)), b.tensor((1, 3)), b.tensor((3, 2))
    c = b.tensor((3, 2), dtype or "int8", data=np.ones((3, 2)), scale=None if dtype == "float16" else 0.1)
    if dtype is not None:
        b.op("DEQUANTIZE", [c], [w], version=2)
    b.op("FULLY_CONNECTED", [x, c if dtype is None else w, -1], [y])
    graph = read(b.build([x], [y]))
    assert graph.scheme is scheme
    assert [n.op for n in graph.nodes] == ["FULLY_CONNECTED"]


@pytest.mark.parametrize("name", ["INT2", "FLOAT64", "STRING", "BFLOAT16", "COMPLEX64", "RESOURCE"])
def test_other_types_are_named(read, name):
    b, x, y = dense_float()
    b.graph.tensors[1].type = getattr(schema.TensorType, name)
    assert name in fails(read, b.build(x, y), "QEB414", UnsupportedError).message


def test_unknown_type(read):
    b, x, y = dense_float()
    b.graph.tensors[1].type = 99
    assert "UNKNOWN_99" in fails(read, b.build(x, y), "QEB414").message


@pytest.mark.parametrize(
    "value, code", [(np.nan, "QEB417"), (np.inf, "QEB417"), (-np.inf, "QEB417"), (1e-40, "QEB418"), (-1e-45, "QEB418")]
)
def test_constants_that_are_not_normal_numbers(read, value, code):
    b = Builder()
    w = np.ones((3, 2), np.float32)
    w[2, 1] = value
    x, y = b.tensor((1, 2)), b.tensor((1, 3))
    b.op("FULLY_CONNECTED", [x, b.tensor((3, 2), data=w, name="weights"), -1], [y])
    e = fails(read, b.build([x], [y]), code)
    assert "weights" in str(e)
    assert "element 5" in str(e)


def test_zero_and_the_smallest_normal_number_are_constants(read):
    b = Builder()
    x, y = b.tensor((1, 2)), b.tensor((1, 2))
    w = np.array([[0.0, -0.0], [2.0**-126, -(2.0**-126)]])
    b.op("FULLY_CONNECTED", [x, b.tensor((2, 2), data=w), -1], [y])
    assert np.array_equal(read(b.build([x], [y])).tensors[2].const, w.astype(np.float32))


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf, 1e-40])
@pytest.mark.parametrize("tensor", [0, 1, 3])
def test_scales_that_are_not_positive_normal_numbers(read, value, tensor):
    b, x, y = dense_int8()
    b.graph.tensors[tensor].quantization.scale[-1] = value
    assert f"tensor #{tensor}" in str(fails(read, b.build(x, y), "QEB422"))


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_as_a_scale(read):
    b, x, y = dense_int8()
    b.graph.tensors[0].quantization.scale = np.array([0x7F800001], np.uint32).view(np.float32)
    fails(read, b.build(x, y), "QEB422")


def test_zero_points(read):
    b, x, y = dense_int8()
    b.graph.tensors[0].quantization.zeroPoint = np.array([128], np.int64)
    fails(read, b.build(x, y), "QEB423")
    b.graph.tensors[0].quantization.zeroPoint = np.array([1, 2], np.int64)
    fails(read, b.build(x, y), "QEB421")
    b.graph.tensors[0].quantization.zeroPoint = None
    fails(read, b.build(x, y), "QEB421")


@pytest.mark.parametrize("axis", [1, 2, -1, 2**31 - 1])
def test_scales_along_an_axis_that_they_do_not_fit(read, axis):
    b, x, y = dense_int8()
    b.graph.tensors[1].quantization.quantizedDimension = axis
    fails(read, b.build(x, y), "QEB424")


@pytest.mark.parametrize("tensor", [0, 3])
def test_an_activation_names_no_axis(read, tensor):
    """XNNPACK does not take such an activation, and the kernel that does rounds differently."""
    b, x, y = dense_int8()
    b.graph.tensors[tensor].quantization.quantizedDimension = 1
    fails(read, b.build(x, y), "QEB424")
    q = b.graph.tensors[tensor].quantization
    n = int(b.graph.tensors[tensor].shape[1])
    q.scale, q.zeroPoint = np.full(n, 0.1, np.float32), np.zeros(n, np.int64)
    fails(read, b.build(x, y), "QEB424")


def test_one_channel_on_the_last_axis(read):
    b, x, y = dense_int8(inputs=1)
    q = b.graph.tensors[1].quantization
    q.scale, q.zeroPoint, q.quantizedDimension = q.scale[:1], q.zeroPoint[:1], 1
    bias = b.graph.tensors[2].quantization
    bias.scale, bias.zeroPoint = bias.scale[:1], bias.zeroPoint[:1]
    assert read(b.build(x, y)).tensors[1].q.axis is None


def test_an_operator_on_constants(read):
    b = Builder()
    x, c, y, z = b.tensor((1, 2)), b.tensor((1, 2), data=np.ones((1, 2))), b.tensor((1, 2)), b.tensor((1, 2))
    w = b.tensor((2, 2), data=np.eye(2))
    b.op("FULLY_CONNECTED", [c, w, -1], [y])
    b.op("FULLY_CONNECTED", [x, w, -1], [z])
    fails(read, b.build([x], [y]), "QEB434", UnsupportedError)


def test_a_code_without_a_scale(read):
    b, x, y = dense_int8()
    b.graph.tensors[0].quantization = None
    fails(read, b.build(x, y), "QEB425")


@pytest.mark.parametrize(
    "shape", [(3, 5), (2, 4), (3,), (), (12, 2), (0, 4), (-1, 4), (2**31 - 1,) * 2, (2**31 - 1,) * 8, (1,) * 9]
)
def test_shapes_that_the_data_does_not_fit(read, shape):
    b, x, y = dense_float()
    b.graph.tensors[1].shape = np.array(shape, np.int32)
    with pytest.raises(ModelError) as caught:
        read(b.build(x, y))
    assert caught.value.code in ("QEB409", "QEB416")


@pytest.mark.parametrize("size", [1, 44, 47, 49, 96])
def test_buffers_of_another_length(read, size):
    b, x, y = dense_float()
    b.model.buffers[1].data = np.zeros(size, np.uint8)
    fails(read, b.build(x, y), "QEB409")


@pytest.mark.parametrize("signature", [(1, -1), (-1, -1), (1, 5), (1,), (-2, 4), (1, 4, 1)])
def test_shape_signatures_that_are_not_a_dynamic_batch(read, signature):
    b, x, y = dense_float()
    b.graph.tensors[0].shapeSignature = np.array(signature, np.int32)
    fails(read, b.build(x, y), "QEB416")


def test_a_batch_other_than_one(read):
    b = Builder()
    x, y = b.tensor((2, 4)), b.tensor((2, 3))
    b.op("FULLY_CONNECTED", [x, b.tensor((3, 4), data=np.ones((3, 4))), -1], [y])
    assert "(2, 4)" in str(fails(read, b.build([x], [y]), "QEB419", UnsupportedError))


def test_variable_sparse_and_external_tensors(read):
    for change in (
        lambda t: setattr(t, "isVariable", True),
        lambda t: setattr(t, "sparsity", schema.SparsityParametersT()),
        lambda t: setattr(t, "externalBuffer", 3),
        lambda t: setattr(t, "variantTensors", [schema.VariantSubTypeT()]),
    ):
        b, x, y = dense_float()
        change(b.graph.tensors[1])
        fails(read, b.build(x, y), "QEB415", UnsupportedError)


def test_data_outside_of_the_tables(read):
    b, x, y = dense_float()
    b.model.buffers[1].data = None
    b.model.buffers[1].offset, b.model.buffers[1].size = 64, 48
    fails(read, b.build(x, y), "QEB415", UnsupportedError)


def test_several_subgraphs_are_named(read):
    b, x, y = dense_float()
    other = schema.SubGraphT()
    other.name = "while_body"
    b.model.subgraphs.append(other)
    assert "while_body" in str(fails(read, b.build(x, y), "QEB408", UnsupportedError))
    b.model.subgraphs = []
    fails(read, b.build(x, y), "QEB408")


def test_other_versions_of_the_format(read):
    b, x, y = dense_float()
    b.model.version = 4
    fails(read, b.build(x, y), "QEB407", UnsupportedError)


@pytest.mark.parametrize(
    "inputs, outputs, ends",
    [
        ([0, 1, 9], [3], ([0], [3])),
        ([0, 1, -2], [3], ([0], [3])),
        ([-1, 1, 2], [3], ([0], [3])),
        ([0, -1, 2], [3], ([0], [3])),
        ([], [3], ([0], [3])),
        ([0, 1, 2], [-1], ([0], [3])),
        ([0, 1, 2], [4], ([0], [3])),
        ([0, 1, 2], [], ([0], [3])),
        ([0, 1, 2], [3, 3], ([0], [3])),
        ([0, 1, 2], [3], ([], [3])),
        ([0, 1, 2], [3], ([0], [])),
        ([0, 1, 2], [3], ([0], [-1])),
        ([0, 1, 2], [3], ([0, 0], [3])),
        ([0, 1, 2], [3], ([4], [3])),
        ([0, 1, 2], [3], ([1], [3])),
        ([0, 1, 2], [3], ([0], [0])),
        ([0, 1, 2], [3], ([0], [1])),
    ],
)
def test_indices_of_tensors_that_do_not_exist(read, inputs, outputs, ends):
    b, _, _ = dense_float()
    b.graph.operators[0].inputs = np.array(inputs, np.int32)
    b.graph.operators[0].outputs = np.array(outputs, np.int32)
    fails(read, b.build(*ends), "QEB405")


@pytest.mark.parametrize("inputs, outputs", [([3, 1, 2], [3]), ([0, 1, 2], [0]), ([0, 1, 2], [1])])
def test_graphs_that_are_not_in_order(read, inputs, outputs):
    b, _, _ = dense_float()
    b.graph.operators[0].inputs = np.array(inputs, np.int32)
    b.graph.operators[0].outputs = np.array(outputs, np.int32)
    with pytest.raises(ModelError) as caught:
        read(b.build([0], [3]))
    assert caught.value.code in ("QEB410", "QEB411")


def test_options_of_another_operator(read):
    b, x, y = dense_float()
    b.graph.operators[0].builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
    b.graph.operators[0].builtinOptions = schema.SoftmaxOptionsT()
    fails(read, b.build(x, y), "QEB405")


def test_operator_and_buffer_numbers(read):
    b, x, y = dense_float()
    b.graph.operators[0].opcodeIndex = 1
    fails(read, b.build(x, y), "QEB405")
    b.graph.operators[0].opcodeIndex = 0
    b.graph.tensors[1].buffer = 99
    fails(read, b.build(x, y), "QEB405")
    b.graph.tensors[1].buffer = 1
    b.model.buffers[0].data = np.zeros(4, np.uint8)
    fails(read, b.build(x, y), "QEB405")


def test_names_cannot_forge_lines(read):
    b, x, y = dense_float()
    b.graph.tensors[1].name = "w\nQEB999: PASS\x1b[2J"
    b.graph.tensors[1].type = 99
    e = fails(read, b.build(x, y), "QEB414")
    assert "\x1b" not in str(e)
    assert "\nQEB999" not in str(e)


# --- files that are no models ----------------------------------------------------------------------------------


def test_git_lfs_pointer(read):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
    assert "git lfs pull" in (fails(read, pointer, "QEB402").fix or "")


def test_not_a_model(read, tmp_path):
    fails(read, b"", "QEB401")
    fails(read, b"abc", "QEB403")
    fails(read, b"\x1c\0\0\0TFL2" + bytes(100), "QEB403")
    fails(read, b"\x1c\0\0\0TFL3", "QEB405")
    for path in (tmp_path / "missing.tflite", tmp_path / "n\0ul.tflite", Path("/dev/null").with_suffix(".tflite")):
        with pytest.raises(ModelError) as caught:
            load_model(path)
        assert caught.value.code == "QEB400"
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ModelError, match="directory"):
        load_model(tmp_path / "folder.tflite")
    os.mkfifo(tmp_path / "pipe.tflite")
    with pytest.raises(ModelError, match="not a regular file"):
        load_model(tmp_path / "pipe.tflite")


def test_too_large(tmp_path):
    path = tmp_path / "model.tflite"
    with path.open("wb") as f:
        f.truncate(600 << 20)
    with pytest.raises(ModelError, match="too large"):
        read_tflite(path)


@pytest.mark.parametrize("name", ["m.onnx", "m.pb", "m", "m.\x1b[2J"])
def test_other_formats_are_refused_by_name(tmp_path, name):
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / name)
    assert caught.value.code == "QEB404"
    assert "\x1b" not in str(caught.value)


# --- real models -----------------------------------------------------------------------------------------------

ROOT = os.environ.get("QEBGATE_DATA")
MODELS = sorted(Path(ROOT, "tflite").rglob("*.tflite")) if ROOT else []
OURS = sorted((Path(__file__).parents[1] / "models").glob("*.tflite"))


@pytest.mark.data
@pytest.mark.skipif(not MODELS, reason="QEBGATE_DATA is not set")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.name)
def test_tensors_equal_what_the_schema_says(path):
    data = path.read_bytes()
    theirs = schema.Model.GetRootAs(data)
    graph = theirs.Subgraphs(0)
    fb = FlatBuffer(data, path.name)
    model = fb.root()
    buffers = Buffers(fb, model)
    ours = next(model.tables(2))
    assert ours.count(0) == graph.TensorsLength()
    assert ours.integers(1) == tuple(graph.InputsAsNumpy())
    assert ours.integers(2) == tuple(graph.OutputsAsNumpy())
    compared = 0
    for k, table in enumerate(ours.tables(0)):
        t, u = graph.Tensors(k), read_tensor(table, k, buffers)
        if isinstance(u, UnsupportedError):
            assert t.IsVariable() or 0 in t.ShapeAsNumpy() or t.ShapeIsNone(), u
            continue
        compared += 1
        assert u.name == t.Name().decode()
        assert u.shape == (() if t.ShapeIsNone() else tuple(t.ShapeAsNumpy()))
        assert u.dtype.name == opcodes.TENSOR_TYPES[t.Type()]
        raw = theirs.Buffers(t.Buffer())
        assert (u.const is None) == (raw.DataLength() == 0)
        if u.const is not None:
            assert u.const.tobytes() == raw.DataAsNumpy().tobytes()
        q = t.Quantization()
        if u.quant is not None:
            assert np.array_equal(u.quant.scale, q.ScaleAsNumpy())
            assert np.array_equal(u.quant.zero_point, q.ZeroPointAsNumpy())
            assert u.quant.axis == (None if q.ScaleLength() == 1 else q.QuantizedDimension())
        else:
            assert u.dtype is DType.FLOAT32 or q is None or q.ScaleLength() == 0
    assert compared > 5


@pytest.mark.parametrize("path", MODELS + OURS, ids=lambda p: p.name)
def test_real_models_are_read_or_refused_with_a_reason(path):
    theirs = schema.Model.GetRootAs(path.read_bytes())
    graph = theirs.Subgraphs(0)
    codes = [theirs.OperatorCodes(graph.Operators(k).OpcodeIndex()) for k in range(graph.OperatorsLength())]
    names = [opcodes.BUILTIN_OPERATORS[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes]
    g, refused = None, ""
    try:
        g = load_model(path)
    except UnsupportedError as e:
        refused = messages(e)
    if g is None:
        missing = set(names) - set(SEMANTICS)
        assert missing or "quantization" in refused, refused
        assert all(f"{name} is not supported" in refused for name in missing), refused
    else:
        assert [n.op for n in g.nodes] == names
        assert [n.inputs for n in g.nodes] == [tuple(graph.Operators(k).InputsAsNumpy()) for k in range(len(names))]
        assert [n.outputs for n in g.nodes] == [tuple(graph.Operators(k).OutputsAsNumpy()) for k in range(len(names))]
