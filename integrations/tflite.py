"""Conversions that are checked before their result leaves the building.

::

    content = convert_checked(converter, region=ball(x_val, 2, unit="lsb"), max_abs=0.25)

    @checked(float_model="float.tflite", region=ball(x_val, 0.01), max_abs=0.25)
    def make_int8() -> bytes: ...

TensorFlow is not imported here: the converter brings it.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from qebgate.api import Answer, Model, check, compare
from qebgate.errors import PolicyError, printable
from qebgate.policy import load_policy

P = ParamSpec("P")


class NotWithinError(RuntimeError):
    """The converted model did not pass; ``answer`` holds the report, ``content`` the model."""

    def __init__(self, answer: Answer, content: bytes) -> None:
        """The message is the explanation."""
        super().__init__(answer.explanation())
        self.answer = answer
        self.content = content


def convert_checked(
    converter: Any,
    *,
    float_model: Model | None = None,
    policy: str | Path | None = None,
    model: str | None = None,
    **question: Any,
) -> bytes:
    """Convert, check, and return the quantized model; raises NotWithinError where the gate is not open.

    ``converter`` is a ``tf.lite.TFLiteConverter``, ready to quantize; it is not changed.  The reference is
    ``float_model``, or what the same converter makes without optimizations (not for models of quantization-aware
    training, whose float conversion keeps the fake quantization: name their reference).

    Either ``policy``, whose ``model`` (its only one by default) is replaced by the result, or the ``region``, the
    limit and the other arguments of :func:`qebgate.compare`.
    """
    if float_model is None and policy is None:
        float_model = _reference(converter)
    content: bytes = converter.convert()
    return _admitted(content, float_model, policy, model, question)


def checked(
    *, float_model: Model | None = None, policy: str | Path | None = None, model: str | None = None, **question: Any
) -> Callable[[Callable[P, bytes]], Callable[P, bytes]]:
    """Check what a function returns, the bytes of a quantized .tflite file, as :func:`convert_checked` does."""
    if (float_model is None) == (policy is None):
        msg = "give float_model or policy"
        raise TypeError(msg)

    def decorate(make: Callable[P, bytes]) -> Callable[P, bytes]:
        @functools.wraps(make)
        def run(*args: P.args, **kwargs: P.kwargs) -> bytes:
            return _admitted(make(*args, **kwargs), float_model, policy, model, question)

        return run

    return decorate


def _admitted(
    content: bytes,
    float_model: Model | None,
    policy: str | Path | None,
    model: str | None,
    question: Mapping[str, Any],
) -> bytes:
    """A converted model that passes; raises NotWithinError."""
    if policy is not None:
        answer = check(policy, overrides={f"models.{_name(policy, model)}.quantized": content})
        for e in answer.report.errors:
            raise e.error
    else:
        assert float_model is not None
        answer = compare(float_model, content, **question)
    if not answer.passed:
        raise NotWithinError(answer, content)
    return content


def _name(policy: str | Path, model: str | None) -> str:
    """Which model of a policy is meant: its only one, unless one is named."""
    names = list(load_policy(Path(policy)).policy.models)
    name = model if model is not None else names[0] if len(names) == 1 else None
    if name not in names:
        raise PolicyError(
            "QEB238", "which model of the policy is converted?", where=printable(policy),
            found=f"{printable(model)}; models: {', '.join(printable(n) for n in names)}", fix="name it with `model`",
        )  # fmt: skip
    return name


def _reference(converter: Any) -> bytes:
    """The same model without quantization, from a copy of the converter that shares nothing a conversion changes."""
    float32: Any = importlib.import_module("tensorflow").float32
    plain = copy.copy(converter)
    for name in ("_metadata", "_collected_converter_params"):
        if name in vars(converter):
            setattr(plain, name, copy.deepcopy(vars(converter)[name]))
    plain.optimizations = []
    plain.representative_dataset = None
    plain.target_spec = type(converter.target_spec)()
    plain.inference_input_type = plain.inference_output_type = float32
    content: bytes = plain.convert()
    return content
