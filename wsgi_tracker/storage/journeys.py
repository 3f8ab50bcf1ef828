"""Sessions of users: visits of one, of which none comes more than 30 minutes behind the one before.

A session is cut where the time that is asked about begins and ends.
"""

from __future__ import annotations

import sqlite3

from ..period import IDLE
from ..reports import Sessions
from ..selection import Selection
from .conditions import rows_of

SESSIONS = f"""
WITH came AS (
    SELECT timestamp, lag(timestamp) OVER visits_of_user AS before,
        lead(timestamp) OVER visits_of_user AS following
    FROM {{source}} WHERE {{where}} AND user_id IS NOT NULL
    WINDOW visits_of_user AS (PARTITION BY user_id ORDER BY timestamp)
)
SELECT count(*) FILTER (WHERE coalesce(timestamp - before > {IDLE}, 1)),
    count(*) FILTER (WHERE coalesce(timestamp - before > {IDLE}, 1)
        AND coalesce(following - timestamp > {IDLE}, 1)),
    count(*), coalesce(sum(timestamp - before) FILTER (WHERE timestamp - before <= {IDLE}), 0)
FROM came"""


def sessions(connection: sqlite3.Connection, selection: Selection) -> Sessions:
    """Return the totals of all sessions."""
    rows = rows_of(selection)
    statement = SESSIONS.format(source=rows.source, where=rows.where)
    return Sessions(*connection.execute(statement, rows.values).fetchone())
