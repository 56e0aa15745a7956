//! Another WireGuard key for the same node.

use super::*;
use weir_protocol::KeyStatus;

/// The map of this number that names a key.
fn naming(generation: u64, key: NodePublicKey) -> StreamMessage {
    let mut map = map(generation);
    map.node.key = KeyStatus {
        public: Some(key),
        ..KeyStatus::default()
    };
    StreamMessage::Full { map: Box::new(map) }
}

fn in_kernel(kernel: &FakeKernel) -> Option<NodePublicKey> {
    kernel.state().device.and_then(|device| device.public_key)
}

fn registered(coordinator: &FakeCoordinator) -> Vec<NodePublicKey> {
    coordinator.script(|script| script.node_keys.clone())
}

/// Waits until another key was registered, and gives it.
async fn another(coordinator: &FakeCoordinator, known: usize) -> NodePublicKey {
    let found = tokio::time::timeout(SOON, async {
        loop {
            if let Some(key) = registered(coordinator).get(known) {
                return *key;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.expect("no key was registered")
}

#[tokio::test]
async fn a_new_key_is_in_force_as_soon_as_the_map_names_it() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    let refused = daemon.agent.rotate_key().await.unwrap_err().to_string();
    assert!(refused.contains("agent up"), "{refused}");
    daemon.up(joining(&coordinator)).await.unwrap();
    let old = in_kernel(&kernel).unwrap();
    let switch = async {
        let new = another(&coordinator, 1).await;
        // Peers do not know it yet, so neither does the kernel.
        assert_eq!(in_kernel(&kernel), Some(old));
        coordinator.send(&naming(4, new));
        new
    };
    let (report, new) = tokio::join!(daemon.agent.rotate_key(), switch);
    let report = report.unwrap();
    assert_eq!((report.before, report.after), (old, new));
    assert_eq!(in_kernel(&kernel), Some(new));

    // That is what a restart goes on with, and what is registered from now on.
    daemon.crash();
    drop(kernel.take_applied());
    let daemon = Daemon::start(&kernel, root.path());
    daemon
        .wait("the ledger", |status| status.map.applied.is_some())
        .await;
    assert_eq!(kernel.take_applied(), []);
    assert!(!root.path().join("node.key.next").exists());
    let StreamMessage::Full { map } = naming(4, new) else {
        unreachable!();
    };
    coordinator.script(|script| script.map = Some(*map));
    daemon.up(joining(&coordinator)).await.unwrap();
    assert_eq!(registered(&coordinator).last(), Some(&new));
}

#[tokio::test]
async fn a_crash_while_the_key_changes_leaves_keys_that_fit() {
    let (root, kernel) = bench();
    let coordinator = coordinator(map(3)).await;
    let daemon = Daemon::start(&kernel, root.path());
    daemon.up(joining(&coordinator)).await.unwrap();
    let old = in_kernel(&kernel).unwrap();
    // The coordinator has the new key; the map that says so never comes.
    let agent = Arc::clone(&daemon.agent);
    let rotating = tokio::spawn(async move { agent.rotate_key().await.is_ok() });
    let new = another(&coordinator, 1).await;
    rotating.abort();
    daemon.crash();

    // Until it comes, the old key is what the map in the ledger goes with.
    let StreamMessage::Full { map } = naming(4, new) else {
        unreachable!();
    };
    coordinator.script(|script| script.map = Some(*map));
    let daemon = Daemon::start(&kernel, root.path());
    let status = daemon
        .wait("the map that names the new key", |status| {
            status.map.applied == Some(Generation(4))
        })
        .await;
    assert_ne!(old, new);
    assert_eq!(in_kernel(&kernel), Some(new));
    assert_eq!(status.wireguard.unwrap().public_key, new);
}
