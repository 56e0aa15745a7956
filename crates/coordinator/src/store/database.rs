//! Which database: a file, or a PostgreSQL server.

use sqlx::postgres::PgConnectOptions;
use std::{fmt, path::PathBuf, str::FromStr};

/// Where everything is stored.
#[derive(Clone)]
pub enum Database {
    /// A SQLite file.
    File(PathBuf),
    /// A database of a PostgreSQL server.
    Postgres(Box<PgConnectOptions>),
}

/// Why a text does not name a database.
#[derive(Debug, thiserror::Error)]
#[error(
    "this does not name a database: write it as postgres://USER@HOST/NAME, \
     postgres://USER@localhost/NAME?host=/run/postgresql, or leave it out for a file in the state directory"
)]
pub struct DatabaseUrlError(#[source] Option<sqlx::Error>);

impl FromStr for Database {
    type Err = DatabaseUrlError;
    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(DatabaseUrlError(None));
        }
        PgConnectOptions::from_str(text)
            .map(|options| Self::Postgres(Box::new(options)))
            .map_err(|error| DatabaseUrlError(Some(error)))
    }
}

/// Without the password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(options) => {
                let name = options.get_database().unwrap_or(options.get_username());
                match options.get_socket() {
                    Some(directory) => {
                        let user = options.get_username();
                        let directory = directory.display();
                        write!(f, "postgres://{user}@localhost/{name}?host={directory}")
                    }
                    None => write!(
                        f,
                        "postgres://{}@{}:{}/{name}",
                        options.get_username(),
                        options.get_host(),
                        options.get_port()
                    ),
                }
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_prints_without_its_password() {
        let url = "postgres://weir:s3cret@db.example.com:5433/network";
        let database: Database = url.parse().unwrap();
        assert_eq!(
            database.to_string(),
            "postgres://weir@db.example.com:5433/network"
        );
        assert!(!format!("{database:?}").contains("s3cret"));
        let socket = "postgres://weir@localhost/network?host=/run/postgresql";
        assert_eq!(socket.parse::<Database>().unwrap().to_string(), socket);
    }

    #[test]
    fn other_texts_are_refused_without_being_repeated() {
        for text in [
            "mysql://root:s3cret@db",
            "/var/lib/s3cret.db",
            "postgres://a:s3cret@b:x/c",
        ] {
            let error = text.parse::<Database>().unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("s3cret"),
                "{error:?}"
            );
        }
    }
}
