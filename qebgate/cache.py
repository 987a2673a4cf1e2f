"""Results of earlier runs, so that an interrupted run goes on where it stopped and an unchanged task is not run twice.

A result is found by everything that it depends on: the source of the tool itself, the versions of the
packages that compute, the processor, and all that the task holds (both networks, the cell, the property, the
runtime, what is required, engines, budget and seed: :class:`qebgate.plan.Job`, field by field).  Errors and tasks
that a wall-clock or memory guard stopped are never stored.

Trust: an entry is data (JSON), validated strictly, and judged again.  A forged PASS could not be told from a real one,
so entries are believed only in a folder that belongs to the user who runs the tool and that nobody else can write
to; the folder is the user's own and never lies in a checkout.  A counterexample is run again before it is reported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from qebgate._version import __version__
from qebgate.canonical import UnknownKindError, digest, from_data, to_data
from qebgate.engines.statistical import clopper_pearson
from qebgate.errors import printable
from qebgate.ir.graph import Graph, Source
from qebgate.ir.pair import Pair
from qebgate.numerics.rounding import passes
from qebgate.plan import Job, Plan
from qebgate.result import CheckResult, TaskResult, WitnessResult
from qebgate.runtimes.replay import cpu_features

VERSION = 1
"""Of the entries' form."""
VARIABLE = "QEBGATE_CACHE_DIR"
"""Names the folder; empty: no cache."""
MAX_ENTRY = 16 << 20
MAX_TOTAL = 1 << 30
"""Bytes; beyond the total the oldest entries go."""
PROOFS = ("exhaustive", "certified")
ADMITTED_BY = {
    "solver": ("proof_or_solver",),
    "statistical": ("proof_or_statistical", "statistical"),
    "tested": ("tested",),
}
"""What a policy must require for a pass to rest on less than a proof."""
OF_THE_GAP = ("max_abs", "max_lsb")
"""Properties whose proven figure follows from the stored bounds."""
PACKAGES = ("numpy", "scipy", "ortools", "ai-edge-litert", "h5py")


