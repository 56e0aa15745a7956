-- The relay that each subnet route was last reached through: it stays primary while it is healthy.
CREATE TABLE primaries (
    prefix  TEXT    NOT NULL PRIMARY KEY,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE
) STRICT;

-- Agents say what they hold, so that nobody needs to remember it for them.
DROP TABLE maps;
