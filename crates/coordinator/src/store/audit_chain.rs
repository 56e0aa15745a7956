//! The hashes that tie the entries of the audit log together: pure.
//!
//! The hash of an entry covers all of its columns and the hash of the entry before it. So an entry
//! that was changed, taken out or put in no longer fits, and the newest entry's hash stands for
//! the whole log.

use super::AuditRow;
use crate::clock::hexadecimal;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// The most flaws that are listed.
const MAX_FLAWS: usize = 100;

/// An entry and its hash. That of the newest entry stands for the whole log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// The number of the entry, from 1; 0 when there is none.
    pub id: u64,
    /// Its hash, in hexadecimal digits.
    pub hash: String,
}

impl AuditHead {
    /// The head of a log without entries.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            id: 0,
            hash: String::new(),
        }
    }

    /// The head after `row`, whose own number and hash do not matter.
    #[must_use]
    pub(super) fn after(&self, row: &AuditRow) -> Self {
        let id = self.id + 1;
        Self {
            id,
            hash: hash(&self.hash, id, row),
        }
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.hash)
    }
}

impl FromStr for AuditHead {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once(':')
            .and_then(|(id, hash)| {
                let hexadecimal = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
                let id = id.parse().ok().filter(|id| *id > 0)?;
                hexadecimal.then(|| Self {
                    id,
                    hash: hash.to_ascii_lowercase(),
                })
            })
            .ok_or_else(|| {
                "write it as coordinator audit verify prints it: NUMBER:HASH, with 64 digits"
                    .to_owned()
            })
    }
}

/// Each column with its length before it, so that no text can be moved from one to the next.
fn hash(previous: &str, id: u64, row: &AuditRow) -> String {
    let mut hasher = Sha256::new();
    let mut add = |text: Option<&str>| match text {
        Some(text) => {
            hasher.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(text.as_bytes());
        }
        None => hasher.update(u64::MAX.to_be_bytes()),
    };
    add(Some(previous));
    add(Some(&id.to_string()));
    add(Some(&row.at.to_string()));
    for text in [&row.actor, &row.origin, &row.action, &row.subject] {
        add(Some(text));
    }
    add(row.before.as_deref());
    add(row.after.as_deref());
    hexadecimal(&hasher.finalize())
}

/// Something that is wrong with the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditFlaw {
    /// An entry is not what was written.
    Changed {
        /// The entry.
        id: u64,
    },
    /// Entries are not there.
    Missing {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// There are entries behind the newest that the coordinator wrote.
    Added {
        /// The first of them.
        first: u64,
    },
    /// An entry has another hash than the one that was kept elsewhere.
    OtherHash {
        /// The entry.
        id: u64,
    },
}

impl fmt::Display for AuditFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { id } => write!(f, "entry {id} is not what was written"),
            Self::Missing { first, last } if first == last => {
                write!(f, "entry {first} is missing")
            }
            Self::Missing { first, last } => write!(f, "entries {first} to {last} are missing"),
            Self::Added { first } => write!(
                f,
                "the entries from {first} on were not written by the coordinator"
            ),
            Self::OtherHash { id } => write!(
                f,
                "entry {id} has another hash than the one given: the log was written anew since \
                 that one was noted"
            ),
        }
    }
}

/// What came of checking the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// How many entries there are.
    pub entries: u64,
    /// The newest, as the coordinator wrote it.
    pub head: AuditHead,
    /// What is wrong: at most the first hundred.
    pub flaws: Vec<AuditFlaw>,
}

/// A check that is under way: fed with one entry after the other, by number.
#[derive(Debug)]
pub(super) struct Check {
    /// What the next entry must follow.
    previous: AuditHead,
    /// A hash that was kept elsewhere.
    known: Option<AuditHead>,
    entries: u64,
    flaws: Vec<AuditFlaw>,
}

impl Check {
    pub(super) const fn new(known: Option<AuditHead>) -> Self {
        Self {
            previous: AuditHead::none(),
            known,
            entries: 0,
            flaws: Vec::new(),
        }
    }

