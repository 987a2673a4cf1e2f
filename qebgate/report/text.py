"""Words and numbers that all reports share."""

from __future__ import annotations

import re
import shlex
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np

from qebgate.errors import printable
from qebgate.result import CheckResult, Report, TaskResult

MARK = {"pass": "PASS", "fail": "FAIL", "unknown": "UNKNOWN", None: "ERROR"}
REASON = {
    "refuted": "a replayed input is beyond the limit",
    "regressed": "the proven bound is within the limit, but rose above the baseline's",
    "waiver_expired": "only a waiver that has expired would let it pass",
    "out_of_range": "the region leaves the range of the quantized input",
    "guard_time": "stopped by the time guard",
    "guard_memory": "stopped by the memory guard",
    "effort": "neither proved nor refuted within the effort",
    None: "",
}


def _figure(value: float, limit: float | None, rounding: str) -> str:
    if not np.isfinite(value):
        return "infinite"
    short = format(Context(prec=6, rounding=rounding).create_decimal(Decimal(value)).normalize(), "g")
    # never show a figure as the limit itself when it is not
    return repr(value) if limit is not None and float(short) == limit != value else short


UNIT = {"max_lsb": " lsb", "max_rel": " relative", "same_top1": " margin", "max_l2": " (l2)"}


def limit_words(c: CheckResult) -> str:
    """A check's limit, with what it counts where that is not the gap in real units."""
    return number(c.limit) + UNIT.get(c.property, "")


def proven(value: float | None, limit: float | None = None) -> str:
    """An upper bound in six digits, rounded up."""
    return "-" if value is None else _figure(value, limit, ROUND_CEILING)


def witnessed(value: float | None, limit: float | None = None) -> str:
    """A figure that was seen, in six digits, rounded down."""
    return "-" if value is None else _figure(value, limit, ROUND_FLOOR)


def number(value: float) -> str:
    """A number of the policy, exactly."""
    return repr(value).removesuffix(".0")


def runtimes(report: Report) -> str:
    """The runtimes that the report covers."""
    names = dict.fromkeys(str(t.runtime) for c in report.checks for t in c.tasks)
    return ", ".join(printable(n) for n in names) or "no runtime"


def counts(check: CheckResult) -> str:
    """How many tasks passed, failed, stayed open; and how many of them an earlier run had answered."""
    words = [(v, sum(t.verdict == v for t in check.tasks)) for v in ("pass", "fail", "unknown")]
    cached = sum(t.from_cache for t in check.tasks)
    return ", ".join(f"{n} {v}" for v, n in words if n) + (f" ({cached} from cache)" if cached else "")


def worst(check: CheckResult, n: int) -> list[TaskResult]:
    """The tasks that matter most: failures, then open ones, then passes; the largest figures first."""
    order = {"fail": 0, "unknown": 1, "pass": 2}

    def key(t: TaskResult) -> tuple[int, float, float, int]:
        p = float("inf") if t.proven is None else t.proven
        return order[t.verdict], -(t.witnessed or 0.0), -p, t.index

    return sorted(check.tasks, key=key)[:n]


def gap_words(task: TaskResult) -> str:
    """Where a witness's gap is largest: ``output 3: quantized - float = -0.4``."""
    w = task.witness
    if w is None or w.gap.size == 0:
        return ""
    k = int(np.argmax(np.abs(w.gap)))
    return f"output {task.outputs[k]}: quantized - float = {float(w.gap[k])!r}"


def beside(c: CheckResult) -> list[str]:
    """What else is known of a check: its data, statistics, baseline and waiver, a line each."""
    words = [data_words(c), *dict.fromkeys(map(sample_words, c.tasks)), ratchet_words(c), waiver_words(c)]
    return [w for w in words if w]


def data_words(c: CheckResult) -> str:
    """Agreement and accuracy on the data: ``on 50 data rows the models agree on 49 (98.0 %)``."""
    d = c.data
    if d is None:
        return ""

    def share(n: int) -> str:
        return f"{n} ({100 * n / d.rows:.1f} %)"

    words = f"on {d.rows} data rows the models choose the same class on {share(d.agree)}"
    if d.float_right is None or d.quantized_right is None:
        return words
    return f"{words}; right are: float {share(d.float_right)}, quantized {share(d.quantized_right)}"


def sample_words(t: TaskResult) -> str:
    """What a sample says, and what it does not."""
    s = t.statistics
    if s is None:
        return ""
    how = "drawn uniformly from the region" if s.distribution == "uniform" else "of the data, taken as a sample"
    seed = f" (seed {s.seed})" if s.distribution == "uniform" else ""
    known = (
        f"{s.failures} of {s.n} inputs {how}{seed} were beyond the limit: with confidence {s.confidence:g}, at most "
        f"{proven(s.upper)} of all such inputs are ({s.max_failure_rate:g} is allowed)"
    )
    return f"{known}. This is no proof: nothing is known of the worst input, nor of inputs that come about otherwise"


