//! What must hold of a store, whichever database is behind it: each test here runs on SQLite and
//! on PostgreSQL.

use crate::postgres;
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};
use tempfile::TempDir;
use weir_coordinator::store::{
    Actor, AuditEntry, AuditFlaw, Changes, CoordinatorRow, Database, NewAuthKey, NewNode,
    OpenError, Store,
};
use weir_overlay::{Generation, KeyId, MachinePrivateKey, NodeId, NodePrivateKey, UserId};
use weir_protocol::{HostInfo, ItemFailure, Pin};

/// An empty store, and the way to open it once more.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) database: Database,
    pub(crate) _directory: TempDir,
}

pub(crate) async fn open(database: &Database) -> Store {
    Store::open(database).await.unwrap()
}

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            use super::*;
            async fn opened() -> Opened {
                let directory = tempfile::tempdir().unwrap();
                let database = postgres::file(directory.path());
                Opened { store: open(&database).await, database, _directory: directory }
            }
            $(#[tokio::test]
            async fn $name() {
                super::$name(opened().await).await;
            })*
        }
        mod postgresql {
            use super::*;
            async fn opened() -> Opened {
                let database = postgres::database().await;
                let directory = tempfile::tempdir().unwrap();
                Opened { store: open(&database).await, database, _directory: directory }
            }
            $(#[tokio::test]
            async fn $name() {
                super::$name(opened().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

on_both!(
    users_are_found_whatever_their_case,
    keys_come_back_as_they_were_stored,
    a_one_off_key_is_used_once,
    nodes_come_back_as_they_were_stored,
    names_keys_and_addresses_are_unique,
    what_a_deleted_node_had_goes_with_it,
    policies_are_kept_and_measured_in_bytes,
    generations_only_grow,
    a_route_has_one_primary,
    what_was_changed_is_told_once,
    only_what_maps_are_made_of_counts_as_a_change,
    a_reader_sees_one_moment,
    changes_run_one_after_the_other,
    what_is_not_committed_is_undone,
    the_audit_log_is_tied_together,
    what_is_stored_is_there_when_it_is_opened_again,
    a_damaged_value_is_named,
    who_is_connected_to_a_coordinator_that_died_is_connected_no_more,
    absent_nodes_and_what_is_numbered_are_for_all,
);

pub(crate) const NOW: i64 = 1_900_000_000;

fn key(id: &str, reusable: bool, user: Option<UserId>) -> NewAuthKey {
    NewAuthKey {
        id: KeyId(id.to_owned()),
        secret_hash: "5ec2e7".to_owned(),
        user,
        tags: ["tag:a".parse().unwrap(), "tag:b".parse().unwrap()].into(),
        reusable,
        ephemeral: true,
        created_at: NOW,
        expires_at: NOW + 60,
        node_life: Some(3600),
    }
}

pub(crate) fn node(number: u8, user: Option<UserId>) -> NewNode {
    NewNode {
        machine_key: MachinePrivateKey::from_bytes([number; 32]).public(),
        node_key: NodePrivateKey::from_bytes([number; 32]).public(),
        name: format!("node-{number}").parse().unwrap(),
        user,
        tags: ["tag:relay".parse().unwrap()].into(),
        ephemeral: false,
        ipv4: [100, 64, 0, number].into(),
        ipv6: format!("fd77:6569:7200::{number}").parse().unwrap(),
        host: HostInfo {
            hostname: "höst".to_owned(),
            version: "0.1.0".to_owned(),
            os: "Debian".to_owned(),
            listen_port: 51920,
            addresses: [IpAddr::from([192, 0, 2, number])].into(),
            endpoint: Some("[2001:db8::1]:7".parse().unwrap()),
            advertised_routes: BTreeSet::new(),
        },
        observed_address: [203, 0, 113, number].into(),
        created_at: NOW,
        key_expires_at: Some(NOW + 3600),
    }
}

pub(crate) fn prefix() -> IpNet {
    "8.8.8.0/24".parse().unwrap()
}

/// Makes one change and commits it.
macro_rules! change {
    ($store:expr, |$tx:ident| $($statement:expr);+ $(;)?) => {{
        let mut $tx: weir_coordinator::store::Tx = $store.write().await.unwrap();
        let done = ($($statement.await.unwrap()),+);
        $tx.commit().await.unwrap();
        done
    }};
}
pub(crate) use change;

async fn users_are_found_whatever_their_case(at: Opened) {
    let store = at.store;
    for name in ["bob", "Alice", "carol@example.com"] {
        change!(store, |tx| tx.insert_user(name, NOW));
    }
    let mut tx = store.read().await.unwrap();
    let names: Vec<_> = tx.users().await.unwrap();
    let names: Vec<_> = names.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["Alice", "bob", "carol@example.com"]);
    let found = tx.user("aLICE").await.unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.created_at), ("Alice", NOW));
    assert_eq!(tx.user("dave").await.unwrap(), None);
    drop(tx);
    let mut tx = store.write().await.unwrap();
    assert!(tx.insert_user("ALICE", NOW).await.is_err());
}

async fn keys_come_back_as_they_were_stored(at: Opened) {
    let store = at.store;
    let user = change!(store, |tx| tx.insert_user("alice", NOW));
    let (first, second) = (key("a1", true, Some(user)), key("b2", false, None));
    change!(store, |tx| tx.insert_auth_key(&first); tx.insert_auth_key(&second));
    change!(store, |tx| tx.revoke_auth_key(&first.id, NOW + 5));
    change!(store, |tx| tx.revoke_auth_key(&first.id, NOW + 9));
    let mut tx = store.read().await.unwrap();
    let keys = tx.auth_keys().await.unwrap();
    assert_eq!(keys.len(), 2);
    let found = tx.auth_key(&first.id).await.unwrap().unwrap();
    assert_eq!(found, keys[0]);
    assert_eq!(
        (found.user, found.user_name.as_deref()),
        (Some(user), Some("alice"))
    );
    assert_eq!(
        (&found.tags, found.reusable, found.ephemeral),
        (&first.tags, true, true)
    );
    assert_eq!((found.created_at, found.expires_at), (NOW, NOW + 60));
    assert_eq!(found.node_life, Some(3600));
    assert_eq!(
        found.revoked_at,
        Some(NOW + 5),
        "the first revocation counts"
    );
    assert_eq!(tx.auth_key(&KeyId("c3".into())).await.unwrap(), None);
}

async fn a_one_off_key_is_used_once(at: Opened) {
    let store = at.store;
    let (many, once) = (key("a1", true, None), key("b2", false, None));
    change!(store, |tx| tx.insert_auth_key(&many); tx.insert_auth_key(&once));
    for _ in 0..2 {
        change!(store, |tx| tx.count_auth_key_use(&many.id));
    }
    change!(store, |tx| tx.count_auth_key_use(&once.id));
    let mut tx = store.write().await.unwrap();
    assert!(tx.count_auth_key_use(&once.id).await.is_err());
    drop(tx);
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.auth_key(&many.id).await.unwrap().unwrap().uses, 2);
    assert_eq!(tx.auth_key(&once.id).await.unwrap().unwrap().uses, 1);
}

