"""A Keras callback that quantizes the model while it trains and proves how far the result is from it.

Works with Keras 3 on the TensorFlow backend, with tf_keras (Keras 2), and with models of quantization-aware training
(TF-MOT); needs the ``[tensorflow]`` extra::

    gate = QuantizationGate(x_val[:20], limit=0.5, radius=0.01, representative=x_train[:200], every=5)
    stop = keras.callbacks.EarlyStopping(monitor="qebgate_gap_proven", mode="min", patience=10, start_from_epoch=4)
    model.fit(x_train, y_train, epochs=50, callbacks=[gate, stop])  # the gate first: others read what it logs
    gate.result.verdict, gate.result.proven, gate.result.witnessed
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qebgate.api import Answer, Effort, Model, ball, compare
from qebgate.result import Report

if importlib.util.find_spec("tensorflow") is None:
    raise ImportError("qebgate.integrations.keras needs TensorFlow: pip install 'qebgate[tensorflow]'")

OnFail = Literal["log", "stop", "raise"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate found: ``proven`` and ``witnessed`` are None where nothing was established."""

    verdict: str
    proven: float | None
    witnessed: float | None
    report: Report


class QuantizationGateError(RuntimeError):
    """The gate did not pass and ``on_fail`` is ``raise``."""


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
    """Convert a snapshot of the model, bound its gap to the float reference, log the figures, and act on the verdict.

    ``data`` [N, *input shape] are the centres of the checked regions, real inputs of the model;
    ``radius`` is the L-infinity radius around each, in input units, and ``limit`` the largest gap of
    an output that passes.  ``representative`` (default: ``data``) calibrates the int8 conversion.
    ``tensor`` is ``logits`` (before a final softmax or sigmoid) or ``output``; ``domain`` is ``grid``
    (the inputs that the int8 model can represent) or ``real`` (all of them).

    The check runs at the end of training and, with ``every=n``, after every n-th epoch; no hook is called for
    batches.  The reference is ``reference`` (a model's file, or the bytes of a .tflite file), or the model itself as
    it is then; of a model of quantization-aware training, the float network of its weights.

    Epoch logs, and so the history and every callback that comes after this one, get ``qebgate_gap_proven``,
    ``qebgate_gap_witnessed`` (infinite: not established; EarlyStopping would take NaN for the best) and
    ``qebgate_passed`` (1 or 0), those of the last check.
    ``on_fail``: ``log`` nothing more than that, ``stop`` the training, or ``raise`` QuantizationGateError with the
    explanation.  Raises QebgateError where the converted models cannot be analysed.
    """

    def __init__(
        self,
        data: NDArray[Any],
        *,
        limit: float,
        radius: float = 0.0,
        representative: NDArray[Any] | None = None,
        reference: Model | None = None,
        every: int | None = None,
        on_fail: OnFail = "log",
        runtime: str | Sequence[str] = "litert-xnnpack",
        tensor: str = "logits",
        domain: str = "grid",
        effort: Effort = "quick",
        keep: str | Path | None = None,
    ) -> None:
        """``keep`` names a folder for the snapshot and its data (default: a temporary one)."""
        if every is not None and every < 1:
            msg = "every must be at least 1 epoch"
            raise ValueError(msg)
        self.data = np.asarray(data, np.float32)
        self.representative = self.data if representative is None else np.asarray(representative, np.float32)
        self.limit, self.radius, self.reference = limit, radius, reference
        self.every, self.on_fail = every, on_fail
        self.runtime, self.tensor, self.domain = runtime, tensor, domain
        self.effort: Effort = effort
        self.keep = keep
        self.result: GateResult | None = None
        self._checked = False  # whether the model as it is now is the one of `result`

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier training."""
        del logs
        self.result, self._checked = None, False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The model changes from here on."""
        del epoch, logs
        self._checked = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check where this epoch is one to check, and log the figures of the last check."""
        if self.every is None:
            return
        if (epoch + 1) % self.every == 0:
            self._run()
        if logs is not None:
            logs.update(self._figures())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model as it is now, unless the last epoch did, and write the outcome into logs and history."""
        if not self._checked:
            self._run()
            history = getattr(getattr(self.model, "history", None), "history", None)
            if isinstance(history, dict) and self.every is None:
                for key, value in self._figures().items():
                    history.setdefault(key, []).append(value)  # pyright: ignore[reportUnknownMemberType]
        if logs is not None:
            logs.update(self._figures())

    def check(self, model: Any) -> GateResult:
        """Convert a model and check it; also of use without ``fit``."""
        return self._ask(model)[0]

    def _run(self) -> None:
        result, explanation = self._ask(self.model)
        self.result, self._checked = result, True
        if result.verdict == "pass" or self.on_fail == "log":
            return
        if self.on_fail == "stop":
            self.model.stop_training = True
            return
        raise QuantizationGateError(f"the quantized model is not within {self.limit:g} of the float one\n{explanation}")

    def _figures(self) -> dict[str, float]:
        r = self.result
        unknown = float("inf")
        return {
            "qebgate_gap_proven": unknown if r is None or r.proven is None else r.proven,
            "qebgate_gap_witnessed": unknown if r is None or r.witnessed is None else r.witnessed,
            "qebgate_passed": float(r is not None and r.verdict == "pass"),
        }

    def _ask(self, model: Any) -> tuple[GateResult, str]:
        answer = self._asked(model)
        (found,) = answer.checks
        wanted = found.verdict != "pass" and self.on_fail == "raise"
        explanation = answer.explanation() if wanted else ""
        return GateResult(found.verdict, found.proven, found.witnessed, answer.report), explanation

    def _asked(self, model: Any) -> Answer:
        aware = is_quantization_aware(model)
        reference: Model
        if self.reference is not None:
            reference = self.reference
        else:
            reference = model if aware else self._convert(model, quantize=False, aware=False)
        return compare(
            reference,
            self._convert(model, quantize=True, aware=aware),
            region=ball(self.data, self.radius, domain=self.domain, out_of_range="allow"),
            max_abs=float(self.limit),
            tensor=self.tensor,
            runtime=self.runtime,
            input_quantization="nearest",
            effort=self.effort,
            folder=self.keep,
        )

    def _convert(self, model: Any, *, quantize: bool, aware: bool) -> bytes:
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
            if not aware:  # else the ranges are in the model
                converter.representative_dataset = lambda: ([row[None]] for row in rows)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        content: bytes = converter.convert()
        return content


def is_quantization_aware(model: Any) -> bool:
    """Whether TF-MOT wrapped a model's layers for quantization-aware training."""
    layers: Sequence[object] = getattr(model, "layers", ())
    return any(type(layer).__name__ in ("QuantizeLayer", "QuantizeWrapper", "QuantizeWrapperV2") for layer in layers)
