//! Ids of grants that survive edits elsewhere in the policy.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::GrantId;

/// The most rules in one policy. A sixteenth of the ids, so that a free one is near.
pub(crate) const MAX_RULES: usize = 1 << 16;

/// Gives out ids. A rule's id is a hash of what the rule says, so it stays the same when other
/// rules come and go, when names move between groups, and when the file is laid out anew. Rules
/// that would share an id (equal ones, or one pair in a million) get the next of their own
/// sequence, in the order of the policy.
#[derive(Debug, Default)]
pub(crate) struct GrantIds {
    taken: BTreeSet<GrantId>,
    /// The next step of each content's own sequence, so that many equal rules cost no search.
    steps: BTreeMap<String, u32>,
}

impl GrantIds {
    /// Ids beside those that are given out already.
    pub(crate) fn beside(taken: impl IntoIterator<Item = GrantId>) -> Self {
        Self {
            taken: taken.into_iter().collect(),
            steps: BTreeMap::new(),
        }
    }

    /// The id for a rule with this content; `None` after [`MAX_RULES`].
    pub(crate) fn next(&mut self, content: &str) -> Option<GrantId> {
        if self.taken.len() >= MAX_RULES {
            return None;
        }
        let step = self.steps.entry(content.to_owned()).or_default();
        loop {
            let id = id(content, *step);
            *step += 1;
            if self.taken.insert(id) {
                return Some(id);
            }
        }
    }
}

fn id(content: &str, step: u32) -> GrantId {
    let hash = Sha256::new()
        .chain_update(step.to_be_bytes())
        .chain_update(content)
        .finalize();
    let number = hash
        .iter()
        .take(4)
        .fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    GrantId(number % GrantId::MAX + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_the_content_and_never_shared() {
        let mut ids = GrantIds::default();
        let first = ids.next("a").unwrap();
        let again = ids.next("a").unwrap();
        assert_ne!(first, again);
        assert_eq!(GrantIds::default().next("a"), Some(first));
        let given: BTreeSet<_> = (2..MAX_RULES).filter_map(|_| ids.next("a")).collect();
        assert_eq!(given.len(), MAX_RULES - 2);
        assert!(given.iter().all(|id| (1..=GrantId::MAX).contains(&id.0)));
        assert_eq!(ids.next("b"), None);
    }
}