async fn nodes_come_back_as_they_were_stored(at: Opened) {
    let store = at.store;
    let user = change!(store, |tx| tx.insert_user("alice", NOW));
    let new = node(1, Some(user));
    let id = change!(store, |tx| tx.insert_node(&new));
    let mut tx = store.read().await.unwrap();
    let row = tx.node_by_machine(&new.machine_key).await.unwrap().unwrap();
    assert_eq!(tx.nodes().await.unwrap(), std::slice::from_ref(&row));
    for text in ["node-1", &id.to_string()] {
        let found = tx.node_by_name_or_id(text).await.unwrap();
        assert_eq!(found, Some(row.clone()));
    }
    let found = tx.node_by_node_key(&new.node_key).await.unwrap();
    assert_eq!(found, Some(row.clone()));
    assert_eq!(tx.node_by_name_or_id("7").await.unwrap(), None);
    assert_eq!((row.host.clone(), row.tags), (new.host.clone(), new.tags));
    assert_eq!((row.ipv4, row.ipv6), (new.ipv4, new.ipv6));
    assert_eq!(row.user_name.as_deref(), Some("alice"));
    assert_eq!((row.named_by_admin, row.ephemeral), (false, false));
    assert_eq!(row.key_expires_at, Some(NOW + 3600));
    assert_eq!(tx.users().await.unwrap()[0].nodes, 1);
    drop(tx);

    let failures = vec![ItemFailure {
        item: "route".to_owned(),
        reason: "it's \"full\"".to_owned(),
    }];
    let host = HostInfo {
        endpoint: None,
        listen_port: u16::MAX,
        ..new.host
    };
    let (name, elsewhere) = ("renamed".parse().unwrap(), IpAddr::from([198, 51, 100, 1]));
    let other_key = NodePrivateKey::from_bytes([9; 32]).public();
    let moved = change!(store, |tx|
        tx.update_node_host(id, &"other".parse().unwrap(), &host, elsewhere);
        tx.rename_node(id, &name);
        tx.set_node_key(id, &other_key);
        tx.set_node_tags(id, &BTreeSet::new());
        tx.set_node_user(id, None);
        tx.set_node_report(id, Generation(u64::from(u32::MAX)), &failures);
        tx.set_node_seen(id, None, NOW - 5);
        tx.set_node_seen(id, Some(elsewhere), NOW + 5)
    );
    assert!(!moved.7, "it was there already");
    let mut tx = store.read().await.unwrap();
    let row = tx.node_by_name_or_id("renamed").await.unwrap().unwrap();
    assert!(row.named_by_admin);
    assert_eq!((row.host, row.node_key), (host, other_key));
    assert_eq!((row.user, row.tags), (None, BTreeSet::new()));
    assert_eq!(row.reported_failures, failures);
    assert_eq!(
        row.reported_generation,
        Some(Generation(u64::from(u32::MAX)))
    );
    assert_eq!(
        (row.last_seen_at, row.observed_address),
        (NOW + 5, Some(elsewhere))
    );
}

