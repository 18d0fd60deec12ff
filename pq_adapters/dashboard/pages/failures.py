"""Failures by function and by what happened, so that a thousand failed tasks are one line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard import svg, words
from pq_adapters.dashboard.finding import WITHIN
from pq_adapters.dashboard.reading import ask
from pq_adapters.dashboard.rendering import page
from pq_adapters.dashboard.routes import dashboard_of, route

if TYPE_CHECKING:
    from pq_core.client import PQ

LOOKED_AT = 10_000
"""Failed tasks that are looked at, the newest ones."""
GROUPS = 50
BUCKETS = 24
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$')


async def failures(request: Request) -> Response:
    """Show the groups of a time."""
    within = request.query_params.get("within", "7d")
    within = within if within in WITHIN else "7d"
    groups = await groups_of(dashboard_of(request).pq, within=within)
    seen = groups[0]["seen"] if groups else 0
    return await page(
        request,
        "failures.html",
        here="failures",
        groups=groups,
        within=within,
        withins={key: one[0] for key, one in WITHIN.items()},
        seen=seen,
        cut=seen >= LOOKED_AT,
        limit=GROUPS,
    )


async def groups_of(pq: PQ, *, within: str, limit: int = GROUPS, looked_at: int = LOOKED_AT) -> list[dict[str, Any]]:
    """Return groups of failures, the one that failed last first."""
    now = datetime.now(tz=UTC)
    parameters = {
        "since": (now - WITHIN[within][1]).isoformat(), "until": now.isoformat(), "buckets": BUCKETS, "limit": limit
    }  # fmt: skip
    groups: list[dict[str, Any]] = await ask(pq, "failures", parameters, looked_at=looked_at)
    for group in groups:
        said = words.outcome(group["outcome"], group["error"], group["ledger"], group["memory_limit"])
        kind, _, message = said.partition(":") if group["outcome"] == "raised" else (said, "", "")
        if group["sensitive"]:
            kind, message = kind if " " not in kind else "raised an exception", " text hidden"
        group["kind"], group["message"] = kind.strip(), message.strip()
        group["place"] = None if group["sensitive"] else place_of(group["error"])
        counts = {int(bucket): count for bucket, count in (group["trend"] or {}).items()}
        trend = [float(counts.get(bucket, 0)) for bucket in range(1, BUCKETS + 1)]
        group["trend_svg"] = svg.columns(trend, label=f"{group['count']} failures over the {WITHIN[within][0]}")
    return groups


def place_of(error: str | None) -> str | None:
    """Return where an exception was raised: the last frame of its traceback, as ``jobs.py:12 in work``."""
    frames = [found for line in (error or "").splitlines() if (found := _FRAME.match(line))]
    if not frames:
        return None
    last = frames[-1]
    return f"{'/'.join(last['file'].split('/')[-2:])}:{last['line']} in {last['function']}"


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [route("/failures", failures, role="viewer")]