    fn flaw(&mut self, flaw: AuditFlaw) {
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(flaw);
        }
    }

    pub(super) fn entry(&mut self, row: &AuditRow) {
        self.entries += 1;
        let wanted = self.previous.id + 1;
        if row.id > wanted {
            let last = row.id - 1;
            self.flaw(AuditFlaw::Missing {
                first: wanted,
                last,
            });
            // What it follows is gone, so whether it was changed too cannot be told.
        } else if hash(&self.previous.hash, row.id, row) != row.hash {
            self.flaw(AuditFlaw::Changed { id: row.id });
        }
        let known = self.known.as_ref();
        if known.is_some_and(|known| known.id == row.id && known.hash != row.hash) {
            self.flaw(AuditFlaw::OtherHash { id: row.id });
        }
        // The stored hash, so that one changed entry does not make all after it look changed.
        self.previous = AuditHead {
            id: row.id,
            hash: row.hash.clone(),
        };
    }

    /// `head` is the newest entry as the coordinator noted it.
    pub(super) fn finish(mut self, head: AuditHead) -> AuditReport {
        let known = self.known.as_ref().map_or(0, |known| known.id);
        let newest = self.previous.id;
        let expected = head.id.max(known);
        if newest < expected {
            self.flaw(AuditFlaw::Missing {
                first: newest + 1,
                last: expected,
            });
        } else if newest > head.id {
            self.flaw(AuditFlaw::Added { first: head.id + 1 });
        } else if self.previous.hash != head.hash {
            self.flaw(AuditFlaw::Changed { id: newest });
        }
        AuditReport {
            entries: self.entries,
            head,
            flaws: self.flaws,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(length: u64) -> (Vec<AuditRow>, AuditHead) {
        let mut head = AuditHead::none();
        let rows = (1..=length)
            .map(|id| {
                let mut row = AuditRow {
                    id,
                    at: 7,
                    actor: "local admin uid 0".into(),
                    origin: "admin socket".into(),
                    action: "users.create".into(),
                    subject: format!("user {id}"),
                    before: None,
                    after: Some("{}".into()),
                    hash: String::new(),
                };
                head = head.after(&row);
                row.hash.clone_from(&head.hash);
                row
            })
            .collect();
        (rows, head)
    }

    fn flaws(rows: &[AuditRow], head: &AuditHead, known: Option<AuditHead>) -> Vec<AuditFlaw> {
        let mut check = Check::new(known);
        rows.iter().for_each(|row| check.entry(row));
        check.finish(head.clone()).flaws
    }

    #[test]
    fn a_log_as_it_was_written_has_no_flaw() {
        for length in [0, 1, 9] {
            let (rows, head) = log(length);
            assert_eq!(flaws(&rows, &head, None), []);
        }
        let (rows, head) = log(9);
        let known = AuditHead {
            id: 4,
            hash: rows[3].hash.clone(),
        };
        assert_eq!(known.to_string().parse(), Ok(known.clone()));
        assert_eq!(flaws(&rows, &head, Some(known)), []);
    }

    #[test]
    fn a_change_of_any_column_is_found() {
        type Change = fn(&mut AuditRow);
        let changes: [Change; 8] = [
            |row| row.at += 1,
            |row| row.actor.push('x'),
            |row| row.origin.push('x'),
            |row| row.action.push('x'),
            |row| row.subject.push('x'),
            |row| row.before = Some(String::new()),
            |row| row.after = None,
            |row| {
                // The same bytes, one column further.
                let moved = row.action.pop().unwrap();
                row.subject.insert(0, moved);
            },
        ];
        for change in changes {
            let (mut rows, head) = log(5);
            change(&mut rows[2]);
            assert_eq!(flaws(&rows, &head, None), [AuditFlaw::Changed { id: 3 }]);
        }
    }

    #[test]
    fn missing_and_added_entries_are_found() {
        let (mut rows, head) = log(5);
        rows.remove(1);
        rows.remove(1);
        assert_eq!(
            flaws(&rows, &head, None),
            [AuditFlaw::Missing { first: 2, last: 3 }]
        );
        let (mut rows, head) = log(5);
        rows.truncate(3);
        assert_eq!(
            flaws(&rows, &head, None),
            [AuditFlaw::Missing { first: 4, last: 5 }]
        );
        let (rows, _) = log(5);
        let (_, head) = log(4);
        assert_eq!(flaws(&rows, &head, None), [AuditFlaw::Added { first: 5 }]);
    }

    #[test]
    fn a_log_written_anew_is_found_by_a_hash_that_was_kept() {
        let (_, kept) = log(5);
        let (mut rows, _) = log(4);
        let mut head = AuditHead::none();
        for row in &mut rows {
            row.actor = "somebody else".into();
            head = head.after(row);
            row.hash.clone_from(&head.hash);
        }
        assert_eq!(
            flaws(&rows, &head, None),
            [],
            "nothing inside gives it away"
        );
        assert_eq!(
            flaws(&rows, &head, Some(kept)),
            [AuditFlaw::Missing { first: 5, last: 5 }]
        );
        let (honest, _) = log(4);
        let kept = AuditHead {
            id: 2,
            hash: honest[1].hash.clone(),
        };
        assert_eq!(
            flaws(&rows, &head, Some(kept)),
            [AuditFlaw::OtherHash { id: 2 }]
        );
    }
}
