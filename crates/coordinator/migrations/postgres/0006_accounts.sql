-- Users who are admins too. The password is kept as argon2id makes it of it, in the PHC format.
CREATE TABLE accounts (
    user_id       BIGINT  PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    password_hash TEXT    NOT NULL,
    created_at    BIGINT  NOT NULL
);

-- Only the hash of a token's secret is kept. A token with an account came of a log-in, and goes
-- with the account. The scopes are separated by spaces.
CREATE TABLE admin_tokens (
    id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    secret_hash  TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL,
    account      BIGINT  REFERENCES accounts (user_id) ON DELETE CASCADE,
    created_by   TEXT    NOT NULL,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT  NOT NULL,
    last_used_at BIGINT,
    revoked_at   BIGINT
);

-- One row or none: the code with which the first admin is made. Only its hash is kept.
CREATE TABLE setup_code (
    one        BIGINT PRIMARY KEY CHECK (one = 1),
    code_hash  TEXT    NOT NULL,
    expires_at BIGINT  NOT NULL
);
