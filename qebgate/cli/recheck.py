"""``qebgate recheck``, and the bundles that ``qebgate check --evidence`` leaves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from qebgate.errors import PRECEDENCE, ExitCode, QebgateError, printable
from qebgate.policy import PolicyFile
from qebgate.result import Report


def keep(source: PolicyFile, report: Report, only: Sequence[str], folder: Path) -> None:
    """Write bundles for a report's certified passes; say on the error stream what could not be written."""
    from qebgate.certificates import save_evidence
    from qebgate.cli.commands import console

    saved, err = save_evidence(source, report, only, folder), console(stderr=True)
    for w in saved.warnings:
        err.print(f"warning: {printable(w, 1000)}", soft_wrap=True)
    err.print(f"evidence for {saved.written} passes in {printable(folder)}", soft_wrap=True)


def recheck(evidence: Path, root: Path | None) -> int:
    """Check one bundle, or all bundles of a folder; the most severe exit code."""
    from qebgate.certify.bundle import JSON_FILE
    from qebgate.certify.errors import EvidenceError
    from qebgate.certify.recheck import recheck as answer

    bundles = [evidence]
    if evidence.is_dir() and not (evidence / JSON_FILE).is_file():
        bundles = sorted(p.parent for p in evidence.glob(f"*/{JSON_FILE}"))
        if not bundles:
            raise EvidenceError(
                "QEB485", "there is no evidence here", where=printable(evidence), found=f"no {JSON_FILE}"
            )
    codes: list[ExitCode] = []
    for b in bundles:
        try:
            found = answer(b, root)
        except QebgateError as e:
            if len(bundles) == 1 or e.exit_code is ExitCode.BUG:
                raise
            sys.stdout.write(f"error {printable(b)}: {e.code}: {printable(e.message, 1000)}\n")
            codes.append(e.exit_code)
            continue
        sys.stdout.write(f"{'yes' if found.yes else 'no'} {printable(b)}: {printable(found.why, 1000)}\n")
        for note in found.notes:
            sys.stdout.write(f"  note: {printable(note, 1000)}\n")
        codes.append(ExitCode.PASS if found.yes else ExitCode.FAIL)
    return int(min(codes, key=PRECEDENCE.index))
