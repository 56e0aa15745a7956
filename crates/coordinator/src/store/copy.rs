//! Rows from one database to another, of whichever kind.

use super::{
    StoreError, Tx,
    dialect::{Inner, execute},
};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, ColumnIndex, Database, Decode, Row, Type};

/// What a column holds; any may be null.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Text,
    /// A number in SQLite.
    Boolean,
}

enum Value {
    Integer(Option<i64>),
    Text(Option<String>),
    Boolean(Option<bool>),
}

/// A table that a backup holds.
pub(super) struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
}

use Kind::{Boolean, Integer, Text};

/// What a network consists of: a table comes after those that it refers to. Not among them is what
/// only the running coordinators need: revision, accepted signatures and machines that wait.
pub(super) const TABLES: &[Table] = &[
    Table {
        name: "users",
        columns: &[("id", Integer), ("name", Text), ("created_at", Integer)],
    },
    Table {
        name: "auth_keys",
        columns: &[
            ("id", Text),
            ("secret_hash", Text),
            ("user_id", Integer),
            ("reusable", Boolean),
            ("ephemeral", Boolean),
            ("created_at", Integer),
            ("expires_at", Integer),
            ("uses", Integer),
            ("revoked_at", Integer),
            ("node_life", Integer),
        ],
    },
    Table {
        name: "auth_key_tags",
        columns: &[("key_id", Text), ("tag", Text)],
    },
    Table {
        name: "accounts",
        columns: &[
            ("user_id", Integer),
            ("password_hash", Text),
            ("created_at", Integer),
        ],
    },
    Table {
        name: "admin_tokens",
        columns: &[
            ("id", Text),
            ("secret_hash", Text),
            ("name", Text),
            ("scopes", Text),
            ("account", Integer),
            ("created_by", Text),
            ("created_at", Integer),
            ("expires_at", Integer),
            ("last_used_at", Integer),
            ("revoked_at", Integer),
        ],
    },
    Table {
        name: "nodes",
        columns: &[
            ("id", Integer),
            ("machine_key", Text),
            ("node_key", Text),
            ("name", Text),
            ("named_by_admin", Boolean),
            ("user_id", Integer),
            ("ephemeral", Boolean),
            ("ipv4", Text),
            ("ipv6", Text),
            ("hostname", Text),
            ("version", Text),
            ("os", Text),
            ("listen_port", Integer),
            ("host_addresses", Text),
            ("fixed_endpoint", Text),
            ("observed_address", Text),
            ("created_at", Integer),
            ("last_seen_at", Integer),
            ("reported_generation", Integer),
            ("reported_failures", Text),
            ("key_expires_at", Integer),
        ],
    },
    Table {
        name: "revoked_machines",
        columns: &[
            ("machine_key", Text),
            ("name", Text),
            ("revoked_at", Integer),
        ],
    },
    Table {
        name: "node_tags",
        columns: &[("node_id", Integer), ("tag", Text)],
    },
    Table {
        name: "routes",
        columns: &[
            ("node_id", Integer),
            ("prefix", Text),
            ("advertised", Boolean),
            ("decision", Text),
            ("decided_at", Integer),
        ],
    },
    Table {
        name: "route_egress",
        columns: &[
            ("node_id", Integer),
            ("prefix", Text),
            ("selector", Text),
            ("address", Text),
            ("chosen_at", Integer),
        ],
    },
    Table {
        name: "policies",
        columns: &[
            ("revision", Integer),
            ("text", Text),
            ("saved_at", Integer),
            ("saved_by", Text),
            ("note", Text),
        ],
    },
    Table {
        name: "newest_generation",
        // A reserved word in PostgreSQL.
        columns: &[("\"only\"", Integer), ("generation", Integer)],
    },
    Table {
        name: "primaries",
        columns: &[("prefix", Text), ("node_id", Integer)],
    },
    Table {
        name: "audit",
        columns: &[
            ("id", Integer),
            ("at", Integer),
            ("actor", Text),
            ("origin", Text),
            ("action", Text),
            ("subject", Text),
            ("before", Text),
            ("after", Text),
            ("hash", Text),
        ],
    },
    Table {
        name: "audit_head",
        columns: &[("one", Integer), ("id", Integer), ("hash", Text)],
    },
];

/// Deletes all rows.
pub(super) async fn empty(tx: &mut Tx, table: &Table) -> Result<(), StoreError> {
    let statement = format!("DELETE FROM {}", table.name);
    execute!(tx, "empty a table", AssertSqlSafe(statement.as_str()))?;
    Ok(())
}

/// Copies all rows, one after the other: a table need not fit into memory.
pub(super) async fn copy(from: &mut Tx, to: &mut Tx, table: &Table) -> Result<(), StoreError> {
    let names: Vec<_> = table.columns.iter().map(|(name, _)| *name).collect();
    let places: Vec<_> = (1..=names.len()).map(|place| format!("${place}")).collect();
    let select = format!("SELECT {} FROM {}", names.join(", "), table.name);
    let insert = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        table.name,
        names.join(", "),
        places.join(", ")
    );
    let failed = || StoreError::doing("read a table to copy it");
    match &mut from.inner {
        Inner::Sqlite(inner) => {
            let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(&mut **inner);
            while let Some(row) = rows.try_next().await.map_err(failed())? {
                put(to, &insert, values(&row, table).map_err(failed())?).await?;
            }
        }
        Inner::Postgres(inner) => {
            let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(&mut **inner);
            while let Some(row) = rows.try_next().await.map_err(failed())? {
                put(to, &insert, values(&row, table).map_err(failed())?).await?;
            }
        }
    }
    Ok(())
}

fn values<'a, R: Row>(row: &'a R, table: &Table) -> Result<Vec<Value>, sqlx::Error>
where
    usize: ColumnIndex<R>,
    i64: Decode<'a, R::Database> + Type<R::Database>,
    bool: Decode<'a, R::Database> + Type<R::Database>,
    String: Decode<'a, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    let columns = table.columns.iter().enumerate();
    columns
        .map(|(place, (_, kind))| match kind {
            Integer => row.try_get(place).map(Value::Integer),
            Text => row.try_get(place).map(Value::Text),
            Boolean => row.try_get(place).map(Value::Boolean),
        })
        .collect()
}

async fn put(to: &mut Tx, insert: &str, values: Vec<Value>) -> Result<(), StoreError> {
    macro_rules! insert_into {
        ($inner:expr) => {{
            let mut query = sqlx::query(AssertSqlSafe(insert));
            for value in values {
                query = match value {
                    Value::Integer(value) => query.bind(value),
                    Value::Text(value) => query.bind(value),
                    Value::Boolean(value) => query.bind(value),
                };
            }
            query.execute(&mut **$inner).await.map(drop)
        }};
    }
    match &mut to.inner {
        Inner::Sqlite(inner) => insert_into!(inner),
        Inner::Postgres(inner) => insert_into!(inner),
    }
    .map_err(StoreError::doing("copy a row"))
}
