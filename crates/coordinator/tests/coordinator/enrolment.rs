//! Who gets in, as what, and who does not.

use crate::{agent::Agent, server::TestServer};
use sqlx::{Connection, SqliteConnection};
use weir_protocol::{ErrorCode, REGISTER_PATH, RegisterResponse};

#[tokio::test]
async fn a_machine_joins_and_keeps_its_place() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "relay.example.com");
    let joined = agent.join(&server.key("alice").await).await.unwrap();
    assert!(joined.enrolled);
    assert_eq!(joined.name.as_str(), "relay");
    let addresses: Vec<_> = joined.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["100.64.0.1", "fd77:6569:7200::1"]);

    let request = agent.join_request(None, &[]);
    let again: RegisterResponse = agent.call(REGISTER_PATH, &request).await.unwrap();
    assert!(!again.enrolled);
    assert_eq!(
        (again.node_id, again.addresses),
        (joined.node_id, joined.addresses)
    );
}

#[tokio::test]
async fn equal_host_names_get_a_number_and_gaps_in_the_overlay_are_filled() {
    let server = TestServer::start().await;
    server.key("alice").await;
    let key = server.key_with(&["--user", "alice", "--reusable"]).await;
    for (name, address) in [("relay", "100.64.0.1"), ("relay-2", "100.64.0.2")] {
        let joined = Agent::new(&server, "relay").join(&key).await.unwrap();
        assert_eq!(joined.name.as_str(), name);
        assert!(joined.addresses.contains(&address.parse().unwrap()));
    }
    server.json(&["nodes", "delete", "relay"]).await;
    let joined = Agent::new(&server, "third").join(&key).await.unwrap();
    assert!(joined.addresses.contains(&"100.64.0.1".parse().unwrap()));
    assert_eq!(joined.node_id.0, 3, "ids are never used again");
}

#[tokio::test]
async fn a_one_off_key_works_once() {
    let server = TestServer::start().await;
    let key = server.key("alice").await;
    let first = Agent::new(&server, "first");
    first.join(&key).await.unwrap();
    let refused = Agent::new(&server, "second").join(&key).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UsedAuthKey);
    assert!(
        refused.detail.contains("coordinator keys create"),
        "{refused}"
    );
    // The machine that used it may come back with it: its agent keeps it in its settings.
    assert!(!first.join(&key).await.unwrap().enrolled);
}

#[tokio::test]
async fn of_many_machines_with_one_key_exactly_one_wins() {
    let server = TestServer::start().await;
    let key = server.key("alice").await;
    let agents: Vec<_> = (0..8)
        .map(|number| Agent::new(&server, &format!("node-{number}")))
        .collect();
    let joins = agents.iter().map(|agent| agent.join(&key));
    let results = futures_util::future::join_all(joins).await;
    let joined = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(joined, 1);
    for refused in results.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code, ErrorCode::UsedAuthKey);
    }
    assert_eq!(
        server
            .json(&["nodes", "list"])
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_failed_join_does_not_use_the_key_up() {
    let server = TestServer::start().await;
    let key = server.key("alice").await;
    let bad = Agent::new(&server, "relay").advertising("127.0.0.0/8");
    let refused = bad.join(&key).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRoute);
    let thief = Agent::new(&server, "thief");
    let request = thief.join_request(Some(&key), &["tag:prod"]);
    let refused = thief
        .call::<_, RegisterResponse>(REGISTER_PATH, &request)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::TagNotAllowed);
    Agent::new(&server, "good").join(&key).await.unwrap();
}

#[tokio::test]
async fn unknown_expired_and_revoked_keys_are_told_apart() {
    let server = TestServer::start().await;
    let agent = Agent::new(&server, "laptop");
    let key = server.key("alice").await;
    let wrong_secret = {
        let mut parts: Vec<_> = key.split('-').map(str::to_owned).collect();
        parts[3] = "0".repeat(32);
        parts.join("-")
    };
    for text in [wrong_secret.as_str(), "tskey-auth-x"] {
        let refused = agent.join(text).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::UnknownAuthKey);
    }

    let expired = server.key("alice").await;
    let database = server.directory.path().join("state/coordinator.db");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", database.display()))
        .await
        .unwrap();
    let id = expired.split('-').nth(2).unwrap();
    sqlx::query("UPDATE auth_keys SET expires_at = created_at WHERE id = ?")
        .bind(id)
        .execute(&mut connection)
        .await
        .unwrap();
    let refused = agent.join(&expired).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ExpiredAuthKey);

    server
        .json(&["keys", "revoke", key.split('-').nth(2).unwrap()])
        .await;
    let refused = agent.join(&key).await.unwrap_err();
    assert!(refused.detail.contains("revoked"), "{refused}");

    let request = agent.join_request(None, &[]);
    let refused = agent
        .call::<_, RegisterResponse>(REGISTER_PATH, &request)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotEnrolled);
}

#[tokio::test]
async fn a_wireguard_key_belongs_to_one_machine() {
    let server = TestServer::start().await;
    server.key("alice").await;
    let key = server.key_with(&["--user", "alice", "--reusable"]).await;
    let first = Agent::new(&server, "first");
    first.join(&key).await.unwrap();
    let mut copy = Agent::new(&server, "copy");
    copy.node_key = first.node_key;
    let refused = copy.join(&key).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.detail.contains("first"), "{refused}");
    // Who has no key does not learn whose it is.
    let refused = copy.join("weir-key-x").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnknownAuthKey);
}

#[tokio::test]
async fn tags_come_from_the_key_or_from_tag_owners() {
    let server = TestServer::start().await;
    server
        .set_policy(r#"{"tagOwners": {"tag:build": ["alice@"]}, "acls": []}"#)
        .await;
    let tagged = server.key_with(&["--tags", "tag:relay"]).await;
    Agent::new(&server, "relay").join(&tagged).await.unwrap();
    let relay = server.json(&["nodes", "show", "relay"]).await;
    assert_eq!(
        (&relay["tags"][0], &relay["user"]),
        (&"tag:relay".into(), &().into())
    );

    for (user, works) in [("alice", true), ("bob", false)] {
        let agent = Agent::new(&server, user);
        let request = agent.join_request(Some(&server.key(user).await), &["tag:build"]);
        let joined = agent
            .call::<_, RegisterResponse>(REGISTER_PATH, &request)
            .await;
        assert_eq!(joined.is_ok(), works, "{user}");
    }
    let build = server.json(&["nodes", "show", "alice"]).await;
    assert_eq!(
        (&build["tags"][0], &build["user"]),
        (&"tag:build".into(), &().into())
    );
}
