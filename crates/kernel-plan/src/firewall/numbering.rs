//! Numbers for classes that stay while the classes live.

use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::AddressRange;

use super::{
    classes::{Classes, Reach},
    narrow::{FEW, each, size},
    table::{Key, Table, Value},
};

/// The key of a source.
pub(super) fn source(range: AddressRange) -> Key {
    Key {
        source: Some(range),
        ..Key::default()
    }
}

/// Classes with their numbers.
pub(super) struct Numbered {
    classes: Classes,
    numbers: Vec<u32>,
}

impl Numbered {
    /// Gives each class the number of the one before that most of its sources were in.
    pub(super) fn new(mut classes: Classes, previous: Option<&Table>) -> Self {
        classes.sources = classes
            .sources
            .into_iter()
            .flat_map(|(range, class)| {
                // A few addresses go to the hash, one by one.
                let few = size(&range) <= FEW;
                let one_by_one = few.then(|| each(range)).into_iter().flatten();
                let as_one = (!few).then_some(range);
                one_by_one.chain(as_one).map(move |range| (range, class))
            })
            .collect();
        let before: BTreeMap<Key, u32> = previous
            .into_iter()
            .flat_map(|table| table.sets.values())
            .flat_map(|set| &set.elements)
            .filter_map(|(key, value)| match value {
                Value::Class(class) => Some((*key, *class)),
                Value::Present | Value::Grant(_) | Value::Translation(_) | Value::Comment(_) => {
                    None
                }
            })
            .collect();
        let mut shared: BTreeMap<(usize, u32), usize> = BTreeMap::new();
        for (range, class) in &classes.sources {
            if let Some(number) = before.get(&source(*range)) {
                *shared.entry((*class, *number)).or_default() += 1;
            }
        }
        let mut shared: Vec<_> = shared.into_iter().collect();
        shared.sort_by_key(|((class, number), count)| (usize::MAX - count, *number, *class));
        let mut numbers = vec![None; classes.reach.len()];
        let mut given: BTreeSet<u32> = BTreeSet::new();
        for ((class, number), _) in shared {
            if let Some(free @ None) = numbers.get_mut(class)
                && given.insert(number)
            {
                *free = Some(number);
            }
        }
        // A number that was in use before means other rules: not in the same change.
        given.extend(before.values());
        let mut fresh = (0..).filter(|number| !given.contains(number));
        let numbers = numbers
            .into_iter()
            .map(|number| number.or_else(|| fresh.next()).unwrap_or(u32::MAX))
            .collect();
        Self { classes, numbers }
    }

    fn number(&self, class: usize) -> u32 {
        self.numbers.get(class).copied().unwrap_or(u32::MAX)
    }

    /// Stretches of sources and the number of their class.
    pub(super) fn sources(&self) -> impl Iterator<Item = (AddressRange, u32)> {
        let sources = self.classes.sources.iter();
        sources.map(|(range, class)| (*range, self.number(*class)))
    }

    /// What each class may reach.
    pub(super) fn reach(&self) -> impl Iterator<Item = (u32, &[Reach])> {
        let reach = self.classes.reach.iter().enumerate();
        reach.map(|(class, reach)| (self.number(class), reach.as_slice()))
    }
}
