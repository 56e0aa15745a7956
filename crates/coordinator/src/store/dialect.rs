//! SQLite and PostgreSQL behind one transaction. Each statement is written once, in the SQL that
//! both understand, with `$1` for its first parameter; these macros run it on whichever it is.

use sqlx::{Postgres, Sqlite, Transaction};

/// An open transaction of either.
pub(super) enum Inner {
    /// Of a file.
    Sqlite(Transaction<'static, Sqlite>),
    /// Of a server.
    Postgres(Transaction<'static, Postgres>),
}

impl Inner {
    /// Makes the change last.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(inner) => inner.commit().await,
            Self::Postgres(inner) => inner.commit().await,
        }
    }

    /// Undoes the change.
    #[cfg(test)]
    pub(super) async fn roll_back(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(inner) => inner.rollback().await,
            Self::Postgres(inner) => inner.rollback().await,
        }
    }
}

/// Runs `$method` of a query on either database. `$doing` names it in an error.
macro_rules! on_either {
    ($tx:expr, $doing:expr, $kind:ident, $method:ident, $sql:expr, $($value:expr),*) => {
        match &mut $tx.inner {
            $crate::store::dialect::Inner::Sqlite(inner) => {
                sqlx::$kind($sql)$(.bind($value))*.$method(&mut **inner).await
            }
            $crate::store::dialect::Inner::Postgres(inner) => {
                sqlx::$kind($sql)$(.bind($value))*.$method(&mut **inner).await
            }
        }
        .map_err($crate::store::StoreError::doing($doing))
    };
}

/// Changes rows, and gives how many.
macro_rules! execute {
    ($tx:expr, $doing:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        match &mut $tx.inner {
            $crate::store::dialect::Inner::Sqlite(inner) => sqlx::query($sql)
                $(.bind($value))*
                .execute(&mut **inner)
                .await
                .map(|done| done.rows_affected()),
            $crate::store::dialect::Inner::Postgres(inner) => sqlx::query($sql)
                $(.bind($value))*
                .execute(&mut **inner)
                .await
                .map(|done| done.rows_affected()),
        }
        .map_err($crate::store::StoreError::doing($doing))
    };
}

/// All rows, as columns.
macro_rules! fetch_all {
    ($tx:expr, $doing:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::store::dialect::on_either!($tx, $doing, query_as, fetch_all, $sql, $($value),*)
    };
}

/// The one row that there is.
macro_rules! fetch_one {
    ($tx:expr, $doing:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::store::dialect::on_either!($tx, $doing, query_as, fetch_one, $sql, $($value),*)
    };
}

/// The row, when there is one.
macro_rules! fetch_optional {
    ($tx:expr, $doing:expr, $sql:expr $(, $value:expr)* $(,)?) => {
        $crate::store::dialect::on_either!($tx, $doing, query_as, fetch_optional, $sql, $($value),*)
    };
}

pub(super) use {execute, fetch_all, fetch_one, fetch_optional, on_either};
