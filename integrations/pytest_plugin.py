"""A pytest plugin: assertions about quantized networks, and tests made of a policy's checks.

::

    def test_int8_is_close(qebgate):
        qebgate.assert_within("float.tflite", "int8.tflite", max_abs=0.25, region=ball(x, 2, unit="lsb"))


    @pytest.mark.qebgate("qebgate.yaml")
    def test_gate(qebgate_check):  # one test for each check of the policy
        qebgate_check.assert_passes()

The regions ``ball``, ``points``, ``box`` and ``segment`` are functions of ``qebgate``.
Loaded by pytest through an entry point, so nothing heavy is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qebgate.api import Answer, Model


class Asserter:
    """What the fixture ``qebgate`` offers."""

    def assert_within(self, float_model: Model, quantized: Model, **question: Any) -> Answer:
        """Fail the test, with an explanation, unless the gap is within the limit on the whole region.

        The arguments are those of :func:`qebgate.compare`.  Raises QebgateError where the models cannot be compared.
        """
        from qebgate.api import compare

        return _judged(compare(float_model, quantized, **question))

    def assert_policy(self, policy: str | Path, check: str | None = None) -> Answer:
        """Fail the test unless a policy passes, or one check of it."""
        return _policy(policy, () if check is None else (check,))


@dataclass(frozen=True)
class PolicyCheck:
    """One check of a policy, as the fixture ``qebgate_check`` gives it."""

    policy: Path
    id: str

    def assert_passes(self) -> Answer:
        """Fail the test, with an explanation, unless the check passes."""
        return _policy(self.policy, (self.id,))


def _policy(policy: str | Path, only: Sequence[str]) -> Answer:
    from qebgate.api import check

    return _judged(check(policy, only=only))


@pytest.fixture
def qebgate() -> Asserter:
    """Assertions about quantized networks."""
    return Asserter()


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


def _judged(answer: Answer) -> Answer:
    __tracebackhide__ = True
    for e in answer.report.errors:
        raise e.error
    if not answer.passed:
        pytest.fail(answer.explanation(), pytrace=False)
    return answer
