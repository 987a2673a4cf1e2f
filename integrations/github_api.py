"""The little of GitHub's REST API that the action uses; without permission it says so and goes on.

Source: GitHub's REST API documentation (issue comments; code scanning, upload an analysis as SARIF data).
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

MAX_COMMENT = 60_000
"""GitHub refuses comments of more than 65,536 characters."""
MAX_EVENT = 16 << 20
TIMEOUT = 20.0
PAGES = 10


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, and where."""

    url: str
    token: str
    repository: str

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Client | None:
        """From the runner's environment; None without a token."""
        token, repository = env.get("QEBGATE_TOKEN", ""), env.get("GITHUB_REPOSITORY", "")
        if not token or not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            return None
        return cls(env.get("GITHUB_API_URL") or "https://api.github.com", token, repository)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request; raises OSError (URLError) where it fails."""
        request = urllib.request.Request(  # noqa: S310 - the runner's own address
            f"{self.url}/repos/{self.repository}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")


def keep_comment(client: Client, page: str, env: Mapping[str, str], about: str) -> list[str]:
    """Write the page as the pull request's one comment ``about`` something, or replace it; returns what went wrong."""
    number = pull_request(env)
    if number is None:
        return []
    mark = f"<!-- qebgate {base64.b16encode(about.encode()).decode()[:200]} -->"
    more = "\n\n… cut: the job summary has the rest" if len(page) > MAX_COMMENT else ""
    body = {"body": f"{mark}\n{page[:MAX_COMMENT]}{more}"}
    try:
        for number_of_page in range(1, PAGES + 1):
            found = client.call("GET", f"issues/{number}/comments?per_page=100&page={number_of_page}")
            for c in cast("list[dict[str, Any]]", found):
                if str(c.get("body", "")).startswith(mark):
                    client.call("PATCH", f"issues/comments/{int(c['id'])}", body)
                    return []
            if len(found) < 100:
                break
        client.call("POST", f"issues/{number}/comments", body)
    except (OSError, ValueError, KeyError, TypeError) as e:
        return [f"the pull request's comment could not be written ({_why(e)}); the job summary has the report"]
    return []


def upload_sarif(client: Client, logs: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Give the logs to code scanning; returns what went wrong."""
    out: list[str] = []
    for log in logs:
        body = {
            "commit_sha": env.get("GITHUB_SHA", ""),
            "ref": env.get("GITHUB_REF", ""),
            "sarif": base64.b64encode(gzip.compress(log.encode())).decode(),
            "tool_name": "qebgate",
        }
        try:
            client.call("POST", "code-scanning/sarifs", body)
        except (OSError, ValueError) as e:
            out.append(f"code scanning did not take the SARIF log ({_why(e)}); it is among the results")
    return out


def pull_request(env: Mapping[str, str]) -> int | None:
    """The number of the event's pull request."""
    try:
        path = Path(env["GITHUB_EVENT_PATH"])
        if path.stat().st_size > MAX_EVENT:
            return None
        event = json.loads(path.read_bytes())
        number = event["pull_request"]["number"]
    except (KeyError, OSError, ValueError, TypeError):
        return None
    return number if isinstance(number, int) and number > 0 else None


def _why(e: Exception) -> str:
    if isinstance(e, urllib.error.HTTPError):
        return f"HTTP {e.code}" + (", the token may not write" if e.code in (401, 403, 404) else "")
    return type(e).__name__
