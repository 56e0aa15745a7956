-- Until when a node's key is good, in seconds since 1970; null for one that is good for ever. Then
-- for how many seconds the keys of nodes that an auth key lets in are good.
ALTER TABLE nodes ADD COLUMN key_expires_at INTEGER;
ALTER TABLE auth_keys ADD COLUMN node_life INTEGER;

-- Machines that are never let in again, and what they were called.
CREATE TABLE revoked_machines (
    machine_key TEXT    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    revoked_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: up to when accepted signatures may have been forgotten. One that is as old as that is
-- not accepted, whatever the clock says: it was set back.
CREATE TABLE forgotten_signatures (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    forgotten  INTEGER NOT NULL
) STRICT;
INSERT INTO forgotten_signatures (one, forgotten) VALUES (1, 0);
