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
        "INSERT INTO settings (name, value) "
        "SELECT 'identity', 'permanent' WHERE EXISTS (SELECT 1 FROM visits)",
        # NOT NULL goes by SQLite's own recipe (ALTER TABLE, section 7), as nothing that is stored
        # changes; what follows has all connections read the schema again.
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'user_id INTEGER NOT NULL REFERENCES users,', "
        "'user_id INTEGER REFERENCES users,  -- NULL: only the hit counts') "
        "WHERE type = 'table' AND name = 'visits'",
        "PRAGMA writable_schema = RESET",
        "DROP VIEW user_visits",
        """
CREATE VIEW user_visits AS
SELECT
    visits.id,
    users.user_hash,
    endpoints.endpoint,
    endpoints.method,
    ip_addresses.ip_address,
    user_agents.user_agent,
    referers.referer,
    strftime('%Y-%m-%dT%H:%M:%SZ', visits.timestamp / 1000000, 'unixepoch') AS timestamp,
    visits.timestamp AS timestamp_us,
    coalesce(paths.path, endpoints.endpoint) AS path,
    visits.status,
    visits.duration_us,
    visits.first_byte_us,
    visits.bytes_sent,
    visits.error,
    hosts.host
FROM visits
JOIN endpoints ON endpoints.id = visits.endpoint_id
LEFT JOIN users ON users.id = visits.user_id
LEFT JOIN paths ON paths.id = visits.path_id
LEFT JOIN ip_addresses ON ip_addresses.id = visits.ip_address_id
LEFT JOIN user_agents ON user_agents.id = visits.user_agent_id
LEFT JOIN referers ON referers.id = visits.referer_id
LEFT JOIN hosts ON hosts.id = visits.host_id""",
        """
CREATE TRIGGER user_visits_insert INSTEAD OF INSERT ON user_visits
BEGIN
    SELECT raise(ABORT, 'user_visits: a visit needs timestamp (2025-08-13T15:30:00Z) or timestamp_us, endpoint and method; text as text, quantities as integers')
    WHERE typeof(NEW.endpoint) <> 'text' OR typeof(NEW.method) <> 'text'
       OR typeof(NEW.user_hash) NOT IN ('text', 'null')
       OR 'blob' IN (typeof(NEW.ip_address), typeof(NEW.user_agent), typeof(NEW.referer),
                     typeof(NEW.path), typeof(NEW.error), typeof(NEW.host))
       OR typeof(coalesce(NEW.timestamp_us, 0)) <> 'integer'
       OR typeof(coalesce(NEW.status, 0)) <> 'integer'
       OR typeof(coalesce(NEW.duration_us, 0)) <> 'integer'
       OR typeof(coalesce(NEW.first_byte_us, 0)) <> 'integer'
       OR typeof(coalesce(NEW.bytes_sent, 0)) <> 'integer'
       OR coalesce(NEW.timestamp_us, strftime('%s', NEW.timestamp) * 1000000, -1) NOT BETWEEN 0 AND 253402300799999999;  -- 1970 to 9999
    INSERT INTO endpoints (endpoint, method) SELECT NEW.endpoint, NEW.method
    WHERE NOT EXISTS (SELECT 1 FROM endpoints WHERE endpoint = NEW.endpoint AND method = NEW.method);
    INSERT INTO users (user_hash) SELECT NEW.user_hash
    WHERE NEW.user_hash IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM users WHERE user_hash = NEW.user_hash);
    INSERT INTO paths (path) SELECT NEW.path
    WHERE NEW.path <> NEW.endpoint
    AND NOT EXISTS (SELECT 1 FROM paths WHERE path = NEW.path);
    INSERT INTO ip_addresses (ip_address) SELECT NEW.ip_address
    WHERE NEW.ip_address IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM ip_addresses WHERE ip_address = NEW.ip_address);
    INSERT INTO user_agents (user_agent) SELECT NEW.user_agent
    WHERE NEW.user_agent IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM user_agents WHERE user_agent = NEW.user_agent);
    INSERT INTO referers (referer) SELECT NEW.referer
    WHERE NEW.referer IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM referers WHERE referer = NEW.referer);
    INSERT INTO hosts (host) SELECT NEW.host
    WHERE NEW.host IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM hosts WHERE host = NEW.host);
    INSERT INTO visits (
        id, timestamp, endpoint_id, user_id, path_id, status, duration_us, first_byte_us,
        bytes_sent, error, ip_address_id, user_agent_id, referer_id, host_id
    ) VALUES (
        NEW.id,
        coalesce(NEW.timestamp_us, strftime('%s', NEW.timestamp) * 1000000),
        (SELECT id FROM endpoints WHERE endpoint = NEW.endpoint AND method = NEW.method),
        (SELECT id FROM users WHERE user_hash = NEW.user_hash),
        (SELECT id FROM paths WHERE path = NEW.path AND NEW.path <> NEW.endpoint),
        NEW.status, NEW.duration_us, NEW.first_byte_us, NEW.bytes_sent, NEW.error,
        (SELECT id FROM ip_addresses WHERE ip_address = NEW.ip_address),
        (SELECT id FROM user_agents WHERE user_agent = NEW.user_agent),
        (SELECT id FROM referers WHERE referer = NEW.referer),
        (SELECT id FROM hosts WHERE host = NEW.host)
    );
END""",
        """
CREATE TRIGGER user_visits_delete INSTEAD OF DELETE ON user_visits
BEGIN
    DELETE FROM visits WHERE id = OLD.id;
END""",
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
        """
CREATE TRIGGER user_visits_numbered INSTEAD OF INSERT ON user_visits WHEN NEW.id IS NOT NULL
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        *(
            f"ALTER TABLE user_agents ADD COLUMN {column} TEXT"
            for column in ("class", "rule", "browser", "system", "device")
        ),
        "CREATE INDEX user_agents_undecided ON user_agents (id) WHERE class IS NULL",
    ),
    3: (
        "DROP TRIGGER visits_deleted",
        """
