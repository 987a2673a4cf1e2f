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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from qebgate.errors import PolicyError, printable
from qebgate.integrations.question import Asked, Model, Region, as_file, ask, ask_policy, working_folder
from qebgate.policy import load_policy

P = ParamSpec("P")


class NotWithinError(RuntimeError):
    """The converted model did not pass; ``asked`` holds the report, ``content`` the model."""

    def __init__(self, asked: Asked, content: bytes) -> None:
        """The message is the explanation."""
        super().__init__(asked.explanation())
        self.asked = asked
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

    Either ``policy``, whose ``model`` (its only one by default) is replaced by the result, or the arguments of
    :func:`check_bytes`.
    """
    if float_model is None and policy is None:
        float_model = _reference(converter)
    content: bytes = converter.convert()
    if policy is not None:
        asked = _check_policy(content, policy, model)
    else:
        assert float_model is not None
        asked = check_bytes(float_model, content, **question)
    if not asked.passed:
        raise NotWithinError(asked, content)
    return content


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
            content = make(*args, **kwargs)
            if policy is not None:
                asked = _check_policy(content, policy, model)
            else:
                assert float_model is not None
                asked = check_bytes(float_model, content, **question)
            if not asked.passed:
                raise NotWithinError(asked, content)
            return content

        return run

    return decorate


def check_bytes(
    float_model: Model,
    content: bytes,
    *,
    region: Region,
    max_abs: float | None = None,
    property: Mapping[str, Any] | None = None,  # noqa: A002 - the policy's word
    tensor: str = "output",
    runtime: str | Sequence[str] = "litert-xnnpack",
    input_quantization: str | None = None,
    require: Any = "proof",
    effort: str = "standard",
) -> Asked:
    """Ask about a converted model: ``max_abs``, or any ``property`` of a policy."""
    if (max_abs is None) == (property is None):
        msg = "give max_abs or property"
        raise TypeError(msg)
    prop = property if property is not None else {"kind": "max_abs", "limit": max_abs, "tensor": tensor}
    with working_folder(None) as folder:
        asked = ask(
            float_model, content, region, prop, folder, runtime=runtime, input_quantization=input_quantization,
            require=require, effort=effort,
        )  # fmt: skip
        for e in asked.report.errors:
            raise e.error
        return asked


def _check_policy(content: bytes, policy: str | Path, model: str | None) -> Asked:
    names = list(load_policy(Path(policy)).policy.models)
    name = model if model is not None else names[0] if len(names) == 1 else None
    if name not in names:
        raise PolicyError(
            "QEB238", "which model of the policy is converted?", where=printable(policy),
            found=f"{printable(model)}; models: {', '.join(printable(n) for n in names)}", fix="name it with `model`",
        )  # fmt: skip
    with working_folder(None) as folder:
        asked = ask_policy(policy, models={name: as_file(content, folder / "quantized.tflite")})
        for e in asked.report.errors:
            raise e.error
        return asked


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
