-- Where a change came from, and the hash that ties each entry to the one before it. Entries of
-- before are tied together when the database is next opened.
ALTER TABLE audit ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN hash   TEXT NOT NULL DEFAULT '';

-- One row: the newest entry, so that missing ones are noticed at the end too.
CREATE TABLE audit_head (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    id   INTEGER NOT NULL,
    hash TEXT    NOT NULL
) STRICT;

-- One row: how often what network maps are made of has changed.
CREATE TABLE revision (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO revision (one, number) VALUES (1, 0);
