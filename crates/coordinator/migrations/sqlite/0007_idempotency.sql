-- Requests that may be sent twice and are done once. All but the number of the audit entry and the
-- answer are hashes; the answer is kept unless it shows a secret.
CREATE TABLE idempotency (
    id         TEXT    NOT NULL PRIMARY KEY,
    caller     TEXT    NOT NULL,
    request    TEXT    NOT NULL,
    audit_id   INTEGER NOT NULL,
    answer     TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_caller ON idempotency (caller, created_at);
