//! Who is absent: pure.

use crate::{presence::GRACE, store::Epoch};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use weir_overlay::NodeId;

/// What the leading coordinator has seen since it leads.
#[derive(Debug, Default)]
pub(super) struct Judge {
    epoch: Option<Epoch>,
    /// Since when a node is seen nowhere.
    away: BTreeMap<NodeId, Instant>,
}

impl Judge {
    /// The lead was lost: what was seen counts no more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Which of all nodes are absent: those that were seen nowhere for longer than [`GRACE`], and
    /// those that were absent before and were not seen since. A new lead gives everybody the whole
    /// grace anew, because nodes of a coordinator that died must find another one first.
    pub(super) fn absent(
        &mut self,
        epoch: Epoch,
        all: &BTreeSet<NodeId>,
        online: &BTreeSet<NodeId>,
        before: &BTreeSet<NodeId>,
        now: Instant,
    ) -> BTreeSet<NodeId> {
        if self.epoch.replace(epoch) != Some(epoch) {
            self.away.clear();
        }
        self.away
            .retain(|node, _| all.contains(node) && !online.contains(node));
        all.difference(online)
            .filter(|node| {
                let since = *self.away.entry(**node).or_insert(now);
                before.contains(node) || now.saturating_duration_since(since) > GRACE
            })
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn who_stays_away_is_absent_until_it_is_seen() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let all = ids(&[1, 2, 3]);
        let mut ask = |online: &[u64], before: &[u64], at| {
            judge.absent(Epoch(1), &all, &ids(online), &ids(before), at)
        };
        assert_eq!(ask(&[1], &[3], start), ids(&[3]), "3 was absent before");
        assert_eq!(ask(&[1], &[3], start + GRACE), ids(&[3]));
        assert_eq!(ask(&[1], &[3], start + GRACE * 2), ids(&[2, 3]));
        assert_eq!(ask(&[2, 3], &[2, 3], start + GRACE * 2), ids(&[]));
        assert_eq!(
            ask(&[2, 3], &[], start + GRACE * 3),
            ids(&[]),
            "1 has its grace"
        );
        assert_eq!(ask(&[2, 3], &[], start + GRACE * 4), ids(&[1]));
    }

    #[test]
    fn a_new_lead_gives_the_grace_anew() {
        let (mut judge, start) = (Judge::default(), Instant::now());
        let all = ids(&[1]);
        let none = ids(&[]);
        for (epoch, at) in [(1, start), (2, start + GRACE * 2), (2, start + GRACE * 3)] {
            let absent = judge.absent(Epoch(epoch), &all, &none, &none, at);
            assert_eq!(absent, none, "{epoch}");
        }
        let absent = judge.absent(Epoch(2), &all, &none, &none, start + GRACE * 4);
        assert_eq!(absent, all);
    }
}
