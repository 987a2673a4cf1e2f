"""Waivers: another limit for one check of one model, for a while, with somebody who answers for it.

A waiver counts only where it changes something: a task that holds within the check's own limit is not waived.  It
belongs to one quantized model, by hash, so that a new model is a new question.  From the day after its last one it
makes the check fail instead: with a reason of its own, so that it is seen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

from qebgate.policy.demands import WaiverSpec
from qebgate.result import CheckResult, WaiverResult


def waiver_of(waivers: Sequence[WaiverSpec], check: str, sha256: str) -> WaiverSpec | None:
    """The waiver of a check for the quantized model of a hash."""
    return next((w for w in waivers if w.check == check and w.model_sha256 == sha256), None)


def expired(waiver: WaiverSpec, today: dt.date) -> bool:
    """The last day still counts."""
    return today > waiver.last_day


def with_waivers(result: CheckResult, waivers: Sequence[WaiverSpec], today: dt.date) -> CheckResult:
    """The result with what its waiver did; an expired one that would be needed fails the check."""
    own = [w for w in waivers if w.check == result.id]
    if not own:
        return result
    w = waiver_of(own, result.id, result.quantized_sha256)
    if w is None:
        return replace(result, waiver=_result(own[0], "other_model"))
    if not expired(w, today):
        used = any(t.waived for t in result.tasks)
        return replace(result, waiver=_result(w, "used" if used else "unused"))
    if result.verdict == "pass" or result.reason == "out_of_range":
        return replace(result, waiver=_result(w, "unused"))
    failed = replace(result, waiver=_result(w, "expired"), verdict="fail")
    return failed if result.reason == "refuted" and not _covers(w, result) else replace(failed, reason="waiver_expired")


def _covers(w: WaiverSpec, result: CheckResult) -> bool:
    """Whether nothing that was seen is beyond the waiver's limit either."""
    return result.witnessed is None or result.witnessed <= w.limit


def _result(w: WaiverSpec, state: str) -> WaiverResult:
    return WaiverResult(w.limit, w.owner, w.reason, w.expires, state)  # type: ignore[arg-type]


__all__ = ["expired", "waiver_of", "with_waivers"]
