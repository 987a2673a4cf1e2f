"""A pytest plugin: assertions about quantized networks, and tests made of a policy's checks.

::

    def test_int8_is_close(qebgate):
        qebgate.assert_within("float.tflite", "int8.tflite", max_abs=0.25, region=ball(x, 2, unit="lsb"))


    @pytest.mark.qebgate("qebgate.yaml")
    def test_gate(qebgate_check):  # one test for each check of the policy
        qebgate_check.assert_passes()

The regions :func:`ball`, :func:`points`, :func:`box` and :func:`segment` are in ``qebgate.integrations.question``.
Loaded by pytest through an entry point, so nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qebgate.integrations.question import Asked, Model, Region


class Asserter:
    """What the fixture ``qebgate`` offers."""

    def __init__(self, folder: Path) -> None:
        """``folder`` gets models and data that are no files yet."""
        self.folder = folder
        self.asked = 0

    def assert_within(
        self,
        float_model: Model,
        quantized: Model,
        *,
        region: Region,
        max_abs: float | None = None,
        max_lsb: float | None = None,
        property: dict[str, Any] | None = None,  # noqa: A002 - the policy's word
        tensor: str = "output",
        runtime: str | Sequence[str] = "litert-xnnpack",
        input_quantization: str | None = None,
        require: Any = "proof",
        effort: str = "standard",
    ) -> Asked:
        """Fail the test, with an explanation, unless the gap is within the limit on the whole region.

        One of ``max_abs`` (real units), ``max_lsb`` (quanta of the output) and ``property`` (as in a policy).
        Models are files or the bytes of .tflite files.  Raises QebgateError where they cannot be compared.
        """
        from qebgate.integrations.question import ask

        given = [{"kind": k, "limit": v, "tensor": tensor} for k, v in _limits(max_abs, max_lsb)]
        given += [property] if property is not None else []
        if len(given) != 1:
            msg = "give one of max_abs, max_lsb and property"
            raise TypeError(msg)
        self.asked += 1
        folder = self.folder / str(self.asked)
        folder.mkdir()
        asked = ask(
            float_model, quantized, region, given[0], folder, runtime=runtime, input_quantization=input_quantization,
            require=require, effort=effort,
        )  # fmt: skip
        _judge(asked)
        return asked

    def assert_policy(self, policy: str | Path, check: str | None = None) -> Asked:
        """Fail the test unless a policy passes, or one check of it."""
        from qebgate.integrations.question import ask_policy

        asked = ask_policy(policy, only=() if check is None else (check,))
        _judge(asked)
        return asked


@dataclass(frozen=True)
class PolicyCheck:
    """One check of a policy, as the fixture ``qebgate_check`` gives it."""

    policy: Path
    id: str

    def assert_passes(self) -> Asked:
        """Fail the test, with an explanation, unless the check passes."""
        from qebgate.integrations.question import ask_policy

        asked = ask_policy(self.policy, only=(self.id,))
        _judge(asked)
        return asked


@pytest.fixture
def qebgate(tmp_path_factory: pytest.TempPathFactory) -> Asserter:
    """Assertions about quantized networks."""
    return Asserter(tmp_path_factory.mktemp("qebgate"))


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "qebgate(policy): run the test for each check of a policy file (qebgate_check)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each check of the marker's policy; the path is relative to the test's file."""
    if "qebgate_check" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("qebgate")
    if marker is None or len(marker.args) != 1:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: @pytest.mark.qebgate needs one policy file")
    from qebgate.errors import QebgateError
    from qebgate.policy import load_policy

    path = metafunc.definition.path.parent / str(marker.args[0])
    try:
        checks = [c.id for c in load_policy(path).policy.checks]
    except QebgateError as e:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {e}") from None
    if not checks:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: the policy has no check")
    metafunc.parametrize("qebgate_check", [PolicyCheck(path, c) for c in checks], ids=checks)


def _limits(max_abs: float | None, max_lsb: float | None) -> list[tuple[str, float]]:
    return [(k, v) for k, v in (("max_abs", max_abs), ("max_lsb", max_lsb)) if v is not None]


def _judge(asked: Asked) -> None:
    __tracebackhide__ = True
    for e in asked.report.errors:
        raise e.error
    if not asked.passed:
        pytest.fail(asked.explanation(), pytrace=False)
