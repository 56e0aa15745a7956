//! Who signs with which key, kept in memory: each signed request asks.
//!
//! What is kept is as it was at one revision of the network. Whoever asks learns from the database,
//! in the transaction that makes the request's signature durable anyway, which revision it is then
//! ([`Store::confirm`]): a machine that was removed by then, here or by another coordinator, is not
//! taken for the one that it was. What is not known, or not known to be so still, is read again.

use super::{Changes, NodeRow, RouteRow, Store, StoreError, Tx};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use weir_overlay::{MachinePublicKey, NodeId};

/// How many changes that were made here are noted while what others changed was not read yet. Then
/// nothing is believed until all has been read again.
const MAX_AHEAD: usize = 4096;

/// An enrolled machine, as what maps are made of says it is. When it was last seen and what it
/// reported may be older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    node: NodeRow,
    /// Its routes, by prefix.
    pub routes: Vec<RouteRow>,
}

impl Deref for Machine {
    type Target = NodeRow;
    fn deref(&self) -> &NodeRow {
        &self.node
    }
}

/// What is known of a machine's key.
#[derive(Clone, Debug)]
pub enum Known {
    /// It is enrolled.
    Machine(Arc<Machine>),
    /// It is not.
    Stranger {
        /// An admin shut it out for ever.
        is_revoked: bool,
    },
}

/// Shared by all who use one store.
#[derive(Clone, Debug, Default)]
pub(super) struct Machines(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// All below is as it was then.
    revision: u64,
    by_key: HashMap<MachinePublicKey, Arc<Machine>>,
    keys: HashMap<NodeId, MachinePublicKey>,
    /// What was changed here by revisions that do not follow that one: somebody else's are between.
    ahead: BTreeMap<u64, Touched>,
}

#[derive(Debug)]
enum Touched {
    Nodes(BTreeSet<NodeId>),
    All,
}

impl Inner {
    fn forget(&mut self, touched: &Touched) {
        match touched {
            Touched::All => {
                self.by_key.clear();
                self.keys.clear();
            }
            Touched::Nodes(nodes) => {
                for node in nodes {
                    if let Some(key) = self.keys.remove(node) {
                        self.by_key.remove(&key);
                    }
                }
            }
        }
    }

    fn insert(&mut self, machine: Arc<Machine>) {
        self.keys.insert(machine.id, machine.machine_key);
        self.by_key.insert(machine.machine_key, machine);
    }

    /// Takes over what was changed here and follows what is known.
    fn advance(&mut self) {
        while let Some(next) = self.ahead.first_entry() {
            if *next.key() > self.revision + 1 {
                break;
            }
            let (revision, touched) = next.remove_entry();
            if revision > self.revision {
                self.forget(&touched);
                self.revision = revision;
            }
        }
    }
}

impl Machines {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere may have left a part of a change: what is missing is read again, and
        // the revision is set last.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change was made here.
    pub(super) fn changed(&self, revision: u64, changes: &Changes) {
        // Names of owners are kept, too.
        let touched = if changes.everything || changes.users {
            Touched::All
        } else {
            Touched::Nodes(changes.nodes.clone())
        };
        let mut inner = self.lock();
        if inner.ahead.len() >= MAX_AHEAD {
            inner.ahead.clear();
            inner.forget(&Touched::All);
        }
        inner.ahead.insert(revision, touched);
        inner.advance();
    }

    /// A change that was made here may have been made or not, and its number may be another's: nothing
    /// is believed until all has been read again.
    pub(super) fn forget(&self) {
        *self.lock() = Inner::default();
    }

    /// Takes all machines as they are at a revision.
    fn replace(&self, revision: u64, machines: Vec<Machine>) {
        let mut inner = self.lock();
        if revision < inner.revision {
            return;
        }
        inner.forget(&Touched::All);
        for machine in machines {
            inner.insert(Arc::new(machine));
        }
        inner.revision = revision;
        inner.advance();
    }

    /// Takes one machine as it is at a revision.
    fn add(&self, revision: u64, machine: &Arc<Machine>) {
        let mut inner = self.lock();
        if inner.revision == revision {
            inner.insert(Arc::clone(machine));
        }
    }

    fn get(&self, key: &MachinePublicKey) -> Option<Arc<Machine>> {
        self.lock().by_key.get(key).cloned()
    }

    /// Whether a machine is still what it was when it was asked for, at a revision that was read
    /// after that.
    fn is_still(&self, machine: &Arc<Machine>, revision: u64) -> bool {
        let inner = self.lock();
        let now = inner.by_key.get(&machine.machine_key);
        inner.revision >= revision && now.is_some_and(|now| Arc::ptr_eq(now, machine))
    }

    pub(super) fn revision(&self) -> u64 {
        self.lock().revision
    }
}