async fn names_keys_and_addresses_are_unique(at: Opened) {
    let store = at.store;
    let first = node(1, None);
    change!(store, |tx| tx.insert_node(&first));
    type Clash = fn(&mut NewNode, &NewNode);
    let clashes: [Clash; 5] = [
        |node, first| node.machine_key = first.machine_key,
        |node, first| node.node_key = first.node_key,
        |node, first| node.name = first.name.clone(),
        |node, first| node.ipv4 = first.ipv4,
        |node, first| node.ipv6 = first.ipv6,
    ];
    for clash in clashes {
        let mut second = node(2, None);
        clash(&mut second, &first);
        let mut tx = store.write().await.unwrap();
        assert!(tx.insert_node(&second).await.is_err());
    }
    change!(store, |tx| tx.insert_node(&node(2, None)));
}

async fn what_a_deleted_node_had_goes_with_it(at: Opened) {
    let store = at.store;
    let user = change!(store, |tx| tx.insert_user("alice", NOW));
    let id = change!(store, |tx| tx.insert_node(&node(1, Some(user))));
    change!(store, |tx| tx.set_advertised(id, &[prefix()].into()));
    change!(store, |tx| tx.set_primary(&prefix(), Some(id)));
    let address = "203.0.113.8".parse().unwrap();
    change!(store, |tx| tx.set_route_egress(
        id,
        &prefix(),
        None,
        address,
        NOW
    ));
    let mut tx = store.write().await.unwrap();
    assert!(tx.delete_user(user).await.is_err(), "it owns a node");
    drop(tx);
    change!(store, |tx| tx.delete_node(id));
    change!(store, |tx| tx.set_primary(&prefix(), Some(id)));
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.nodes().await.unwrap(), []);
    assert_eq!(tx.routes().await.unwrap(), []);
    assert_eq!(tx.route_egress().await.unwrap(), []);
    assert_eq!(tx.primaries().await.unwrap(), [].into());
    drop(tx);
    change!(store, |tx| tx.delete_user(user));
    let next = change!(store, |tx| tx.insert_node(&node(1, None)));
    assert!(next > id, "ids are not used twice");
}

