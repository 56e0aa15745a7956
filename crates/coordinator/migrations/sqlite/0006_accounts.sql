-- Users who are admins too. The password is kept as argon2id makes it of it, in the PHC format.
CREATE TABLE accounts (
    user_id       INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    password_hash TEXT    NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;

-- Only the hash of a token's secret is kept. A token with an account came of a log-in, and goes
-- with the account. The scopes are separated by spaces.
CREATE TABLE admin_tokens (
    id           TEXT    NOT NULL PRIMARY KEY,
    secret_hash  TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL,
    account      INTEGER REFERENCES accounts (user_id) ON DELETE CASCADE,
    created_by   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT, WITHOUT ROWID;

-- One row or none: the code with which the first admin is made. Only its hash is kept.
CREATE TABLE setup_code (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    code_hash  TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