CREATE TRIGGER visits_deleted AFTER DELETE ON visits
WHEN OLD.id > coalesce((SELECT max(id) FROM visits), 0)
OR OLD.timestamp >= coalesce((SELECT value FROM settings WHERE name = 'floor'), 0)
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        """
CREATE TRIGGER user_agents_classified AFTER UPDATE OF class ON user_agents
WHEN OLD.class IS NOT NEW.class
AND OLD.id <= coalesce((SELECT value FROM settings WHERE name = 'counted_agent_id'), 0)
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        """
CREATE TRIGGER user_agents_deleted AFTER DELETE ON user_agents
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        """
CREATE TRIGGER endpoints_updated AFTER UPDATE ON endpoints
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END""",
        "CREATE TABLE classes (id INTEGER PRIMARY KEY, class TEXT NOT NULL UNIQUE)",
        "INSERT INTO classes (id, class) VALUES (1, 'empty'), (2, 'unknown')",
        """
CREATE TABLE calendar (
    slot INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,
    day INTEGER NOT NULL,
    week INTEGER NOT NULL,
    month INTEGER NOT NULL
)""",
        """
CREATE TABLE visitors (
    user_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    PRIMARY KEY (user_id, class_id)
) WITHOUT ROWID""",
        """
CREATE TABLE pairs (
    user_id INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last_hour INTEGER NOT NULL,
    PRIMARY KEY (user_id, endpoint_id, class_id)
) WITHOUT ROWID""",
        """
CREATE TABLE totals (
    level INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    users_hour INTEGER NOT NULL,  -- whose last visit within an hour lies here
    users_day INTEGER NOT NULL,
    users_week INTEGER NOT NULL,
    users_month INTEGER NOT NULL,
    users INTEGER NOT NULL,  -- whose last visit of all lies here
    endpoints INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (level, bucket, class_id)
) WITHOUT ROWID""",
        """
CREATE TABLE hits (
    level INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    users INTEGER NOT NULL,  -- whose last visit of the endpoint lies here; of weeks 0
    first INTEGER,  -- of days and months: timestamps
    last INTEGER,
    PRIMARY KEY (level, bucket, endpoint_id, class_id)
) WITHOUT ROWID""",
        """
CREATE TABLE outcomes (
    day INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    status_class INTEGER NOT NULL,  -- 2 for 200 to 299, 0 where there is no status
    latency INTEGER NOT NULL,  -- the number of a bucket of outcomes.py
    hits INTEGER NOT NULL,
    PRIMARY KEY (day, endpoint_id, status_class, latency)
) WITHOUT ROWID""",
    ),
    4: (
        """
CREATE TABLE latest (
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last INTEGER,  -- timestamp
    PRIMARY KEY (endpoint_id, class_id)
) WITHOUT ROWID""",
        "DROP TABLE totals",
        """
CREATE TABLE totals (
    level INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    users_hour INTEGER NOT NULL,  -- whose last visit within an hour lies here
    users_day INTEGER NOT NULL,
    users_week INTEGER NOT NULL,
    users_month INTEGER NOT NULL,
    users INTEGER NOT NULL,  -- whose last visit of all lies here
    endpoints INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (level, class_id, bucket)
) WITHOUT ROWID""",
        "DROP TABLE hits",
        """
CREATE TABLE hits (
    level INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    users INTEGER NOT NULL,  -- whose last visit of the endpoint lies here; of weeks 0
    first INTEGER,  -- of days and months: timestamps
    last INTEGER,
    PRIMARY KEY (level, class_id, bucket, endpoint_id)
) WITHOUT ROWID""",
        # All is counted anew.
        "UPDATE settings SET value = value + 1 WHERE name = 'changes'",
    ),
    5: (
        "DROP TABLE pairs",
        """
CREATE TABLE pairs (
    user_id INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    PRIMARY KEY (user_id, endpoint_id, class_id)
) WITHOUT ROWID""",
        "DROP TABLE hits",
        """
CREATE TABLE hits (
    level INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    hits INTEGER NOT NULL,
    users INTEGER NOT NULL,  -- whose last visit of the endpoint lies here; of weeks 0
    first INTEGER,  -- of days and months: timestamps
    last INTEGER,
    hits_1 INTEGER NOT NULL DEFAULT 0,  -- of hours: those from its second slot on, third, fourth
    hits_2 INTEGER NOT NULL DEFAULT 0,
    hits_3 INTEGER NOT NULL DEFAULT 0,
    users_1 INTEGER NOT NULL DEFAULT 0,
    users_2 INTEGER NOT NULL DEFAULT 0,
    users_3 INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (level, class_id, bucket, endpoint_id)
) WITHOUT ROWID""",
        """
CREATE TRIGGER visits_last_deleted AFTER DELETE ON visits
WHEN OLD.id > coalesce((SELECT max(id) FROM visits), 0)
BEGIN
    UPDATE settings
    SET value = min(value, coalesce((SELECT max(id) FROM visits), -9223372036854775808))
    WHERE name = 'measured_id';
END""",
        "DROP TABLE outcomes",
        """
CREATE TABLE outcomes (
    level INTEGER NOT NULL,  -- days and months
    bucket INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,  -- 0: all
    status_class INTEGER NOT NULL,  -- 2 for 200 to 299, 0 where there is no status
    latency INTEGER NOT NULL,  -- the number of a bucket of latency.py, -1 where none is known
    hits INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (level, bucket, endpoint_id, status_class, latency)
) WITHOUT ROWID""",
        "UPDATE settings SET value = value + 1 WHERE name = 'changes'",
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
