"""Settings of a policy's models as the types that they stand for."""

from __future__ import annotations

from fractions import Fraction

from qebgate.adapters.fixed_point import FixedPoint
from qebgate.policy.model import FixedPointSpec, ModelSpec
from qebgate.regions import Preprocess


def numbers(value: float | list[float]) -> tuple[float, ...]:
    """One number or several, as several."""
    return tuple(float(v) for v in value) if isinstance(value, list) else (float(value),)


def fixed_point_of(s: FixedPointSpec) -> FixedPoint:
    """The scheme of a model that is quantized on the fly."""
    i = s.input
    return FixedPoint(
        s.bits, s.weight_int_bits, s.bias_int_bits, s.activation_int_bits, i.bits, i.signed, i.int_bits
    )  # fmt: skip


def input_scale_of(model: ModelSpec) -> Fraction | None:
    """What the float model multiplies its integer inputs by; None where the policy does not say."""
    return None if isinstance(model.float_, str) else model.float_.scale


def preprocess_of(model: ModelSpec) -> Preprocess:
    """How raw units become the models' inputs."""
    p = model.preprocess
    return Preprocess() if p is None else Preprocess(numbers(p.scale), numbers(p.mean), numbers(p.std))