def default_folder() -> Path | None:
    """``$QEBGATE_CACHE_DIR``, else ``qebgate`` in the user's cache folder; None where the variable is empty."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()) / "qebgate"


@dataclass
class Cache:
    """A folder of results.  ``notices`` collects what a user should know; nothing about a cache is ever an error."""

    folder: Path
    notices: list[str] = field(default_factory=list[str])
    _environment: str = ""
    _pairs: dict[int, tuple[Pair, str]] = field(default_factory=dict[int, tuple[Pair, str]])
    _written: int = 0

    @classmethod
    def open(cls, folder: Path | None = None) -> Cache | None:
        """The cache in a folder (the user's own where None); None, and why not, where it cannot be trusted or made."""
        folder = default_folder() if folder is None else folder
        if folder is None:
            return None
        cache = cls(folder, _environment=environment())
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = folder.stat()
        except OSError as e:
            cache._off(f"cannot be made: {e.strerror}")
            return cache
        if not stat.S_ISDIR(about.st_mode) or not _own(about):
            cache._off("belongs to another user, or others can write to it")
        return cache

    def _off(self, why: str) -> None:
        self.notices.append(f"no cache: {printable(self.folder)} {why}")
        self._environment = ""

    @property
    def usable(self) -> bool:
        return bool(self._environment)

    def key(self, job: Job) -> str | None:
        """What a job's result is found by; None where the job holds something that has no digest."""
        if not self.usable:
            return None
        known = self._pairs.get(id(job.pair))
        if known is None:
            known = self._pairs[id(job.pair)] = job.pair, _pair(job.pair)
        cell = replace(job.cell, index=0)
        names = [f.name for f in fields(job) if f.name not in ("check", "pair", "cell")]
        try:
            return digest(VERSION, self._environment, known[1], cell, [(n, getattr(job, n)) for n in names])
        except UnknownKindError as e:
            self._say(f"a task of {printable(job.check)} is not cached: it holds {printable(e)}")
            return None

    def get(self, job: Job) -> TaskResult | None:
        """The result that was stored for a job; None where there is none to believe.

        A counterexample must still be run again (:func:`qebgate.gate.check` does).
        """
        key = self.key(job)
        if key is None:
            return None
        path = self._path(key)
        try:
            content = self._read(path)
        except OSError:
            return None
        if content is None:
            self._say("entries that belong to another user, or that others can write to, are ignored")
            return None
        try:
            found = _parse(content, key)
            _believable(found, job)
        except (ValueError, RecursionError, MemoryError, OverflowError) as e:
            self._say(f"a damaged entry is ignored: {printable(path.name, 16)}: {printable(e, 80)}")
            return None
        return replace(found, check=job.check, index=job.cell.index, runtime=job.info, from_cache=True)

    def put(self, job: Job, result: TaskResult) -> None:
        """Store a result, unless a guard made it or its counterexample could not be checked again."""
        if result.from_cache or not storable(job, result):
            return
        key = self.key(job)
        if key is None:
            return
        try:
            data = to_data(TaskResult, replace(result, check="", index=0))
        except UnknownKindError as e:
            self._say(f"a result of {printable(job.check)} is not cached: it holds {printable(e)}")
            return
        body = json.dumps(data)
        content = json.dumps({"qebgate": VERSION, "key": key, "sha256": _sha256(body), "result": body}).encode()
        if len(content) <= MAX_ENTRY:
            self._write(self._path(key), content)

    # -- how long it took last time -------------------------------------------------------------

    def remember(self, policy: str | None, checks: tuple[CheckResult, ...]) -> None:
        """Keep the seconds and the number of tasks of complete checks, for :meth:`last`."""
        done = {c.id: [len(c.tasks), sum(t.seconds for t in c.tasks)] for c in checks if c.complete}
        if not self.usable or not done:
            return
        name = self._history(policy)
        self._write(name, json.dumps({**self._last(name), **done}).encode())
        if self._written:
            self._prune()

    def last(self, policy: str | None) -> dict[str, tuple[int, float]]:
        """Tasks and their seconds at the last complete run of a policy's checks, by the check's id."""
        return {k: (int(v[0]), float(v[1])) for k, v in self._last(self._history(policy)).items()}

    def stored(self, plan: Plan) -> dict[str, int]:
        """How many tasks of every check have a result here."""
        return {c.spec.id: sum(self.get(j) is not None for j in c.jobs) for c in plan.checks}

    def _history(self, policy: str | None) -> Path:
        where = "" if policy is None else str(Path(policy).absolute())
        return self.folder / f"last-{_sha256(where)[:32]}.json"

    def _last(self, name: Path) -> dict[str, list[float]]:
        try:
            data: object = json.loads(self._read(name) or b"{}")
        except (OSError, ValueError, RecursionError):
            return {}
        given = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        return {k: v for k, v in given.items() if _is_times(v)}

    # -- files ----------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self.folder / f"v{VERSION}" / key[:2] / f"{key}.json"

    def _read(self, path: Path) -> bytes | None:
        """A file's content; None where somebody else could have written it."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as f:
            about = os.fstat(f.fileno())
            if not stat.S_ISREG(about.st_mode) or not _own(about) or about.st_size > MAX_ENTRY:
                return None
            return f.read(MAX_ENTRY + 1)

    def _write(self, path: Path, content: bytes) -> None:
        """Whole or not at all, and for this user only."""
        beside = path.parent / f".{path.name[:16]}.{secrets.token_hex(8)}"
        try:
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(content)
            beside.replace(path)
            self._written += 1
        except OSError as e:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            self._say(f"cannot be written: {e.strerror}")
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _prune(self) -> None:
        """Remove the oldest entries beyond :data:`MAX_TOTAL`."""
        found: list[tuple[float, int, Path]] = []
        for path in (self.folder / f"v{VERSION}").glob("*/*.json"):
            with suppress(OSError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= MAX_TOTAL:
                return
            with suppress(OSError):
                path.unlink()
            total -= size

    def _say(self, notice: str) -> None:
        words = f"cache {printable(self.folder)}: {notice}"
        if words not in self.notices and len(self.notices) < 20:
            self.notices.append(words)


def environment() -> str:
    """A digest of what computes: this package's source, the packages below it, Python, the processor."""
    versions = [(name, _version(name)) for name in PACKAGES]
    return digest(__version__, _source(), versions, platform.python_version(), platform.system(), cpu_features())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """A digest of the package's own files: an edited tool shares no result with the released one."""
    root = Path(__file__).resolve().parent
    h = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        h.update(f"{path.relative_to(root)} {len(content)}:".encode() + content)
    return h.hexdigest()


def _pair(pair: Pair) -> str:
    """Both networks, tensor by tensor; where their files lie does not matter."""

    def nameless(g: Graph) -> Graph:
        return replace(g, source=Source("", g.source.sha256, g.source.format))

    return digest(replace(pair, float=nameless(pair.float), quantized=nameless(pair.quantized)))


def storable(job: Job, result: TaskResult) -> bool:
    """Whether the same task would have the same result again, and a counterexample can be checked again."""
    if job.blocked or result.waived or result.reason in ("guard_time", "guard_memory"):
        return False
    if job.waived is not None and result.verdict != "pass":  # a guard may have stopped the second try
        return False
    if result.verdict != "fail":
        return True
    if job.require == "statistical":  # its inputs come from more than the job's own cell
        return False
    # whether an input is on a line is not easily checked: lines are walked again
    return result.reason == "refuted" and result.witness is not None and job.cell.line is None


def _parse(content: bytes, key: str) -> TaskResult:
    entry: object = json.loads(content)
    given = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    body = given.get("result")
    if given.get("qebgate") != VERSION or given.get("key") != key or not isinstance(body, str):
        raise ValueError("not the entry that its name says")
    if given.get("sha256") != _sha256(body):
        raise ValueError("its content has changed")
    return from_data(TaskResult, json.loads(body))


def _believable(r: TaskResult, job: Job) -> None:
    """Raise ValueError unless a result could be the job's: judged again as far as its figures go."""
    n = len(r.outputs)
    size = job.pair.float.output.size
    if not n or any(not 0 <= k < size for k in r.outputs) or (job.outputs is not None and r.outputs != job.outputs):
        raise ValueError("other outputs")
    sides = (r.lower, r.upper)
    if any(s is not None and s.shape != (n,) for s in sides) or (r.lower is None) != (r.upper is None):
        raise ValueError("bounds of another shape")
    if not storable(job, r) or not r.seconds >= 0:
        raise ValueError("a result that is never stored")
    if r.witness is not None and not inside(r.witness, job):
        raise ValueError("a witness from outside the region")
    if r.witnessed is not None and r.proven is not None and not r.witnessed <= r.proven:
        raise ValueError("more witnessed than proven")
    if r.verdict != "pass":
        return
    rare = r.evidence == "statistical" and job.require == "statistical"  # some of its inputs may be beyond the limit
    if r.reason is not None or (r.witnessed is not None and not (rare or r.witnessed <= job.prop.limit)):
        raise ValueError("no pass")
    if r.evidence == "statistical" and not _rare(r, job):
        raise ValueError("a sample that does not pass")
    if r.evidence in (*PROOFS, "solver"):
        if r.lower is None or r.upper is None or not (r.lower <= r.upper).all():
            raise ValueError("a pass without bounds")
        most = job.prop.of_box(r.lower, r.upper)
        # of other properties, bounds of the outputs themselves, which are not stored, may have made the figure smaller
        known = r.proven == most or (job.prop.kind not in OF_THE_GAP and r.proven is not None and r.proven <= most)
        if not known or r.proven is None or not passes(r.proven, job.prop.limit):
            raise ValueError("bounds that do not pass")
    if r.evidence not in PROOFS and job.require not in ADMITTED_BY.get(r.evidence or "", ()):
        raise ValueError("a pass that rests on nothing that counts")


def _rare(r: TaskResult, job: Job) -> bool:
    """Whether a stored sample is the one that the job asks for, and says what it has to."""
    s, asked = r.statistics, job.sampling
    if s is None or asked is None or (s.n, s.confidence) != (asked.n, asked.confidence) or not 0 <= s.failures <= s.n:
        return False
    return clopper_pearson(s.n, s.failures, s.confidence)[1] <= asked.max_failure_rate


def inside(w: WitnessResult, job: Job) -> bool:
    """Whether an input belongs to a task's region, and its codes to the input (False for what cannot be told)."""
    cell, codec = job.cell, job.codec
    if w.x.shape != cell.lower.shape or w.x.dtype != np.float32 or not np.isfinite(w.x).all():
        return False
    if (w.codes is None) != codec.in_model or (w.codes is not None and w.codes.shape != w.x.shape):
        return False
    if cell.codes is not None:
        codes = codec.encode(w.x) if w.codes is None else w.codes
        lo, hi = cell.codes
        return bool(((codes >= lo) & (codes <= hi)).all() and (codec.grid(codes) == w.x).all())
    within = bool(((w.x >= cell.lower) & (w.x <= cell.upper)).all())
    return within and (w.codes is None or bool((codec.encode(w.x) == w.codes).all()))


def _own(about: os.stat_result) -> bool:
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_times(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(cast("list[Any]", value)) == 2
        and all(type(v) in (int, float) and 0 <= v < 1e12 for v in cast("list[Any]", value))
    )
