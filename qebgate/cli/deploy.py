"""``qebgate verify``: whether this is the model that passed."""

from __future__ import annotations

from pathlib import Path

from qebgate.cli.commands import console
from qebgate.errors import printable
from qebgate.policy import find_policy, load_policy


def verify(evidence: Path, model: Path, policy: Path | None, sets: list[str], runtimes: list[str]) -> int:
    """Print yes or no, and what about; exit 0 or 1."""
    from qebgate.deploy import confirm

    source = load_policy(policy if policy is not None else find_policy(Path.cwd()), sets=sets)
    answer = confirm(evidence, model, source, runtimes)
    out = console()
    for fact in answer.facts:
        out.print(f"  {printable(fact, 1000)}", soft_wrap=True)
    if answer.refused:
        out.print("NO: the evidence does not say that this model passed this policy", soft_wrap=True)
        for why in answer.refused:
            out.print(f"  {printable(why, 1000)}", soft_wrap=True)
        return 1
    out.print("YES: this model passed this policy", soft_wrap=True)
    return 0
