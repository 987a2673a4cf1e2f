"""A Keras callback that quantizes the trained model and proves how far the result is from it.

Works with tf_keras (Keras 2) and Keras 3 on the TensorFlow backend; needs the ``[tensorflow]`` extra::

    gate = QuantizationGate(x_val[:20], limit=0.5, radius=0.01, representative=x_train[:200])
    model.fit(x_train, y_train, callbacks=[gate])
    gate.result.verdict, gate.result.proven, gate.result.witnessed
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qebgate.gate import check
from qebgate.policy.load import parse_policy
from qebgate.result import Report

if importlib.util.find_spec("tensorflow") is None:
    raise ImportError("qebgate.integrations.keras needs TensorFlow: pip install 'qebgate[tensorflow]'")


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate found: ``proven`` and ``witnessed`` are None where nothing was established."""

    verdict: str
    proven: float | None
    witnessed: float | None
    report: Report


class QuantizationGateError(RuntimeError):
    """The gate did not pass and ``raise_on_fail`` is set."""


class _Hooks:
    """Keras' callback protocol with nothing in it.

    Not a subclass of Keras' own class, of which there are two (tf_keras, Keras 3) that do not accept
    each other; both call callbacks by these names.
    """

    model: Any = None
    params: Any = None

    def set_params(self, params: object) -> None:
        self.params = params

    def set_model(self, model: object) -> None:
        self.model = model

    def _ignore(self, *args: object, **kwargs: object) -> None: ...

    on_epoch_begin = on_epoch_end = on_train_begin = _ignore
    on_test_begin = on_test_end = on_predict_begin = on_predict_end = _ignore
    on_batch_begin = on_train_batch_begin = on_test_batch_begin = on_predict_batch_begin = _ignore
    on_batch_end = on_train_batch_end = on_test_batch_end = on_predict_batch_end = _ignore

    def _false(self) -> bool:
        return False

    _implements_train_batch_hooks = _implements_test_batch_hooks = _implements_predict_batch_hooks = _false


class QuantizationGate(_Hooks):
    """At the end of training: convert a snapshot to float and int8 .tflite and bound the gap between them.

    ``data`` [N, *input shape] are the centres of the checked regions, real inputs of the model;
    ``radius`` is the L-infinity radius around each, in input units, and ``limit`` the largest gap of
    an output that passes.  ``representative`` (default: ``data``) calibrates the int8 conversion.
    ``tensor`` is ``logits`` (before a final softmax or sigmoid) or ``output``; ``domain`` is ``grid``
    (the inputs that the int8 model can represent) or ``real`` (all of them).

    Afterwards ``result`` holds the outcome, and the logs of ``on_train_end`` and the model's history
    hold ``qebgate_gap_proven``, ``qebgate_gap_witnessed`` (NaN: not established) and
    ``qebgate_verdict``.  With ``raise_on_fail`` a verdict other than ``pass`` raises
    QuantizationGateError.  Raises QebgateError where the converted models cannot be analysed, as for
    models that are already wrapped for quantization-aware training.
    """

    def __init__(
        self,
        data: NDArray[Any],
        *,
        limit: float,
        radius: float = 0.0,
        representative: NDArray[Any] | None = None,
        runtime: str | Sequence[str] = "litert-xnnpack",
        tensor: str = "logits",
        domain: str = "grid",
        effort: str = "quick",
        raise_on_fail: bool = False,
        keep: str | Path | None = None,
    ) -> None:
        """``keep`` names a folder for the snapshot, its data and its policy (default: a temporary one)."""
        self.data = np.asarray(data, np.float32)
        self.representative = self.data if representative is None else np.asarray(representative, np.float32)
        self.limit, self.radius = limit, radius
        self.runtime, self.tensor, self.domain, self.effort = runtime, tensor, domain, effort
        self.raise_on_fail = raise_on_fail
        self.keep = None if keep is None else Path(keep)
        self.result: GateResult | None = None

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model as it is now and write the outcome into ``logs`` and the history."""
        result = self.result = self.check(self.model)
        figures = {
            "qebgate_gap_proven": float("nan") if result.proven is None else result.proven,
            "qebgate_gap_witnessed": float("nan") if result.witnessed is None else result.witnessed,
            "qebgate_verdict": result.verdict,
        }
        if logs is not None:
            logs.update(figures)
        history = getattr(getattr(self.model, "history", None), "history", None)
        if isinstance(history, dict):
            for key, value in figures.items():
                history.setdefault(key, []).append(value)  # pyright: ignore[reportUnknownMemberType]
        if self.raise_on_fail and result.verdict != "pass":
            found = f"{result.verdict} (proven {result.proven}, witnessed {result.witnessed})"
            msg = f"the quantized model is not within {self.limit:g} of the float one: {found}"
            raise QuantizationGateError(msg)

    def check(self, model: Any) -> GateResult:
        """Convert a model and check it; also of use without ``fit``."""
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            return self._check(model, self.keep)
        with TemporaryDirectory(prefix="qebgate-") as folder:
            return self._check(model, Path(folder))

    def _check(self, model: Any, folder: Path) -> GateResult:
        np.savez(folder / "data.npz", x=self.data)
        (folder / "float.tflite").write_bytes(self._convert(model, quantize=False))
        (folder / "int8.tflite").write_bytes(self._convert(model, quantize=True))
        runtimes = [self.runtime] if isinstance(self.runtime, str) else list(self.runtime)
        region = {"kind": "ball", "data": "data.npz", "array": "x", "radius": float(self.radius)}
        policy: dict[str, Any] = {
            "version": 1,
            "models": {
                "model": {
                    "float": "float.tflite",
                    "quantized": "int8.tflite",
                    "runtime": runtimes,
                    "input_quantization": "nearest",
                }
            },
            "regions": {"near_data": {**region, "domain": self.domain, "out_of_range": "allow"}},
            "checks": [
                {
                    "id": "quantization",
                    "model": "model",
                    "region": "near_data",
                    "property": {"kind": "max_abs", "limit": float(self.limit), "tensor": self.tensor},
                    "effort": self.effort,
                }
            ],
        }
        report = check(parse_policy(policy, "QuantizationGate", folder))
        if report.errors:
            raise report.errors[0].error
        found = report.checks[0]
        return GateResult(found.verdict, found.proven, found.witnessed, report)

    def _convert(self, model: Any, *, quantize: bool) -> bytes:
        """A .tflite file of the model as it stands, for a batch of one."""
        tf: Any = importlib.import_module("tensorflow")
        spec = tf.TensorSpec((1, *self.data.shape[1:]), tf.float32, name="x")
        call = tf.function(lambda x: model(x, training=False), input_signature=[spec])  # pyright: ignore[reportUnknownLambdaType]
        freeze = importlib.import_module("tensorflow.python.framework.convert_to_constants")
        # frozen first: the converter does not find the variables of Keras 3
        constant = freeze.convert_variables_to_constants_v2(call.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_concrete_functions([constant], model)
        if quantize:
            rows = self.representative
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([row[None]] for row in rows)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        content: bytes = converter.convert()
        return content
