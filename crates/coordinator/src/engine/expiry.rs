//! When the keys of nodes expire. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use weir_netmap::{KeyLife, NetworkChange, Node};
use weir_overlay::NodeId;

/// How often the clock is looked at while the next key is about to expire.
const CLOSE: Duration = Duration::from_millis(250);
/// From how many seconds before on that is so.
const CLOSE_SECONDS: i64 = 10;

/// The keys that will expire, the next one first.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    by_time: BTreeSet<(i64, NodeId)>,
    by_node: BTreeMap<NodeId, i64>,
}

impl Expiries {
    /// Those of these nodes.
    pub(super) fn of<'a>(nodes: impl Iterator<Item = &'a Node>) -> Self {
        let mut expiries = Self::default();
        for node in nodes {
            expiries.set(node.id, node.key_life);
        }
        expiries
    }

    /// Takes over what a change of the network says.
    pub(super) fn follow(&mut self, change: &NetworkChange) {
        match change {
            NetworkChange::Node(node) => self.set(node.id, node.key_life),
            NetworkChange::Left(id) => self.set(*id, KeyLife::Unlimited),
            NetworkChange::Users(_) | NetworkChange::Policy(_) => {}
        }
    }

    fn set(&mut self, id: NodeId, life: KeyLife) {
        if let Some(before) = self.by_node.remove(&id) {
            self.by_time.remove(&(before, id));
        }
        if let KeyLife::Until(time) = life {
            self.by_node.insert(id, time);
            self.by_time.insert((time, id));
        }
    }

    /// The nodes whose keys have expired by now.
    pub(super) fn due(&self, now: i64) -> impl Iterator<Item = NodeId> {
        let due = self
            .by_time
            .iter()
            .take_while(move |(time, _)| *time <= now);
        due.map(|(_, id)| *id)
    }

    /// How long to wait before the clock is looked at again, if it is to be at all.
    pub(super) fn wait(&self, now: i64) -> Option<Duration> {
        let (next, _) = self.by_time.first()?;
        (next.saturating_sub(now) <= CLOSE_SECONDS).then_some(CLOSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_due_when_their_time_has_come() {
        let mut expiries = Expiries::default();
        let (one, other) = (NodeId(1), NodeId(2));
        expiries.set(one, KeyLife::Until(100));
        expiries.set(other, KeyLife::Until(200));
        let due = |expiries: &Expiries, now| expiries.due(now).collect::<Vec<_>>();
        assert_eq!(due(&expiries, 99), []);
        assert_eq!(expiries.wait(80), None);
        assert_eq!(expiries.wait(99), Some(CLOSE));
        assert_eq!(due(&expiries, 100), [one]);
        expiries.set(one, KeyLife::Over(100));
        assert_eq!(due(&expiries, 200), [other]);
        expiries.set(other, KeyLife::Unlimited);
        assert_eq!(due(&expiries, 1_000), []);
        assert_eq!(expiries.wait(1_000), None);
    }
}
