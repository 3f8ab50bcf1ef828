"""What answers look like, as JSON Schema: every key that they can have, and which are always there."""

from __future__ import annotations

from typing import Any, TypeAlias

Schema: TypeAlias = "dict[str, Any]"

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time"}


def listed(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def optional(schema: Schema) -> Schema:
    """Return the schema of what may be null."""
    return {**schema, "type": [schema["type"], "null"]}


def record(always: dict[str, Schema], sometimes: dict[str, Schema] | None = None) -> Schema:
    """Return the schema of an object that has these keys, and no others."""
    return {
        "type": "object",
        "properties": {**always, **(sometimes or {})},
        "required": list(always),
        "additionalProperties": False,
    }


_PERCENTILES = record({name: optional(COUNT) for name in ("p50", "p90", "p99")})
_STATUSES = record(dict.fromkeys(("2xx", "3xx", "4xx", "5xx", "other"), COUNT))
_OUTCOMES = {
    "status": _STATUSES,
    "error_rate": optional(NUMBER),
    "duration_us": _PERCENTILES,
    "bytes_sent": COUNT,
}
_SESSIONS = record(
    {
        "count": COUNT,
        "bounces": COUNT,
        "average_visits": optional(NUMBER),
        "average_duration_seconds": optional(NUMBER),
    }
)
_BOUNDS = {"start": MOMENT, "end": optional(MOMENT)}
_ABOUT = {"period": optional(TEXT)}
_MORE_ABOUT = {**_BOUNDS, "tz": TEXT}
_BASIS = {"unique_users_basis": TEXT}

_STATS_ROW = record(
    {
        "endpoint": TEXT,
        "method": TEXT,
        "hit_count": COUNT,
        "unique_users": COUNT,
        "last_access": MOMENT,
        "first_access": MOMENT,
    },
    _OUTCOMES,
)
_TOTALS = {
    "total_hits": COUNT,
    "total_endpoints": COUNT,
    "total_unique_users": COUNT,
    "oldest_visit": optional(MOMENT),
    "newest_visit": optional(MOMENT),
}
_MORE_TOTALS = {**_OUTCOMES, "sessions": _SESSIONS}
_BUCKET = record(
    {"time_bucket": TEXT, "hits": COUNT, "unique_users": COUNT, "unique_endpoints": COUNT},
    {**_OUTCOMES, "partial": FLAG},
)
_VISIT = {
    "endpoint": TEXT,
    "method": TEXT,
    "ip_address": optional(TEXT),
    "user_agent": optional(TEXT),
    "referer": optional(TEXT),
    "timestamp": MOMENT,
}
_SESSION = record(
    {
        **_BOUNDS,
        "duration_seconds": NUMBER,
        "visits": COUNT,
        "entry": TEXT,
        "exit": TEXT,
        "cut": FLAG,
        "steps": listed(record({**_VISIT, "path": TEXT, "status": optional(COUNT)})),
    }
)

OF_STATS = record(
    {"stats": listed(_STATS_ROW), **_ABOUT, "total_endpoints": COUNT},
    {**_MORE_ABOUT, **_BASIS, "previous": record({"stats": listed(_STATS_ROW), **_BOUNDS})},
)
OF_SUMMARY = record(
    {**_ABOUT, **_TOTALS, "tracking_active": FLAG},
    {
        **_MORE_ABOUT,
        **_BASIS,
        **_MORE_TOTALS,
        "previous": record({**_TOTALS, **_BOUNDS}, _MORE_TOTALS),
    },
)
OF_TRENDS = record(
    {"trends": listed(_BUCKET), "granularity": TEXT, **_ABOUT},
    {**_MORE_ABOUT, **_BASIS, "previous": record({"trends": listed(_BUCKET), **_BOUNDS})},
)
_MORE_OF_VISIT = {
    "path": TEXT,
    "status": optional(COUNT),
    "error": optional(TEXT),
    "host": optional(TEXT),
    "duration_us": optional(COUNT),
    "bytes_sent": optional(COUNT),
}
OF_VISITS = record(
    {
        "visits": listed(record({"user_hash": optional(TEXT), **_VISIT}, _MORE_OF_VISIT)),
        "count": COUNT,
    }
)
OF_BREAKDOWN = record(
    {
        "breakdown": listed(
            record({"value": optional(TEXT), "hits": COUNT, "unique_users": COUNT})
        ),
        "by": TEXT,
        **_ABOUT,
        "total_values": COUNT,
    },
    _MORE_ABOUT,
)
OF_USER = record(
    {
        "user_hash": TEXT,
        **_ABOUT,
        "first_visit": optional(MOMENT),
        "last_visit": optional(MOMENT),
        "visits": COUNT,
        "sessions": _SESSIONS,
        "endpoints": listed(_STATS_ROW),
        "path": listed(_SESSION),
    },
    _MORE_ABOUT,
)
OF_LIVE = record(
    {
        "now": MOMENT,
        "active_users": COUNT,
        "requests_per_second": NUMBER,
        "minutes": listed(record({"start": MOMENT, "hits": COUNT})),
    }
)
OF_ERROR = record({"error": record({"code": TEXT, "message": TEXT, "parameter": optional(TEXT)})})
