"""Bring the database of an older release up to date: numbered steps, each in one transaction.

A step is history, and never changed: ``schema.sql`` alone says what the newest schema is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from .schema import SCHEMA_VERSION, schema_version, transaction

# What leads from each version to the next.
STEPS: Mapping[int, Sequence[str]] = {
    1: (
        "INSERT INTO settings (name, value) VALUES ('changes', 0)",
        """
CREATE TRIGGER visits_deleted AFTER DELETE ON visits
WHEN OLD.id > coalesce((SELECT max(id) FROM visits), 0)
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        """
CREATE TRIGGER visits_updated AFTER UPDATE ON visits
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        """
CREATE TRIGGER user_visits_numbered INSTEAD OF INSERT ON user_visits WHEN NEW.id IS NOT NULL
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        # The first one lost a visit that UPDATE OR FAIL gave an id in use.
        "DROP TRIGGER user_visits_update",
        """
CREATE TRIGGER user_visits_update INSTEAD OF UPDATE ON user_visits
BEGIN
    INSERT INTO user_visits (
        id, user_hash, endpoint, method, ip_address, user_agent, referer, timestamp, timestamp_us,
        path, status, duration_us, first_byte_us, bytes_sent, error, host
    ) VALUES (
        (SELECT max(id) + 1 FROM visits),
        NEW.user_hash, NEW.endpoint, NEW.method, NEW.ip_address, NEW.user_agent,
        NEW.referer, NEW.timestamp,
        CASE WHEN NEW.timestamp IS OLD.timestamp THEN NEW.timestamp_us END,
        CASE WHEN NEW.path <> OLD.path OR OLD.path <> OLD.endpoint THEN NEW.path END,
        NEW.status, NEW.duration_us, NEW.first_byte_us, NEW.bytes_sent, NEW.error, NEW.host
    );
    DELETE FROM visits WHERE id = OLD.id;
    UPDATE visits SET id = NEW.id WHERE id = (SELECT max(id) FROM visits);
END""",
    ),
    2: (
        *(
            f"ALTER TABLE user_agents ADD COLUMN {column} TEXT"
            for column in ("class", "rule", "browser", "system", "device")
        ),
        "CREATE INDEX user_agents_undecided ON user_agents (id) WHERE class IS NULL",
    ),
}


def migrate(connection: sqlite3.Connection) -> None:
    """Take every step that is missing; several processes may try at once."""
    while (version := schema_version(connection)) < SCHEMA_VERSION:
        with transaction(connection, any_schema=True):
            if schema_version(connection) == version:  # else another process was first
                for statement in STEPS[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
