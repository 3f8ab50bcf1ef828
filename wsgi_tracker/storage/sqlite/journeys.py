"""Sessions of users: visits of one, of which none comes more than 30 minutes behind the one before.

A session is cut where the time that is asked about begins and ends. Visits are sorted into a temporary
table of the connection, and each is looked at beside its neighbours: window functions take nearly
twice as long.
"""

from __future__ import annotations

import sqlite3

from ...period import IDLE
from ...reports import Sessions
from ...selection import Selection
from .arrivals import writing
from .conditions import rows_of

CREATE_JOURNEYS = "CREATE TEMP TABLE journeys (user_id INTEGER, timestamp INTEGER)"
FILL = """
INSERT INTO temp.journeys SELECT user_id, timestamp FROM {source}
WHERE {where} AND user_id IS NOT NULL ORDER BY 1, 2"""
EMPTY = "DELETE FROM temp.journeys"
_BEGINS = f"(before.user_id IS NOT visit.user_id OR visit.timestamp - before.timestamp > {IDLE})"
_ENDS = (
    f"(following.user_id IS NOT visit.user_id OR following.timestamp - visit.timestamp > {IDLE})"
)
SESSIONS = f"""
SELECT count(*) FILTER (WHERE {_BEGINS}), count(*) FILTER (WHERE {_BEGINS} AND {_ENDS}), count(*),
    coalesce(sum(visit.timestamp - before.timestamp) FILTER (WHERE NOT {_BEGINS}), 0)
FROM temp.journeys AS visit
LEFT JOIN temp.journeys AS before ON before.rowid = visit.rowid - 1
LEFT JOIN temp.journeys AS following ON following.rowid = visit.rowid + 1"""


def sessions(connection: sqlite3.Connection, selection: Selection) -> Sessions:
    """Return the totals of all sessions."""
    rows = rows_of(selection)
    with writing(connection):
        connection.execute(FILL.format(source=rows.source, where=rows.where), rows.values)
        found = Sessions(*connection.execute(SESSIONS).fetchone())
        connection.execute(EMPTY)
    return found