def ratchet_words(c: CheckResult) -> str:
    """How the proven bound compares with the baseline's."""
    b = c.baseline
    if b is None or b.state == "none":
        return ""
    return f"baseline: {printable(b.note, 400)}"


def waiver_words(c: CheckResult) -> str:
    """What a waiver did."""
    w = c.waiver
    if w is None or w.state not in ("used", "expired"):
        return ""
    about = f"by {printable(w.owner, 200)}: {printable(w.reason, 200)}"
    if w.state == "used":
        return f"passes only by a waiver up to {number(w.limit)} until {w.expires}, {about}"
    return f"its waiver expired on {w.expires}, {about}"


def class_words(c: CheckResult, t: TaskResult) -> str:
    """Which classes the models choose at a witness of ``same_top1``; nothing for other properties."""
    w = t.witness
    if c.property != "same_top1" or w is None or w.classes is None:
        return ""
    a, b = (t.outputs[k] for k in w.classes)
    if a == b:
        return f"both models choose output {a}"
    return f"the float model chooses output {a} by {witnessed(w.figure)}, the quantized one output {b}"


def noise_words(task: TaskResult) -> str:
    """What the noise floor says about an open task; nothing where it is no reason."""
    if task.verdict != "unknown" or task.noise_floor is None:
        return ""
    floor, span = task.noise_floor
    if not floor > span:
        return ""
    return (
        f"rounding alone may cost {floor:.3g} (an estimate), more than the outputs' range of {span:.3g}: no bound "
        "over so many inputs can be useful; ask about points, segments or few free inputs"
    )


def reproduce(report: Report, checks: list[str]) -> str:
    """The command that repeats these checks here."""
    words = [*report.command]
    if words[:2] in (["qebgate", "check"], ["qebgate", "falsify"]):
        words += [w for c in checks for w in ("--check", c)]
    return " ".join(printable(shlex.quote(w), 4000) for w in words)


def bad_checks(report: Report) -> list[str]:
    """Checks that did not pass, and those that could not run."""
    return [c.id for c in report.checks if c.verdict != "pass"] + list(dict.fromkeys(e.check for e in report.errors))


def summary(report: Report) -> str:
    """One line: the verdict, how many checks, which runtimes."""
    n = {v: sum(c.verdict == v for c in report.checks) for v in ("pass", "fail", "unknown")}
    words = [f"{n['pass']} passed"]
    words += [f"{n['fail']} failed"] if n["fail"] else []
    words += [f"{n['unknown']} unknown"] if n["unknown"] else []
    words += [f"{len({e.check for e in report.errors})} could not run"] if report.errors else []
    what = "INTERRUPTED" if report.interrupted else MARK[report.verdict]
    covered = f"covers {runtimes(report)} and no other runtime" if report.checks else "nothing was checked"
    return f"{what}: {', '.join(words)}; {covered}; {report.seconds:.1f} s"


def worst_checks(report: Report) -> list[CheckResult]:
    """Checks that did not pass: failures first, then those that block, then warnings; each in the policy's order."""

    def key(c: CheckResult) -> int:
        return 0 if c.verdict == "fail" else 1 if c.on_unknown == "fail" else 2

    return sorted((c for c in report.checks if c.verdict != "pass"), key=key)


def check_words(c: CheckResult) -> str:
    """One sentence about a check: what was found against the limit, and the worst input."""
    unit = " lsb" if c.property == "max_lsb" else ""
    said = f"witnessed {witnessed(c.witnessed, c.limit)}, proven {proven(c.proven, c.limit)}"
    words = f"{MARK[c.verdict]}: {c.property} {said}, limit {number(c.limit)}{unit}; {counts(c)}"
    if c.reason:
        words += f"; {REASON[c.reason]}"
    worst_task = next(iter(worst(c, 1)), None)
    if worst_task is not None and worst_task.verdict != "pass":
        words += f"; worst: row {worst_task.index}, {worst_task.runtime}"
        if gap_words(worst_task):
            words += f", {gap_words(worst_task)}"
    return words


def place(report: Report, check: str) -> tuple[str, int, int] | None:
    """File, line and column of a check; None where no file holds it."""
    mark = report.places.get(check)
    return None if mark is None or report.policy is None else (report.policy, *mark)


def parse_place(where: str | None) -> tuple[str, int, int] | None:
    """``file:line:column`` taken apart."""
    m = re.fullmatch(r"(.+):(\d{1,7}):(\d{1,7})", where or "", re.DOTALL)
    return None if m is None else (m[1], int(m[2]), int(m[3]))


def finite(value: float | None) -> float | None:
    """A figure for JSON, which has no infinity."""
    return float(value) if value is not None and np.isfinite(value) else None
