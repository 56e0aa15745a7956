-- For several coordinators on one database. A SQLite file has one coordinator, and these stay
-- empty; they exist so that a number of the schema means the same in both kinds of database.

CREATE TABLE coordinators (
    id      TEXT    NOT NULL PRIMARY KEY,
    url     TEXT    NOT NULL,
    pin     TEXT    NOT NULL,
    -- By the clock of the database, which all share.
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which node is connected to which coordinator.
CREATE TABLE streams (
    coordinator TEXT    NOT NULL REFERENCES coordinators (id) ON DELETE CASCADE,
    node_id     INTEGER NOT NULL,
    PRIMARY KEY (coordinator, node_id)
) STRICT, WITHOUT ROWID;

-- Nodes that cannot be expected to carry traffic, as the leading coordinator judges.
CREATE TABLE absent_nodes (
    node_id INTEGER PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE
) STRICT;

-- One row: how often the lead has changed.
CREATE TABLE leadership (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO leadership (one, epoch) VALUES (1, 0);

-- The revision of the network that the newest maps were made of.
ALTER TABLE newest_generation ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;

CREATE INDEX maps_generation ON maps (generation);
