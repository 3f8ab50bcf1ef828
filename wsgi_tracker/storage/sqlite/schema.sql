-- One narrow row per visit; every string once. The view user_visits shows it as text.

CREATE TABLE settings (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT INTO settings (name, value) VALUES ('changes', 0);

CREATE TABLE endpoints (
    id INTEGER PRIMARY KEY,
    endpoint TEXT NOT NULL,
    method TEXT NOT NULL,
    UNIQUE (endpoint, method)
);
CREATE TABLE users (id INTEGER PRIMARY KEY, user_hash TEXT NOT NULL UNIQUE);
CREATE TABLE user_agents (id INTEGER PRIMARY KEY, user_agent TEXT NOT NULL UNIQUE, class TEXT,
    rule TEXT, browser TEXT, system TEXT, device TEXT);
-- Those whose class is not decided yet.
CREATE INDEX user_agents_undecided ON user_agents (id) WHERE class IS NULL;
CREATE TABLE ip_addresses (id INTEGER PRIMARY KEY, ip_address TEXT NOT NULL UNIQUE);
CREATE TABLE referers (id INTEGER PRIMARY KEY, referer TEXT NOT NULL UNIQUE);
CREATE TABLE paths (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE hosts (id INTEGER PRIMARY KEY, host TEXT NOT NULL UNIQUE);

CREATE TABLE visits (
    id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,  -- microseconds since 1970-01-01, UTC
    endpoint_id INTEGER NOT NULL REFERENCES endpoints,
    user_id INTEGER REFERENCES users,  -- NULL: only the hit counts
    path_id INTEGER REFERENCES paths,  -- NULL: the endpoint
    status INTEGER,
    duration_us INTEGER,
    first_byte_us INTEGER,
    bytes_sent INTEGER,
    error TEXT,
    ip_address_id INTEGER REFERENCES ip_addresses,
    user_agent_id INTEGER REFERENCES user_agents,
    referer_id INTEGER REFERENCES referers,
    host_id INTEGER REFERENCES hosts
);
CREATE INDEX visits_timestamp ON visits (timestamp, endpoint_id, user_id);
CREATE INDEX visits_endpoint ON visits (endpoint_id, timestamp);
CREATE INDEX visits_user ON visits (user_id, timestamp);

-- 'changes' grows whenever visits are other than they were, or have another class or endpoint, what
-- is below the floor excepted, or the next one may get an id that was in use: whoever reads visits in
-- ranges of ids, or has counted them, learns that way if what it knows still holds.
CREATE TRIGGER visits_deleted AFTER DELETE ON visits
WHEN OLD.id > coalesce((SELECT max(id) FROM visits), 0)
OR OLD.timestamp >= coalesce((SELECT value FROM settings WHERE name = 'floor'), 0)
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;
-- Ids of visits that were the last are given again: what gets one is new to who measures visits.
CREATE TRIGGER visits_last_deleted AFTER DELETE ON visits
WHEN OLD.id > coalesce((SELECT max(id) FROM visits), 0)
BEGIN
    UPDATE settings
    SET value = min(value, coalesce((SELECT max(id) FROM visits), -9223372036854775808))
    WHERE name = 'measured_id';
END;
CREATE TRIGGER visits_updated AFTER UPDATE ON visits
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;
CREATE TRIGGER user_agents_classified AFTER UPDATE OF class ON user_agents
WHEN OLD.class IS NOT NEW.class
AND OLD.id <= coalesce((SELECT value FROM settings WHERE name = 'counted_agent_id'), 0)
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;
CREATE TRIGGER user_agents_deleted AFTER DELETE ON user_agents
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;
CREATE TRIGGER endpoints_updated AFTER UPDATE ON endpoints
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;

-- How far each spool segment is stored, and since when it needs no more reading.
CREATE TABLE segments (
    id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    finished_at INTEGER  -- seconds since 1970-01-01
) WITHOUT ROWID;

-- recorded, dropped, torn, rejected, ignored: since the database was made, whatever was purged.
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- Counters of visits, for reports over many of them: counters.py tells how they work, and may make
-- them anew at any time. Buckets are known by their first slot of 15 minutes since 1970, UTC.
-- Levels: 0 slots, 1 hours, 2 days, 3 weeks, 4 months. Class 0 is all visitors.
CREATE TABLE classes (id INTEGER PRIMARY KEY, class TEXT NOT NULL UNIQUE);
INSERT INTO classes (id, class) VALUES (1, 'empty'), (2, 'unknown');
CREATE TABLE calendar (
    slot INTEGER PRIMARY KEY,
    hour INTEGER NOT NULL,
    day INTEGER NOT NULL,
    week INTEGER NOT NULL,
    month INTEGER NOT NULL
);
CREATE TABLE visitors (
    user_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    PRIMARY KEY (user_id, class_id)
) WITHOUT ROWID;
CREATE TABLE pairs (
    user_id INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    PRIMARY KEY (user_id, endpoint_id, class_id)
) WITHOUT ROWID;
CREATE TABLE latest (
    endpoint_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    last INTEGER,  -- timestamp
    PRIMARY KEY (endpoint_id, class_id)
) WITHOUT ROWID;
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
) WITHOUT ROWID;
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
) WITHOUT ROWID;
CREATE TABLE outcomes (
    level INTEGER NOT NULL,  -- days and months
    bucket INTEGER NOT NULL,
    endpoint_id INTEGER NOT NULL,  -- 0: all
    status_class INTEGER NOT NULL,  -- 2 for 200 to 299, 0 where there is no status
    latency INTEGER NOT NULL,  -- the number of a bucket of latency.py, -1 where none is known
    hits INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (level, bucket, endpoint_id, status_class, latency)
) WITHOUT ROWID;

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
LEFT JOIN hosts ON hosts.id = visits.host_id;

-- NOT EXISTS, and no OR IGNORE: the policy of the outer statement, as in UPDATE OR REPLACE, would
-- override it, and give a string that is known another number.
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
END;

CREATE TRIGGER user_visits_delete INSTEAD OF DELETE ON user_visits
BEGIN
    DELETE FROM visits WHERE id = OLD.id;
END;

-- A change is an insertion, checked as any other, then the removal of what was, whose id it takes.
-- The other way round UPDATE OR FAIL, or OR IGNORE, would lose a visit that is given an id in use:
-- they leave the removal done. A new text timestamp wins over the microseconds that stand beside
-- it, and a new endpoint takes a path that was its own along.
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
END;

-- As above: such a visit may stand before others that are there.
CREATE TRIGGER user_visits_numbered INSTEAD OF INSERT ON user_visits WHEN NEW.id IS NOT NULL
BEGIN
    UPDATE settings SET value = value + 1 WHERE name = 'changes';
END;
