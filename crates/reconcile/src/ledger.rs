//! The last good network map, on disk before it is acted on.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use weir_overlay::Generation;
use weir_protocol::NetworkMap;

use crate::{DirectoryError, StateDirectory};

const FILE: &str = "ledger.json";
/// The only format so far. A file with a higher one was written by a newer agent.
const FORMAT: u32 = 1;

/// Why the ledger did not take a map.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Older than what is held: a late message, or a coordinator that went back in time.
    #[error(
        "the coordinator sent map {given}, but map {held} is in force: an older map is never \
         applied; if the coordinator was restored from a backup, run `agent down` and `agent up`"
    )]
    Older {
        /// The map given.
        given: Generation,
        /// The map held.
        held: Generation,
    },
    /// Two maps of one number that differ.
    #[error(
        "the coordinator sent map {generation} twice with different content: the first one stays \
         in force"
    )]
    Conflict {
        /// The number.
        generation: Generation,
    },
    /// The disk did not take it.
    #[error("cannot save the network map")]
    Disk(#[source] DirectoryError),
}

#[derive(Serialize)]
struct RecordRef<'a> {
    format: u32,
    map: &'a NetworkMap,
}

#[derive(Deserialize)]
struct Record {
    format: u32,
    map: NetworkMap,
}

/// The ledger: holds one map, the newest that was accepted.
#[derive(Debug)]
pub struct Ledger {
    directory: StateDirectory,
    held: Option<NetworkMap>,
}

/// A ledger, and what was wrong with its file.
#[derive(Debug)]
pub struct LedgerOpened {
    /// The ledger.
    pub ledger: Ledger,
    /// Where a damaged file was put; the ledger is then empty.
    pub damaged: Option<PathBuf>,
}

impl Ledger {
    /// Opens the ledger in a state directory. A damaged file is set aside and counts as none: the
    /// coordinator sends the map again.
    ///
    /// # Errors
    /// [`DirectoryError`] when the file cannot be read or set aside.
    pub fn open(directory: StateDirectory) -> Result<LedgerOpened, DirectoryError> {
        let (held, damaged) = match directory.read_json::<Record>(FILE) {
            Ok(Some(record)) if record.format == FORMAT => (Some(record.map), None),
            Ok(None) => (None, None),
            Ok(Some(_)) | Err(DirectoryError::Damaged { .. }) => {
                (None, Some(directory.set_aside(FILE)?))
            }
            Err(error) => return Err(error),
        };
        Ok(LedgerOpened {
            ledger: Self { directory, held },
            damaged,
        })
    }

    /// The map in force.
    #[must_use]
    pub const fn map(&self) -> Option<&NetworkMap> {
        self.held.as_ref()
    }

    /// Takes a map: when this returns, it is on disk. Says whether it is a new one; the map held
    /// already is fine, and changes nothing.
    ///
    /// # Errors
    /// [`LedgerError`]; after [`LedgerError::Disk`] the map before is on disk and this one is held
    /// in memory, so that a full disk does not keep a revocation from taking effect.
    pub fn commit(&mut self, map: NetworkMap) -> Result<bool, LedgerError> {
        if let Some(held) = &self.held {
            if map.generation < held.generation {
                return Err(LedgerError::Older {
                    given: map.generation,
                    held: held.generation,
                });
            }
            if map.generation == held.generation {
                return if map == *held {
                    Ok(false)
                } else {
                    Err(LedgerError::Conflict {
                        generation: map.generation,
                    })
                };
            }
        }
        let written = self.directory.write_json(
            FILE,
            &RecordRef {
                format: FORMAT,
                map: &map,
            },
        );
        self.held = Some(map);
        written.map(|()| true).map_err(LedgerError::Disk)
    }

    /// The node is not in the network any more: from now on its map allows nothing, also after a
    /// restart. Any map that the coordinator sends is newer. Says whether that is news.
    ///
    /// # Errors
    /// [`LedgerError::Disk`]; then it is so in memory only.
    pub fn shut_out(&mut self) -> Result<bool, LedgerError> {
        let Some(held) = &mut self.held else {
            return Ok(false);
        };
        let mut shut = held.clone();
        shut.generation = Generation::default();
        shut.node.routes.clear();
        shut.peers.clear();
        shut.filter.clear();
        shut.notices.clear();
        if shut == *held {
            return Ok(false);
        }
        *held = shut;
        let record = RecordRef {
            format: FORMAT,
            map: held,
        };
        let written = self.directory.write_json(FILE, &record);
        written.map(|()| true).map_err(LedgerError::Disk)
    }

    /// Forgets the map: the node left the network, or joined another one, whose numbers mean
    /// something else.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub fn forget(&mut self) -> Result<(), DirectoryError> {
        self.held = None;
        self.directory.remove(FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use weir_overlay::NodeId;
    use weir_protocol::SelfNode;

    fn map(generation: u64, notice: &str) -> NetworkMap {
        NetworkMap {
            generation: Generation(generation),
            node: SelfNode {
                egress: Vec::new(),
                id: NodeId(1),
                name: "relay".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: BTreeSet::new(),
                routes: Vec::new(),
                key: weir_protocol::KeyStatus::default(),
            },
            peers: BTreeMap::new(),
            filter: Vec::new(),
            notices: vec![notice.to_owned()],
        }
    }

    fn open(root: &tempfile::TempDir) -> LedgerOpened {
        Ledger::open(StateDirectory::open(root.path()).unwrap()).unwrap()
    }

    #[test]
    fn who_is_shut_out_stays_so_until_the_next_map() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        let mut ledger = Ledger::open(directory.clone()).unwrap().ledger;
        assert!(!ledger.shut_out().unwrap());
        ledger.commit(map(7, "a")).unwrap();
        assert!(ledger.shut_out().unwrap());
        assert!(!ledger.shut_out().unwrap());
        let mut ledger = Ledger::open(directory).unwrap().ledger;
        let shut = ledger.map().unwrap();
        assert!(shut.notices.is_empty() && shut.node.name == map(7, "a").node.name);
        // The coordinator may have made a mistake, and sends the same map again.
        assert!(ledger.commit(map(7, "a")).unwrap());
    }

    #[test]
    fn a_map_survives_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let mut ledger = open(&root).ledger;
        assert!(ledger.map().is_none());
        assert!(ledger.commit(map(3, "a")).unwrap());
        assert!(!ledger.commit(map(3, "a")).unwrap());
        let again = open(&root);
        assert_eq!(again.ledger.map(), Some(&map(3, "a")));
        assert_eq!(again.damaged, None);
    }

    #[test]
    fn older_and_contradicting_maps_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut ledger = open(&root).ledger;
        ledger.commit(map(3, "a")).unwrap();
        assert!(matches!(
            ledger.commit(map(2, "a")),
            Err(LedgerError::Older { .. })
        ));
        assert!(matches!(
            ledger.commit(map(3, "b")),
            Err(LedgerError::Conflict { .. })
        ));
        assert_eq!(ledger.map(), Some(&map(3, "a")));
        ledger.forget().unwrap();
        assert!(ledger.commit(map(1, "other network")).unwrap());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        for garbage in ["{\"format\":1,\"map\":", "{\"format\":99,\"map\":{}}", ""] {
            std::fs::write(root.path().join(FILE), garbage).unwrap();
            let opened = open(&root);
            assert!(opened.ledger.map().is_none());
            let aside = opened.damaged.unwrap();
            assert_eq!(std::fs::read_to_string(aside).unwrap(), garbage);
            assert!(!root.path().join(FILE).exists());
        }
    }
}