impl Store {
    /// Who signs with a key: from memory where that is possible. What it says may be over by now;
    /// [`Self::confirm`] tells.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn machine(&self, key: &MachinePublicKey) -> Result<Known, StoreError> {
        match self.machines.get(key) {
            Some(machine) => Ok(Known::Machine(machine)),
            None => self.look_up_machine(key).await,
        }
    }

    /// The same after the network was at `revision`, which was read from the database meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn confirm(&self, machine: Arc<Machine>, revision: u64) -> Result<Known, StoreError> {
        if self.machines.is_still(&machine, revision) {
            return Ok(Known::Machine(machine));
        }
        self.look_up_machine(&machine.machine_key).await
    }

    async fn look_up_machine(&self, key: &MachinePublicKey) -> Result<Known, StoreError> {
        let mut tx = self.read().await?;
        let revision = tx.revision().await?;
        let Some(node) = tx.node_by_machine(key).await? else {
            let is_revoked = tx.is_revoked(key).await?;
            return Ok(Known::Stranger { is_revoked });
        };
        let routes = tx.routes_of(node.id).await?;
        drop(tx);
        let machine = Arc::new(Machine { node, routes });
        self.machines.add(revision, &machine);
        Ok(Known::Machine(machine))
    }

    /// Whether a change that somebody else made keeps machines from being answered from memory
    /// alone: [`Tx::keep_machines`] helps.
    #[must_use]
    pub fn machines_are_behind(&self, revision: u64) -> bool {
        self.machines.revision() < revision
    }
}

impl Tx {
    /// Keeps all machines in memory, as this view of the database shows them. `routes` are sorted
    /// by node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_machines(
        &mut self,
        nodes: &[NodeRow],
        routes: &[RouteRow],
    ) -> Result<(), StoreError> {
        if !self.only_reads {
            // What a change sees may never come to be.
            return Ok(());
        }
        let revision = self.revision().await?;
        // What others changed may have made some free.
        self.frees_addresses();
        let machine = |node: &NodeRow| {
            let first = routes.partition_point(|route| route.node < node.id);
            let behind = routes.partition_point(|route| route.node <= node.id);
            Machine {
                node: node.clone(),
                routes: routes.get(first..behind).unwrap_or_default().to_vec(),
            }
        };
        self.machines
            .replace(revision, nodes.iter().map(machine).collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CommitFault, Database, NewNode};
    use weir_overlay::{MachinePrivateKey, NodePrivateKey};
    use weir_protocol::HostInfo;

    fn node(number: u8) -> NewNode {
        NewNode {
            machine_key: MachinePrivateKey::from_bytes([number; 32]).public(),
            node_key: NodePrivateKey::from_bytes([number; 32]).public(),
            key_expires_at: None,
            name: format!("n{number}").parse().unwrap(),
            user: None,
            tags: BTreeSet::new(),
            ephemeral: false,
            ipv4: [100, 64, 0, number].into(),
            ipv6: format!("fd77:6569:7200::{number}").parse().unwrap(),
            host: HostInfo::default(),
            observed_address: [192, 0, 2, number].into(),
            created_at: 0,
        }
    }

    async fn delete(store: &Store, node: NodeId) -> Result<(), StoreError> {
        let mut tx = store.write().await?;
        tx.delete_node(node).await?;
        tx.commit().await
    }

    #[tokio::test]
    async fn the_number_of_a_change_that_failed_makes_nobody_believed() {
        for fault in [
            CommitFault::Lost,
            CommitFault::AnswerLost,
            CommitFault::Full,
        ] {
            let directory = tempfile::tempdir().unwrap();
            let database = Database::File(directory.path().join("a.db"));
            let store = Store::open(&database).await.unwrap();
            let ((one, faults), (other, _)) = (store.beside(), store.beside());
            let mut ids = Vec::new();
            for number in 1..=3 {
                let mut tx = one.write().await.unwrap();
                ids.push(tx.insert_node(&node(number)).await.unwrap());
                tx.commit().await.unwrap();
            }
            let mut tx = one.read().await.unwrap();
            let nodes = tx.nodes().await.unwrap();
            tx.keep_machines(&nodes, &[]).await.unwrap();
            drop(tx);
            let Known::Machine(removed) = one.machine(&node(1).machine_key).await.unwrap() else {
                panic!("it is enrolled");
            };
            // Its own change gets a number, and fails; another's may get the same.
            faults.fail_next_commit(fault);
            delete(&one, ids[2]).await.unwrap_err();
            delete(&other, ids[0]).await.unwrap();
            let now = one.read().await.unwrap().revision().await.unwrap();
            let known = one.confirm(Arc::clone(&removed), now).await.unwrap();
            assert!(matches!(known, Known::Stranger { .. }), "{fault:?}");
            // Nor once it has made another change.
            delete(&one, ids[1]).await.unwrap();
            let now = one.read().await.unwrap().revision().await.unwrap();
            let known = one.confirm(removed, now).await.unwrap();
            assert!(matches!(known, Known::Stranger { .. }), "{fault:?}");
            assert!(one.machines_are_behind(now), "{fault:?}");
        }
    }
}
