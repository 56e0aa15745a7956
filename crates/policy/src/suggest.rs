//! The nearest valid name to a misspelt one.

use std::cell::Cell;

/// The candidate with the fewest edits from `name`, when they are few enough to be a slip: one, or
/// a third of the name. The first in order among equals.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    // A longer name is no slip, and the table below grows with the square of it.
    if allowed > 32 {
        return None;
    }
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(name.len()) <= 4 * allowed)
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Suggests names, until it has compared so many that nobody would wait for more: a file with
/// thousands of unknown names has another problem.
#[derive(Debug)]
pub(crate) struct Suggestions {
    /// How many names may still be compared.
    left: Cell<usize>,
}

impl Default for Suggestions {
    fn default() -> Self {
        Self {
            left: Cell::new(20_000),
        }
    }
}

impl Suggestions {
    /// `did you mean "..."?`, when there is a nearest name.
    pub(crate) fn did_you_mean<'a>(
        &self,
        name: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Option<String> {
        let left = self.left.get();
        let mut compared = 0;
        let candidates = candidates.into_iter().take(left);
        let nearest = nearest(name, candidates.inspect(|_| compared += 1));
        self.left.set(left - compared);
        nearest.map(|candidate| format!("did you mean {candidate:?}?"))
    }
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 32 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut edits = (above[j] + usize::from(x != y))
                .min(above[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_names_are_not() {
        let names = ["groups", "hosts", "acls", "tagOwners"];
        assert_eq!(nearest("gruops", names), Some("groups"));
        assert_eq!(nearest("ACLs", names), Some("acls"));
        assert_eq!(nearest("tag_owners", names), Some("tagOwners"));
        assert_eq!(nearest("firewall", names), None);
        assert_eq!(nearest(&"x".repeat(10_000), names), None);
    }

    #[test]
    fn suggestions_come_to_an_end() {
        let suggestions = Suggestions { left: Cell::new(6) };
        let asked = || suggestions.did_you_mean("gruops", ["hosts", "acls", "groups", "tests"]);
        assert_eq!(asked().as_deref(), Some("did you mean \"groups\"?"));
        assert_eq!(asked(), None);
        assert_eq!(asked(), None);
    }
}
