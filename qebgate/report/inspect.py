"""What a model is made of, and how two of them agree."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qebgate.errors import printable
from qebgate.ir.graph import INPUT_PART, Graph, Node
from qebgate.ir.pair import Pair
from qebgate.ir.tensor import Tensor

WEIGHTED = (
    *("BATCH_MATMUL", "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
)


COLUMNS = ("#", "operator", "input", "output", "type", "scale", "zero point", "weights")


def render_graph(graph: Graph, console: Console) -> None:
    """Print a model's operators, shapes and scales.  A graph that loads is covered: others are refused."""
    console.print()
    kind = f"quantized ({graph.scheme.value})" if graph.is_quantized else "float"
    console.print(Text(f"{graph.source.label}: {kind}, {graph.source.format}", style="bold"), soft_wrap=True)
    console.print(f"  sha256 {graph.source.sha256}", soft_wrap=True)
    for what, indices in (("input", graph.inputs), ("output", graph.outputs)):
        names = graph.input_names if what == "input" and len(indices) > 1 else ("",) * len(indices)
        for i, name in zip(indices, names, strict=True):
            named = f"{printable(name, 60)}: " if name else ""
            console.print(f"  {what} {named}{_tensor(graph.tensors[i])}", soft_wrap=True)
    for note in graph.notes:
        console.print(f"  note: {note}", soft_wrap=True)
    named = graph.source.format != "tflite"  # converters' names of tensors are long and say little
    table = _table((*COLUMNS, "layer") if named else COLUMNS)
    for n in graph.nodes:
        cells = _node(graph, n)
        table.add_row(*(Text(cell) for cell in ((*cells, _layer(graph, n)) if named else cells)))
    console.print(table)
    console.print(f"  {parameters(graph):,} weights and biases")
    ops = Counter(n.op for n in graph.nodes)
    console.print(
        f"  {len(graph.nodes)} operators, all supported: {', '.join(f'{k} x{v}' for k, v in ops.most_common())}"
    )


def parameters(graph: Graph) -> int:
    """Number of weights and biases, shared ones once."""
    given = {i for n in graph.nodes if n.op in WEIGHTED for i in n.inputs[1:] if i >= 0}
    return sum(t.size for t in (graph.tensors[i] for i in given) if t.is_const and not t.variable)


def render_pair(pair: Pair, console: Console) -> None:
    """Print how two models align: matched operators and each layer's weight agreement."""
    console.print()
    steps = [s for s in pair.steps if s.op != INPUT_PART]
    both = sum(s.float_node is not None and s.quantized_node is not None for s in steps)
    console.print(Text("alignment: the two models are the same network", style="bold green"))
    console.print(f"  {both} operators matched, {len(steps) - both} in only one of the models")
    for f, q in zip(pair.float.parts, pair.quantized.parts, strict=True):
        console.print(f"  input {f.label} is {q.label}, {list(q.shape)}", soft_wrap=True)
    table = _table(("layer", "weights: worst difference (quanta)", "bias (accumulator quanta)"))
    for a in pair.agreements:
        bias = "-" if a.bias is None else f"{a.bias:.3f}"
        table.add_row(Text(printable(a.layer, 80)), Text(f"{a.worst:.3f}"), Text(bias))
    console.print(table)
    console.print("  0.5 is rounding to nearest")


def _table(names: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 2))
    for n in names:
        table.add_column(n, overflow="fold")
    return table


def _shape(t: Tensor) -> str:
    return "x".join(str(d) for d in t.shape) or "scalar"


def _tensor(t: Tensor) -> str:
    quant = "" if t.quant is None else f", scale {t.quant.s!r}, zero point {t.quant.z}"
    return f"{t.label}: {_shape(t)} {t.dtype.value}{quant}"


def _layer(graph: Graph, n: Node) -> str:
    folded = " (batch normalization folded)" if n.folded is not None else ""
    return graph.tensors[n.outputs[0]].label + folded


def _node(graph: Graph, n: Node) -> tuple[str, ...]:
    live = [graph.tensors[i] for i in n.inputs if i >= 0 and not graph.tensors[i].is_const]
    weights = [graph.tensors[i] for i in n.inputs if i >= 0 and graph.tensors[i].is_const]
    out = graph.tensors[n.outputs[0]]
    q = out.quant
    shown = ""
    if weights:
        w = weights[0]
        per = "" if w.quant is None else f", {w.quant.scale.size} scales" if w.quant.per_channel else ", 1 scale"
        shown = f"{_shape(w)} {w.dtype.value}{per}"
    return (
        str(n.index),
        printable(n.op, 40),
        ", ".join(_shape(t) for t in live),
        _shape(out),
        out.dtype.value,
        "" if q is None else f"{q.s:.6g}",
        "" if q is None else str(q.z),
        shown,
    )
