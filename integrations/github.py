"""What the GitHub Action runs: the gate of a pull request is the one of its base branch.

Limits, regions, data, baseline and waivers come from the base's own checkout; only models come from the head.  So a
pull request that changes a model is judged by what was agreed before, whatever it does to the policy; checks that are
new or changed in the head are run besides.  Without a base policy the head's is used, and that is said.

The console script ``qebgate-action`` reads ``QEBGATE_*`` (the action's inputs) and ``GITHUB_*`` from the
environment; names from there and from files reach reports escaped, and no shell.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from qebgate._version import __version__
from qebgate.errors import PRECEDENCE, ExitCode, PolicyError, QebgateError, printable
from qebgate.gate import Options, check
from qebgate.integrations.github_api import Client, keep_comment, upload_sarif
from qebgate.policy import PolicyFile, load_policy
from qebgate.policy.load import FILE_NAME
from qebgate.report import text
from qebgate.report.github import command, render_github, render_policy_error
from qebgate.report.html import render_html
from qebgate.report.intoto import render_intoto
from qebgate.report.json import render_json
from qebgate.report.junit import render_junit
from qebgate.report.markdown import escape, render_markdown
from qebgate.report.render import EXPLAINING
from qebgate.report.sarif import render_sarif
from qebgate.report.witness import save_witnesses
from qebgate.result import Report

Verdict = Literal["pass", "fail", "unknown", "skipped", "error"]
OF_EXIT: dict[ExitCode, Verdict] = {
    ExitCode.PASS: "pass",
    ExitCode.FAIL: "fail",
    ExitCode.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The action's inputs.  ``base`` is a checkout of the base branch (None outside of pull requests)."""

    head: Path
    base: Path | None
    policy: str
    checks: tuple[str, ...]
    sets: tuple[str, ...]
    output: Path
    jobs: int
    shard: tuple[int, int]
    changed_only: bool
    reference: Literal["announce", "fail"]
    comment: bool
    sarif: bool

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Inputs:
        """From the environment; raises PolicyError for what is no valid input."""
        base = env.get("QEBGATE_BASE", "")
        reference = env.get("QEBGATE_CHANGED_REFERENCE") or "announce"
        if reference not in ("announce", "fail"):
            raise _wrong("changed-reference", reference, "announce or fail")
        return cls(
            head=Path.cwd(),
            base=Path(base) / _below(env) if base else None,
            policy=env.get("QEBGATE_POLICY") or FILE_NAME,
            checks=_lines(env.get("QEBGATE_CHECKS", "")),
            sets=_lines(env.get("QEBGATE_SET", "")),
            output=Path(env.get("QEBGATE_OUTPUT") or "qebgate-results"),
            jobs=_number("jobs", env.get("QEBGATE_JOBS") or "1", 1, 256),
            shard=_shard(env.get("QEBGATE_SHARD") or "1/1"),
            changed_only=_flag("changed-only", env.get("QEBGATE_CHANGED_ONLY")),
            reference=reference,
            comment=_flag("comment", env.get("QEBGATE_COMMENT")),
            sarif=_flag("sarif", env.get("QEBGATE_SARIF")),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One run of the gate.  ``advisory``: it is reported and decides nothing."""

    name: str
    title: str
    source: PolicyFile
    only: tuple[str, ...]
    advisory: bool = False


@dataclass(slots=True)
class Agenda:
    """What is to be run, and what a reviewer is told about it."""

    parts: list[Part] = field(default_factory=list[Part])
    notices: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])
    errors: list[PolicyError] = field(default_factory=list[PolicyError])


@dataclass(frozen=True, slots=True)
class Done:
    """A part and its report."""

    part: Part
    report: Report


def agenda(i: Inputs) -> Agenda:
    """Decide what runs.  Raises PolicyError where there is no usable policy at all."""
    out = Agenda()
    head_path = i.head / i.policy
    base_path = None if i.base is None else i.base / i.policy
    if base_path is None or i.base is None or not base_path.is_file():
        if i.base is not None:
            out.notices.append(f"the base branch has no {printable(i.policy)}: this pull request's own policy is used")
        source = load_policy(head_path, sets=i.sets)
        out.parts.append(Part("gate", "", source, _chosen(i, source)))
        return out
    base = load_policy(base_path)
    head: PolicyFile | None = None
    try:
        head = load_policy(head_path, sets=i.sets)
    except PolicyError as e:
        out.errors.append(e)
    sets = [s for name in base.policy.models for s in _models_of(i, name, base, head, out)]
    judged = load_policy(base_path, root=base_path.parent, sets=sets)
    judged = replace(judged, path=head_path if head_path.is_file() else judged.path)
    if i.changed_only and head is not None and _unchanged(base, head, sets):
        out.notices.append("no model, no policy and no data changed: nothing was run")
        return out
    out.parts.append(Part("base", "By the base branch's policy", judged, _chosen(i, judged)))
    if head is not None:
        extra = [c for c in _changed_checks(base, head) if c in _chosen(i, head)]
        if extra:
            title = "Checks that this pull request adds or changes"
            out.parts.append(Part("head", title, head, tuple(extra)))
    _old_references(i, base, base_path, sets, out)
    return out


def _models_of(i: Inputs, name: str, base: PolicyFile, head: PolicyFile | None, out: Agenda) -> list[str]:
    """Overrides that put the head's files into the base's policy."""
    assert i.base is not None
    model = base.policy.models[name]
    newer = None if head is None else head.policy.models.get(name)
    given = {s.partition("=")[0]: s.partition("=")[2] for s in i.sets}
    sets: list[str] = []
    for key, old, new in (
        ("quantized", model.quantized, None if newer is None else newer.quantized),
        ("float", model.float_, None if newer is None else newer.float_),
    ):
        place = f"models.{name}.{key}"
        if place in given:
            sets.append(f"{place}={(i.head / given[place]).absolute()}")
        elif isinstance(old, str):
            path = new if isinstance(new, str) else old
            sets.append(f"{place}={((i.head / i.policy).parent / path).absolute()}")
    if not isinstance(model.float_, str):
        out.notices.append(f"{printable(name)}: its float network is the base branch's (it is quantized on the fly)")
    return sets


def _old_references(i: Inputs, base: PolicyFile, base_path: Path, sets: Sequence[str], out: Agenda) -> None:
    """Announce changed float references, and compare the new models with the old ones too."""
    changed: list[str] = []
    for name, model in base.policy.models.items():
        new = next((Path(s.partition("=")[2]) for s in sets if s.startswith(f"models.{name}.float=")), None)
        if new is None or _same(base.resolve(model.float_file), new):
            continue
        changed.append(name)
    if not changed:
        return
    words = f"the float reference of {', '.join(printable(n) for n in changed)} changed in this pull request"
    (out.failures if i.reference == "fail" else out.notices).append(
        f"{words}: limits now compare with another network, which a person has to approve"
    )
    kept = [s for s in sets if not any(s.startswith(f"models.{n}.float=") for n in changed)]
    source = load_policy(base_path, root=base_path.parent, sets=kept)
    only = tuple(c.id for c in source.policy.checks if c.model in changed and c.id in _chosen(i, source))
    if only:
        title = "Beside the base branch's own float reference (for information)"
        out.parts.append(Part("reference", title, source, only, advisory=True))


def _changed_checks(base: PolicyFile, head: PolicyFile) -> list[str]:
    """Checks of the head that the base does not have in the same words."""
    old = {c.id: _words(base, c.id) for c in base.policy.checks}
    return [c.id for c in head.policy.checks if old.get(c.id) != _words(head, c.id)]


def _words(source: PolicyFile, check_id: str) -> dict[str, Any]:
    """A check with its model and region, without the places of files."""
    p = source.policy
    spec = next(c for c in p.checks if c.id == check_id)
    model = p.models[spec.model].model_dump(mode="json", by_alias=True, exclude={"float_", "quantized"})
    region = p.regions[spec.region].model_dump(mode="json", by_alias=True)
    return {"check": spec.model_dump(mode="json", by_alias=True), "model": model, "region": region}


def _unchanged(base: PolicyFile, head: PolicyFile, sets: Sequence[str]) -> bool:
    """Whether the head is the base as far as the gate can see: policy, models and data, byte for byte."""
    if base.sha256 != head.sha256:
        return False
    pairs = [(base.resolve(_named(base, s)), Path(s.partition("=")[2])) for s in sets]
    for region in base.policy.regions.values():
        data = getattr(region, "data", None) or getattr(region, "file", None)
        if isinstance(data, str):
            pairs.append((base.resolve(data), head.resolve(data)))
    return all(_same(a, b) for a, b in pairs)


def _named(source: PolicyFile, override: str) -> str:
    """The file that the policy itself names where an override stands."""
    _, name, key = override.partition("=")[0].split(".")
    model = source.policy.models[name]
    value = model.quantized if key == "quantized" else model.float_file
    return value if isinstance(value, str) else ""


def _same(a: Path, b: Path) -> bool:
    """Whether two files hold the same; False where one cannot be read (or is a folder)."""
    try:
        return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()
    except OSError:
        return False


def _chosen(i: Inputs, source: PolicyFile) -> tuple[str, ...]:
    """The ids of the policy's checks that this run is about: those asked for, of this shard."""
    ids = [c.id for c in source.policy.checks if not i.checks or c.id in i.checks]
    part, parts = i.shard
    return tuple(c for k, c in enumerate(ids) if k % parts == part - 1)


def run(i: Inputs, out: Agenda) -> list[Done]:
    """Run the parts; reports and evidence go to the output folder."""
    from qebgate.certificates import save_evidence
    from qebgate.explain import explain_all

    i.output.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    for part in out.parts:
        if not part.only:
            continue
        words = ("qebgate", "check", printable(i.policy))
        report = check(part.source, Options(part.only, i.jobs, words))
        folder = i.output / part.name
        report, _ = save_witnesses(report, folder / "witnesses")
        save_evidence(part.source, report, part.only, folder / "evidence")
        pages = {
            "result.json": render_json(report),
            "junit.xml": render_junit(report),
            "statement.intoto.json": render_intoto(report),
            "report.html": render_html(report, explain_all(part.source, report, EXPLAINING)),
        }
        for name, content in pages.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        done.append(Done(part, report))
    return done


def exit_code(out: Agenda, done: Sequence[Done]) -> ExitCode:
    """The most severe of all that decide."""
    codes = {d.report.exit_code for d in done if not d.part.advisory}
    if out.errors:
        codes.add(ExitCode.USAGE)
    if out.failures:
        codes.add(ExitCode.FAIL)
    return min(codes, key=PRECEDENCE.index) if codes else ExitCode.PASS


def summary(out: Agenda, done: Sequence[Done], code: ExitCode) -> str:
    """The job summary: what a reviewer has to know first, then every part."""
    lines = [f"> [!IMPORTANT]\n> {escape(n, 1000)}\n" for n in (*out.failures, *out.notices)]
    lines += [
        f"> [!CAUTION]\n> {escape(e.code)}: {escape(e.message, 1000)} {escape(e.where or '')}\n" for e in out.errors
    ]
    if not done and code is ExitCode.PASS:
        lines.append("## ⏭️ qebgate: skipped, nothing was checked\n")
    for d in done:
        lines += [f"### {escape(d.part.title)}\n"] if d.part.title else []
        lines.append(render_markdown(d.report))
    return "\n".join(lines)


def publish(i: Inputs, out: Agenda, done: Sequence[Done], code: ExitCode, env: Mapping[str, str]) -> None:
    """Annotations, job summary, outputs, SARIF and the comment."""
    for n in (*out.failures, *out.notices):
        sys.stdout.write(command("error" if n in out.failures else "notice", n, "qebgate") + "\n")
    for e in out.errors:
        sys.stdout.write(render_policy_error(e))
    for d in done:
        if not d.part.advisory:
            sys.stdout.write(render_github(d.report))
    page = summary(out, done, code)
    _append(env.get("GITHUB_STEP_SUMMARY"), page)
    deciding = [d for d in done if not d.part.advisory]
    sarif = [i.output / d.part.name / "qebgate.sarif" for d in deciding]
    for d, path in zip(deciding, sarif, strict=True):
        path.write_text(render_sarif(d.report), encoding="utf-8")
    _append(env.get("GITHUB_OUTPUT"), _outputs(i, deciding, code, skipped=not done and code is ExitCode.PASS))
    client = Client.of(env)
    if client is None:
        return
    notes: list[str] = []
    if i.sarif and deciding:
        notes += upload_sarif(client, [p.read_text(encoding="utf-8") for p in sarif], env)
    if i.comment:
        notes += keep_comment(client, page, env, f"{i.policy} {i.shard[0]}/{i.shard[1]}")
    for n in notes:
        sys.stdout.write(command("notice", n, "qebgate") + "\n")


def _outputs(i: Inputs, done: Sequence[Done], code: ExitCode, *, skipped: bool) -> str:
    """Lines for ``GITHUB_OUTPUT``, with a delimiter that no value can hold."""
    checks = [c for d in done for c in d.report.checks]
    verdict: Verdict = "skipped" if skipped else OF_EXIT.get(code, "error")
    values = {
        "verdict": verdict,
        "exit-code": str(int(code)),
        "passed": str(sum(c.verdict == "pass" for c in checks)),
        "failed": str(sum(c.verdict == "fail" for c in checks)),
        "unknown": str(sum(c.verdict == "unknown" for c in checks)),
        "errors": str(sum(len(d.report.errors) for d in done)),
        "folder": str(i.output.absolute()),
        "result": str(i.output.absolute() / done[0].part.name / "result.json") if done else "",
        "report": str(i.output.absolute() / done[0].part.name / "report.html") if done else "",
    }
    mark = f"qebgate-{uuid.uuid4().hex}"
    return "".join(f"{k}<<{mark}\n{printable(v, 4000)}\n{mark}\n" for k, v in values.items())


def _append(path: str | None, content: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as f:
            f.write(content)


def _lines(value: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in value.splitlines() if line.strip())


def _flag(name: str, value: str | None) -> bool:
    if (value or "false").lower() not in ("true", "false"):
        raise _wrong(name, value or "", "true or false")
    return (value or "").lower() == "true"


def _number(name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        raise _wrong(name, value, f"a number from {low} to {high}")
    return int(value)


def _shard(value: str) -> tuple[int, int]:
    part, _, parts = value.partition("/")
    n = _number("shard", parts or "0", 1, 1000)
    return _number("shard", part, 1, n), n


def _below(env: Mapping[str, str]) -> Path:
    """The working directory as seen from the repository."""
    workspace = env.get("GITHUB_WORKSPACE")
    if not workspace:
        return Path()
    try:
        return Path.cwd().relative_to(Path(workspace).resolve())
    except ValueError:
        raise _wrong("working-directory", str(Path.cwd()), "a folder of the repository") from None


def _wrong(name: str, found: str, wanted: str) -> PolicyError:
    return PolicyError("QEB239", "an input of the action is wrong", f"input {name}", printable(found), wanted)


def main(env: Mapping[str, str]) -> int:
    """Run the action; never raises, and a bug is 70."""
    try:
        i = Inputs.read(env)
        out = agenda(i)
        done = run(i, out)
        code = exit_code(out, done)
        publish(i, out, done, code, env)
    except PolicyError as e:
        sys.stdout.write(render_policy_error(e))
        return _stopped(env, e.exit_code, e)
    except QebgateError as e:
        sys.stdout.write(command("error", f"{e.code}: {e}", "qebgate") + "\n")
        return _stopped(env, e.exit_code, e)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except Exception as e:  # noqa: BLE001 - the last line of defence: a bug must not look like a verdict
        bug = f"internal error: {type(e).__name__}: {printable(e, 500)} (qebgate {__version__})"
        sys.stdout.write(command("error", bug, "qebgate") + "\n")
        return _stopped(env, ExitCode.BUG, e)
    sys.stdout.write(f"{' '.join(text.summary(d.report) for d in done) or 'skipped: nothing was checked'}\n")
    return int(code)


def _stopped(env: Mapping[str, str], code: ExitCode, error: Exception) -> int:
    _append(env.get("GITHUB_STEP_SUMMARY"), f"## 💥 qebgate could not run\n\n{escape(error, 2000)}\n")
    mark = f"qebgate-{uuid.uuid4().hex}"
    _append(env.get("GITHUB_OUTPUT"), f"verdict<<{mark}\nerror\n{mark}\nexit-code<<{mark}\n{int(code)}\n{mark}\n")
    return int(code)


def action() -> NoReturn:
    """The console script ``qebgate-action``: unlike ``python -m``, it does not import from the working directory."""
    sys.exit(main(os.environ))
