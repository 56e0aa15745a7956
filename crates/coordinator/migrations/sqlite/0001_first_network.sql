-- Times are seconds since 1970, UTC. Keys, addresses, prefixes and tags are text in the form that
-- people read, so that the database can be looked at with the sqlite3 shell.

CREATE TABLE users (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE COLLATE NOCASE,
    created_at INTEGER NOT NULL
) STRICT;

-- Only the hash of a key's secret is kept. A key belongs to a user or carries tags.
CREATE TABLE auth_keys (
    id          TEXT    NOT NULL PRIMARY KEY,
    secret_hash TEXT    NOT NULL,
    user_id     INTEGER REFERENCES users (id) ON DELETE CASCADE,
    reusable    INTEGER NOT NULL CHECK (reusable IN (0, 1)),
    ephemeral   INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    uses        INTEGER NOT NULL DEFAULT 0 CHECK (reusable = 1 OR uses <= 1),
    revoked_at  INTEGER
) STRICT;

CREATE TABLE auth_key_tags (
    key_id TEXT NOT NULL REFERENCES auth_keys (id) ON DELETE CASCADE,
    tag    TEXT NOT NULL,
    PRIMARY KEY (key_id, tag)
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    machine_key      TEXT    NOT NULL UNIQUE,
    node_key         TEXT    NOT NULL UNIQUE,
    name             TEXT    NOT NULL UNIQUE,
    named_by_admin   INTEGER NOT NULL DEFAULT 0 CHECK (named_by_admin IN (0, 1)),
    user_id          INTEGER REFERENCES users (id) ON DELETE RESTRICT,
    ephemeral        INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
    ipv4             TEXT    NOT NULL UNIQUE,
    ipv6             TEXT    NOT NULL UNIQUE,
    hostname         TEXT    NOT NULL,
    version          TEXT    NOT NULL,
    os               TEXT    NOT NULL,
    listen_port      INTEGER NOT NULL,
    -- A JSON list of the host's own addresses: read and written whole.
    host_addresses   TEXT    NOT NULL,
    fixed_endpoint   TEXT,
    observed_address TEXT,
    created_at       INTEGER NOT NULL,
    last_seen_at     INTEGER NOT NULL,
    -- What the agent said it has applied, and a JSON list of what it could not do.
    reported_generation INTEGER,
    reported_failures   TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE TABLE node_tags (
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    tag     TEXT    NOT NULL,
    PRIMARY KEY (node_id, tag)
) STRICT, WITHOUT ROWID;

-- A row exists while the route is advertised or somebody has decided about it: a decision outlives
-- a withdrawal, so that a relay that comes back need not be approved again.
CREATE TABLE routes (
    node_id    INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    prefix     TEXT    NOT NULL,
    advertised INTEGER NOT NULL CHECK (advertised IN (0, 1)),
    decision   TEXT    CHECK (decision IN ('approved', 'rejected')),
    decided_at INTEGER,
    PRIMARY KEY (node_id, prefix)
) STRICT, WITHOUT ROWID;

CREATE TABLE policies (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    text     TEXT    NOT NULL,
    saved_at INTEGER NOT NULL,
    saved_by TEXT    NOT NULL
) STRICT;

-- One row: the newest generation that any map has.
CREATE TABLE newest_generation (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    generation INTEGER NOT NULL
) STRICT;
INSERT INTO newest_generation (only, generation) VALUES (1, 0);

-- The number and content of the newest map of each node: a restart gives no new numbers.
CREATE TABLE maps (
    node_id    INTEGER PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    digest     TEXT    NOT NULL
) STRICT;

-- Signatures that were accepted lately: none is accepted twice, not even across a restart.
CREATE TABLE accepted_signatures (
    machine_key TEXT    NOT NULL,
    nonce       TEXT    NOT NULL,
    forget_at   INTEGER NOT NULL,
    PRIMARY KEY (machine_key, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX accepted_signatures_forget_at ON accepted_signatures (forget_at);

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    -- JSON; null where there was nothing before, or is nothing after.
    before  TEXT,
    after   TEXT
) STRICT;
