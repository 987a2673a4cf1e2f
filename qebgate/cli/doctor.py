"""``qebgate doctor``."""

from __future__ import annotations

from collections.abc import Sequence

from qebgate.cli.commands import EXPLAIN_FORMATS, console, parse_formats, print_or_save, text_or_save
from qebgate.errors import PolicyError


def doctor(formats: Sequence[str]) -> int:
    """Look at the installation; 0 where checks can be run and relied on, else 70."""
    from qebgate.doctor import diagnose
    from qebgate.report.doctor import diagnosis_json, render_diagnosis

    wanted = parse_formats(formats)
    for f in wanted:
        if f.name not in EXPLAIN_FORMATS:
            raise PolicyError(
                "QEB220", "a diagnosis has no such format", found=f.name, fix=" or ".join(EXPLAIN_FORMATS)
            )
    console(stderr=True).print("running the self-test in every installed runtime ...")
    found = diagnose()
    for f in wanted:
        if f.name == "rich":
            print_or_save(f, lambda out: render_diagnosis(found, out))
        else:
            text_or_save(f, diagnosis_json(found))
    return int(found.exit_code)