async fn policies_are_kept_and_measured_in_bytes(at: Opened) {
    let store = at.store;
    for text in ["{}", "// grün"] {
        change!(store, |tx| tx.insert_policy(text, "alice", "why", NOW));
    }
    let mut tx = store.read().await.unwrap();
    let newest = tx.newest_policies(1).await.unwrap();
    assert_eq!(
        (newest[0].revision, newest[0].text.as_str()),
        (2, "// grün")
    );
    assert_eq!(tx.policy(1).await.unwrap().unwrap().text, "{}");
    assert_eq!(tx.policy(3).await.unwrap(), None);
    let history = tx.policy_history(9).await.unwrap();
    let bytes: Vec<_> = history
        .iter()
        .map(|row| (row.revision, row.bytes))
        .collect();
    assert_eq!(bytes, [(2, 8), (1, 2)]);
    assert_eq!(
        (history[0].saved_by.as_str(), history[0].note.as_str()),
        ("alice", "why")
    );
}

async fn generations_only_grow(at: Opened) {
    let store = at.store;
    change!(store, |tx| tx.set_newest_generation(Generation(7)));
    change!(store, |tx| tx.set_newest_generation(Generation(5)));
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.newest_generation().await.unwrap(), Generation(7));
}

async fn a_route_has_one_primary(at: Opened) {
    let store = at.store;
    let one = change!(store, |tx| tx.insert_node(&node(1, None)));
    let other = change!(store, |tx| tx.insert_node(&node(2, None)));
    for (primary, expected) in [
        (Some(one), [(prefix(), one)].into()),
        (Some(other), [(prefix(), other)].into()),
        (None, [].into()),
    ] {
        change!(store, |tx| tx.set_primary(&prefix(), primary));
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.primaries().await.unwrap(), expected);
    }
}

async fn what_was_changed_is_told_once(at: Opened) {
    let store = at.store;
    let id = change!(store, |tx| tx.insert_node(&node(1, None)));
    drop(store.take_changes());
    let mut tx = store.write().await.unwrap();
    tx.set_advertised(id, &[prefix()].into()).await.unwrap();
    drop(tx);
    assert!(store.take_changes().is_empty(), "it was not committed");
    change!(store, |tx|
        tx.set_advertised(id, &[prefix()].into());
        tx.insert_user("alice", NOW)
    );
    let revision = store.read().await.unwrap().revision().await.unwrap();
    let told = Changes {
        nodes: [id].into(),
        users: true,
        revisions: [revision].into(),
        ..Changes::default()
    };
    assert_eq!(store.take_changes(), told);
    assert!(store.take_changes().is_empty());
}

async fn only_what_maps_are_made_of_counts_as_a_change(at: Opened) {
    let store = at.store;
    let revision = async || store.read().await.unwrap().revision().await.unwrap();
    let mut before = revision().await;
    let mut grew = async || {
        let now = revision().await;
        std::mem::replace(&mut before, now) < now
    };
    let id = change!(store, |tx| tx.insert_node(&node(1, None)));
    assert!(grew().await);
    let elsewhere = IpAddr::from([198, 51, 100, 1]);
    change!(store, |tx| tx.set_node_seen(id, Some(elsewhere), NOW));
    assert!(grew().await);
    change!(store, |tx|
        tx.set_node_seen(id, Some(elsewhere), NOW + 1);
        tx.set_node_report(id, Generation(1), &[]);
        tx.insert_auth_key(&key("a1", true, None));
        tx.set_newest_generation(Generation(3))
    );
    assert!(!grew().await);
    change!(store, |tx| tx.insert_policy("{}", "alice", "", NOW));
    assert!(grew().await);
    let mut tx = store.write().await.unwrap();
    tx.delete_node(id).await.unwrap();
    drop(tx);
    assert!(!grew().await, "it was undone");
}

