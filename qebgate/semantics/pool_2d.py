"""What AVERAGE_POOL_2D and MAX_POOL_2D share: options, geometry, preconditions."""

from __future__ import annotations

from dataclasses import dataclass

from qebgate.ir.graph import Graph, Node
from qebgate.ir.tensor import DType
from qebgate.semantics.base import INT8, Activation, Options, Semantics, check_limits, require
from qebgate.semantics.windows import Stride, Window, image


@dataclass(frozen=True, slots=True)
class Pool2DAttrs:
    """Kernel (K, L), geometry and fused activation."""

    kernel: tuple[int, int]
    how: Stride
    activation: Activation


class Pool2D(Semantics):
    """Base of the two pools."""

    max_version = 3

    def parse(self, options: Options) -> Pool2DAttrs:
        how = Stride.parse(options.int8(0), (options.int32(2), options.int32(1)))
        return Pool2DAttrs((options.int32(4), options.int32(3)), how, Activation.parse(options.int8(5)))

    def window(self, node: Node, graph: Graph) -> Window:
        """Geometry of a node."""
        attrs, x = node.attrs, graph.tensors[node.inputs[0]]
        assert isinstance(attrs, Pool2DAttrs)
        return Window.of(x.shape[1:3], attrs.kernel, attrs.how)  # type: ignore[arg-type]

    def check(self, node: Node, graph: Graph) -> None:
        attrs = node.attrs
        assert isinstance(attrs, Pool2DAttrs)
        x, y = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        n, _, _, c = image(node, graph, x)
        require(min(attrs.kernel) >= 1, "the pool's window is empty", node, graph, attrs.kernel)
        window = self.window(node, graph)
        window.check(node, graph, y, n, c)
        require(int(window.counts().min()) > 0, "a pool's window lies in the padding", node, graph, attrs.kernel)
        require(x.dtype is y.dtype, "input and output have different types", node, graph, y.dtype.value)
        if x.dtype.is_code:
            check_limits(attrs.activation, node, graph)
            known = x.dtype in (INT8, DType.INT16)
            require(known, f"{node.op} runs on int8 or int16 only", node, graph, x.dtype.value)
            require(
                (x.q.s, x.q.z) == (y.q.s, y.q.z),
                "input and output have different scales",
                node,
                graph,
                f"{x.q.s}, {y.q.s}",
            )
            require(window.taps < 1 << 23, "the pool's sum may overflow 32 bits", node, graph, attrs.kernel)
