"""The tasks of a plan, one after the other or in several processes, and what the cache knows of them."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from qebgate.cache import Cache
from qebgate.errors import QebgateError, WorkerError
from qebgate.job import CODED, Working, replayed, run_job
from qebgate.plan import Job
from qebgate.result import TaskResult

if TYPE_CHECKING:
    from qebgate.engines.concrete import Session

IN_FLIGHT = 4
"""Tasks handed to the pool per process: enough to keep it busy, few enough to stop at once."""
CLOSING = 5.0
"""Seconds that an interrupted run waits for its pool to close."""
Outcome = TaskResult | QebgateError


def outcomes(
    jobs: Sequence[Job], deadline: float, processes: int, working: Working, cache: Cache | None, private: bool = False
) -> Iterator[tuple[int, Outcome]]:
    """Every task's outcome by its number: first those that the cache holds, then the others as they are finished.

    ``private``: inputs are written nowhere, not into the cache either.
    """
    left = list(range(len(jobs)))
    if cache is not None:
        left.clear()
        with _sessions() as session:
            for number, job in enumerate(jobs):
                known = cache.get(job)
                if known is not None and known.verdict == "fail":
                    known = replayed(job, known, session)
                if known is None:
                    left.append(number)
                else:
                    yield number, known
    todo = [jobs[n] for n in left]
    alone = processes == 1 or len(todo) < 2
    for k, outcome in _in_process(todo, deadline, working) if alone else _in_pool(todo, deadline, processes):
        if cache is not None and isinstance(outcome, TaskResult) and not (private and outcome.witness is not None):
            cache.put(jobs[left[k]], outcome)
        yield left[k], outcome


def _sessions() -> Session:
    from qebgate.engines.concrete import Session

    return Session()


def _in_process(jobs: Sequence[Job], deadline: float, working: Working) -> Iterator[tuple[int, Outcome]]:
    broken: set[str] = set()
    with _sessions() as session:
        for number, job in enumerate(jobs):
            if job.check in broken:
                continue
            try:
                yield number, run_job(job, deadline, working, session)
            except CODED as e:
                broken.add(job.check)
                yield number, e


def _in_pool(jobs: Sequence[Job], deadline: float, processes: int) -> Iterator[tuple[int, Outcome]]:
    """One task per process; fresh interpreters, so that no solver or runtime state is shared."""
    broken: set[str] = set()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_Worker.start)
    try:
        waiting = iter(enumerate(jobs))
        with _uninterrupted():  # workers start here and inherit it: Ctrl-C is for this process only, which ends them
            pending = {pool.submit(_Worker.run, job, deadline): n for n, job in islice(waiting, processes)}
        while pending:
            for n, job in islice(waiting, IN_FLIGHT * processes - len(pending)):
                pending[pool.submit(_Worker.run, job, deadline)] = n
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=lambda f: f.exception() is not None):  # what is known comes first
                number = pending.pop(future)
                outcome = future.result()
                if isinstance(outcome, _Coded):
                    error = outcome.error()
                    if jobs[number].check in broken:
                        continue
                    broken.add(jobs[number].check)
                    yield number, error
                else:
                    yield number, outcome
        pool.shutdown()
    except BrokenProcessPool:
        _abandon(pool)
        raise _killed(processes) from None
    except BaseException:
        _abandon(pool)
        raise


def _killed(processes: int) -> WorkerError:
    return WorkerError(
        "QEB914",
        "a process that worked on a task was ended from outside: no verdict can be given",
        found="it died without an error of its own; the system ends processes when memory runs out",
        fix=f"run with fewer than {processes} jobs, or set a smaller `guard.memory`; stored results are not lost",
    )


def _abandon(pool: ProcessPoolExecutor) -> None:
    """End the workers at once, then the pool's own thread.

    In this order, and waited for: a thread that is still closing its pipes when Python exits makes the exit handler of
    ``concurrent.futures`` write to one of them and print a traceback.  The wait is bounded because that thread can
    hang on a full pipe in Python 3.10 (CPython issue 94777).
    """
    for child in multiprocessing.active_children():
        child.terminate()
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True}, daemon=True)
    closing.start()
    closing.join(CLOSING)


@dataclass(frozen=True, slots=True)
class _Coded:
    """A coded error on its way between processes (exceptions with several fields do not unpickle)."""

    kind: type[QebgateError]
    fields: tuple[str, str, str | None, str | None, str | None]

    def error(self) -> QebgateError:
        """The error; raised where it must stop the run."""
        error = self.kind(*self.fields)
        if not isinstance(error, CODED):
            raise error
        return error


@contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """SIGINT is ignored, also by processes that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def one_thread() -> AbstractContextManager[object]:
    """BLAS on one thread: the matrices are small, and spinning threads cost several times what they win."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


class _Worker:
    """A worker process: its interpreters live as long as it does."""

    session: ClassVar[Session | None] = None

    @classmethod
    def start(cls) -> None:
        one_thread()
        cls.session = _sessions()
        atexit.register(cls.session.__exit__, None, None, None)

    @classmethod
    def run(cls, job: Job, deadline: float) -> TaskResult | _Coded:
        try:
            return run_job(job, deadline, session=cls.session)
        except QebgateError as e:
            return _Coded(type(e), (e.code, e.message, e.where, e.found, e.fix))
