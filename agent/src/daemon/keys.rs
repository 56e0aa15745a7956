//! The host's two keys: made once, kept in the state directory, never shown; and a third one while
//! WireGuard's is changed.

use anyhow::{Context, Result, bail};
use weir_overlay::{KeyError, MachinePrivateKey, NodePrivateKey};
use weir_protocol::NetworkMap;
use weir_reconcile::StateDirectory;

const MACHINE: &str = "machine.key";
const NODE: &str = "node.key";
const NEXT: &str = "node.key.next";

/// The private keys.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// Signs requests to the coordinator.
    pub(crate) machine: MachinePrivateKey,
    /// WireGuard's.
    pub(crate) node: NodePrivateKey,
    /// The one that takes its place as soon as the network map names it.
    next: Option<NodePrivateKey>,
}

impl Keys {
    /// Reads the keys, and makes those that are not there.
    ///
    /// # Errors
    /// The file that cannot be read or written, or is no key. Never a key itself.
    pub(crate) fn open(directory: &StateDirectory) -> Result<Self> {
        let machine = read_or_make(directory, MACHINE)?;
        let node = read_or_make(directory, NODE)?;
        Ok(Self {
            machine: parsed(directory, MACHINE, MachinePrivateKey::parse(&machine))?,
            node: parsed(directory, NODE, NodePrivateKey::parse(&node))?,
            next: match read(directory, NEXT)? {
                Some(next) => Some(parsed(directory, NEXT, NodePrivateKey::parse(&next))?),
                None => None,
            },
        })
    }

    /// These keys with one to come, on disk: the one that was to come already, if there is one.
    ///
    /// # Errors
    /// A key that cannot be made or written.
    pub(crate) fn with_next(&self, directory: &StateDirectory) -> Result<Self> {
        let mut keys = self.clone();
        if keys.next.is_none() {
            let next = read_or_make(directory, NEXT)?;
            keys.next = Some(parsed(directory, NEXT, NodePrivateKey::parse(&next))?);
        }
        Ok(keys)
    }

    /// WireGuard's key as the coordinator should have it.
    pub(crate) fn newest(&self) -> &NodePrivateKey {
        self.next.as_ref().unwrap_or(&self.node)
    }

    /// Puts the key that was to come in the place of the old one, where a network map names it.
    ///
    /// # Errors
    /// A file that cannot be written: the keys are right all the same, and the file is of use to
    /// the next start.
    pub(crate) fn follow(&mut self, map: &NetworkMap, directory: &StateDirectory) -> Result<()> {
        let named = map.node.key.public;
        let is_named = |next: &mut NodePrivateKey| Some(next.public()) == named;
        let Some(next) = self.next.take_if(is_named) else {
            return Ok(());
        };
        let text = next.reveal();
        self.node = next;
        directory.write(NODE, text.as_bytes())?;
        directory.remove(NEXT)?;
        Ok(())
    }
}

/// Removes all keys from the disk: this host is a stranger from then on.
///
/// # Errors
/// The file that cannot be removed.
pub(crate) fn forget(directory: &StateDirectory) -> Result<()> {
    for name in [NEXT, NODE, MACHINE] {
        directory.remove(name)?;
    }
    Ok(())
}

fn parsed<T>(directory: &StateDirectory, name: &str, key: Result<T, KeyError>) -> Result<T> {
    key.with_context(|| {
        format!(
            "{} is damaged: put it back from a backup, or remove it and enrol this machine again",
            directory.path_of(name).display()
        )
    })
}

fn read(directory: &StateDirectory, name: &str) -> Result<Option<String>> {
    let Some(bytes) = directory.read(name)? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .or_else(|_| bail!("{} is not text", directory.path_of(name).display()))
}

fn read_or_make(directory: &StateDirectory, name: &str) -> Result<String> {
    if let Some(text) = read(directory, name)? {
        return Ok(text);
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("cannot draw a random key")?;
    // Any 32 bytes are a key of either kind; both are written in the same way.
    let text = NodePrivateKey::from_bytes(bytes).reveal();
    directory.write(name, text.as_bytes())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_closed_to_others() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        let first = Keys::open(&directory).unwrap();
        let again = Keys::open(&directory).unwrap();
        assert!(first.machine == again.machine && first.node == again.node);
        let mode = std::fs::metadata(directory.path_of(NODE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(directory.path_of(NODE), "c2hvcnQ=").unwrap();
        let error = format!("{:#}", Keys::open(&directory).unwrap_err());
        assert!(
            error.contains("node.key is damaged") && !error.contains("c2hvcnQ"),
            "{error}"
        );
    }
}
