"""The published JSON schema of policy files."""

from __future__ import annotations

from typing import Any

from qebgate.policy.model import Policy


def policy_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a policy; editors use it."""
    schema = Policy.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qebgate policy",
        **{k: v for k, v in schema.items() if k != "title"},
    }