async fn a_reader_sees_one_moment(at: Opened) {
    let store = at.store;
    let mut reader = store.read().await.unwrap();
    assert_eq!(reader.users().await.unwrap(), []);
    change!(store, |tx| tx.insert_user("alice", NOW));
    assert_eq!(reader.users().await.unwrap(), []);
    drop(reader);
    let users = store.read().await.unwrap().users().await.unwrap();
    assert_eq!(users.len(), 1);
}

async fn changes_run_one_after_the_other(at: Opened) {
    // Two stores: as two coordinators would, where the database allows for that.
    let second = open(&at.database).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20_u64 {
        let store = if number % 2 == 0 {
            at.store.clone()
        } else {
            second.clone()
        };
        tasks.spawn(async move {
            let mut tx = store.write().await.unwrap();
            let next = tx.newest_generation().await.unwrap().next();
            tokio::task::yield_now().await;
            tx.set_newest_generation(next).await.unwrap();
            let entry = AuditEntry {
                at: NOW,
                actor: &Actor::Coordinator,
                action: "test",
                subject: number.to_string(),
            };
            tx.record(entry, None::<&()>, None::<&()>).await.unwrap();
            tx.commit().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut tx = second.read().await.unwrap();
    assert_eq!(tx.newest_generation().await.unwrap(), Generation(20));
    let report = tx.verify_audit(None).await.unwrap();
    assert_eq!((report.entries, report.flaws), (20, vec![]));
}

async fn what_is_not_committed_is_undone(at: Opened) {
    let mut tx = at.store.write().await.unwrap();
    tx.insert_user("alice", NOW).await.unwrap();
    drop(tx);
    let users = at.store.read().await.unwrap().users().await.unwrap();
    assert_eq!(users, []);
}

async fn the_audit_log_is_tied_together(at: Opened) {
    let store = at.store;
    for number in 1..=3 {
        let actor = Actor::Node {
            id: NodeId(7),
            name: "relay".parse().unwrap(),
            address: [203, 0, 113, 7].into(),
        };
        let entry = AuditEntry {
            at: NOW + number,
            actor: &actor,
            action: "routes.advertise",
            subject: "node 7".to_owned(),
        };
        let after = prefix();
        change!(store, |tx| tx.record(entry, None::<&()>, Some(&after)));
    }
    let mut tx = store.read().await.unwrap();
    let report = tx.verify_audit(None).await.unwrap();
    assert_eq!((report.entries, &report.flaws), (3, &vec![]));
    let rows = tx.audit(None, 2).await.unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, [3, 2]);
    assert_eq!(rows[0].hash, report.head.hash);
    assert_eq!(rows[0].actor, "node 7 (relay)");
    assert_eq!(rows[0].origin, "203.0.113.7");
    assert_eq!(
        (&rows[0].before, rows[0].after.as_deref()),
        (&None, Some("\"8.8.8.0/24\""))
    );
    assert_eq!(tx.audit(Some(2), 9).await.unwrap().len(), 1);
    drop(tx);
    postgres::execute(&at.database, "DELETE FROM audit WHERE id = 3").await;
    postgres::execute(
        &at.database,
        "UPDATE audit SET actor = 'nobody' WHERE id = 1",
    )
    .await;
    let mut tx = store.read().await.unwrap();
    let flaws = tx.verify_audit(Some(report.head)).await.unwrap().flaws;
    let missing = AuditFlaw::Missing { first: 3, last: 3 };
    assert_eq!(flaws, [AuditFlaw::Changed { id: 1 }, missing]);
}

async fn what_is_stored_is_there_when_it_is_opened_again(at: Opened) {
    change!(at.store, |tx| tx.insert_user("alice", NOW));
    at.store.close().await;
    let store = open(&at.database).await;
    let users = store.read().await.unwrap().users().await.unwrap();
    assert_eq!(users[0].name, "alice");
    store.close().await;
    postgres::execute(
        &at.database,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', TRUE, '', 0)",
    )
    .await;
    let error = Store::open(&at.database).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found: 9999, .. }),
        "{error:?}"
    );
}

