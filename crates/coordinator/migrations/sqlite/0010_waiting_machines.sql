-- Machines that ask to be let in by an admin: one row each, for some minutes. What a code stands for
-- never changes; a machine that asks for something else gets another one.
CREATE TABLE waiting_machines (
    machine_key TEXT    NOT NULL PRIMARY KEY,
    code        TEXT    NOT NULL UNIQUE,
    node_key    TEXT    NOT NULL,
    tags        TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    address     TEXT    NOT NULL,
    -- What is counted together: an IPv4 address, or the /64 of an IPv6 address.
    source      TEXT    NOT NULL,
    asked_at    INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    denied_at   INTEGER
) STRICT, WITHOUT ROWID;
