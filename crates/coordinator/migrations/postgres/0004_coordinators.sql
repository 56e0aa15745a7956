-- For several coordinators on one database.

CREATE TABLE coordinators (
    id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    url     TEXT   NOT NULL,
    pin     TEXT   NOT NULL,
    -- By the clock of the database, which all share.
    seen_at BIGINT NOT NULL
);

-- Which node is connected to which coordinator.
CREATE TABLE streams (
    coordinator TEXT COLLATE "C" NOT NULL REFERENCES coordinators (id) ON DELETE CASCADE,
    node_id     BIGINT NOT NULL,
    PRIMARY KEY (coordinator, node_id)
);

-- Nodes that cannot be expected to carry traffic, as the leading coordinator judges.
CREATE TABLE absent_nodes (
    node_id BIGINT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE
);

-- One row: how often the lead has changed.
CREATE TABLE leadership (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    epoch BIGINT NOT NULL
);
INSERT INTO leadership (one, epoch) VALUES (1, 0);

-- The revision of the network that the newest maps were made of.
ALTER TABLE newest_generation ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

CREATE INDEX maps_generation ON maps (generation);