async fn a_damaged_value_is_named(at: Opened) {
    let store = at.store;
    change!(store, |tx| tx.insert_node(&node(1, None)));
    postgres::execute(&at.database, "UPDATE nodes SET ipv4 = 'x'").await;
    let error = store.read().await.unwrap().nodes().await.unwrap_err();
    assert!(
        error.to_string().contains("\"x\" where a IPv4 address"),
        "{error}"
    );
}

async fn who_is_connected_to_a_coordinator_that_died_is_connected_no_more(at: Opened) {
    let store = at.store;
    let row = |id: &str| CoordinatorRow {
        id: id.to_owned(),
        url: format!("https://{id}"),
        pin: Pin::of_public_key_info(b"key"),
    };
    let mut tx = store.note().await.unwrap();
    let now = tx.clock().await.unwrap();
    tx.coordinator_lives(&row("a"), now).await.unwrap();
    tx.coordinator_lives(&row("b"), now - 11).await.unwrap();
    for (coordinator, node) in [("a", 1), ("b", 1), ("b", 2)] {
        tx.set_stream(coordinator, NodeId(node), true)
            .await
            .unwrap();
    }
    let elsewhere = tx.connected_elsewhere("c", now - 10).await.unwrap();
    assert_eq!(elsewhere, [NodeId(1)].into());
    assert_eq!(
        tx.connected_elsewhere("a", now - 10).await.unwrap(),
        [].into()
    );
    assert_eq!(tx.coordinators(now - 10).await.unwrap(), [row("a")]);
    tx.forget_coordinators(now - 10).await.unwrap();
    assert_eq!(tx.streams_of("b").await.unwrap(), [].into());
    tx.coordinator_lives(&row("a"), now + 1).await.unwrap();
    tx.set_stream("a", NodeId(1), false).await.unwrap();
    assert_eq!(tx.streams_of("a").await.unwrap(), [].into());
    tx.coordinator_leaves("a").await.unwrap();
    assert_eq!(tx.coordinators(0).await.unwrap(), []);
    tx.commit().await.unwrap();
}

async fn absent_nodes_and_what_is_numbered_are_for_all(at: Opened) {
    let store = at.store;
    let id = change!(store, |tx| tx.insert_node(&node(1, None)));
    let before = store.read().await.unwrap().revision().await.unwrap();
    change!(store, |tx| tx.set_absent_nodes(&[id, NodeId(99)].into()));
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.absent_nodes().await.unwrap(), [id].into());
    assert_eq!(tx.revision().await.unwrap(), before + 1);
    assert_eq!(tx.node_ids().await.unwrap(), [id].into());
    drop(tx);
    change!(store, |tx| tx.set_absent_nodes(&[id].into()));
    change!(store, |tx| tx.set_numbered_revision(7));
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.revision().await.unwrap(), before + 1, "nothing changed");
    assert_eq!(tx.numbered_revision().await.unwrap(), 7);
    drop(tx);
    change!(store, |tx| tx.set_absent_nodes(&BTreeSet::new()));
    let absent = store.read().await.unwrap().absent_nodes().await.unwrap();
    assert_eq!(absent, BTreeSet::new());
}
