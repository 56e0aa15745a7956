//! A PostgreSQL server without room: the coordinator says so, changes nothing, and goes on when
//! there is room again.

use crate::{postgres, server::TestServer};
use sqlx::{Connection, PgConnection};
use weir_coordinator::store::Database;

/// What the server says when a file cannot grow, at the end of a change: later than any statement,
/// and so with the most to undo.
const FULL: [&str; 2] = [
    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; \
     END $$",
    "CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED \
     FOR EACH ROW EXECUTE FUNCTION full_disk()",
];
/// More than the coordinator has connections.
const TIMES: usize = 20;

#[tokio::test]
async fn a_full_postgresql_is_named_and_changes_nothing() {
    let database = postgres::database().await;
    let Database::Postgres(options) = &database else {
        panic!("it is a server");
    };
    let mut admin = PgConnection::connect_with(options).await.unwrap();
    let server = TestServer::start_on(database.clone()).await;
    server.json(&["users", "create", "before"]).await;
    let entries = server.json(&["audit", "verify"]).await["entries"].clone();
    for statement in FULL {
        sqlx::query(statement).execute(&mut admin).await.unwrap();
    }
    for number in 0..TIMES {
        let name = format!("user-{number}");
        let said = server.refused(&["users", "create", &name]).await;
        assert!(said.contains("disk is full"), "{said}");
        assert!(said.contains("nothing was changed"), "{said}");
    }
    // No connection is left in the middle of anything, and reading goes on.
    let users = server.json(&["users", "list"]).await;
    assert!(!users.to_string().contains("user-"), "{users}");
    assert_eq!(server.json(&["audit", "verify"]).await["entries"], entries);
    sqlx::query("DROP TRIGGER full_disk ON users")
        .execute(&mut admin)
        .await
        .unwrap();
    server.json(&["users", "create", "after"]).await;
    let entries = entries.as_u64().unwrap() + 1;
    assert_eq!(server.json(&["audit", "verify"]).await["entries"], entries);
}
