//! The host's own settings, remembered from before the first change until they are put back.

use std::collections::BTreeMap;
use weir_kernel_plan::SysctlKey;

use crate::{DirectoryError, StateDirectory};

const FILE: &str = "host.json";

/// The kernel settings that were changed, and their values from before.
#[derive(Debug)]
pub struct SavedHost {
    directory: StateDirectory,
    originals: BTreeMap<SysctlKey, String>,
}

impl SavedHost {
    /// Reads what is saved in a state directory.
    ///
    /// # Errors
    /// [`DirectoryError`]. A damaged file is an error, not an empty one: guessing here would mean
    /// not putting the host back as it was.
    pub fn open(directory: StateDirectory) -> Result<Self, DirectoryError> {
        let originals = directory.read_json(FILE)?.unwrap_or_default();
        Ok(Self {
            directory,
            originals,
        })
    }

    /// The values from before, by setting.
    #[must_use]
    pub const fn originals(&self) -> &BTreeMap<SysctlKey, String> {
        &self.originals
    }

    /// Remembers a setting's value before its first change; later values are ours and are not
    /// taken. On disk when this returns.
    ///
    /// # Errors
    /// [`DirectoryError::Write`]; then the setting must not be changed.
    pub fn remember(&mut self, key: &SysctlKey, value: &str) -> Result<(), DirectoryError> {
        if self.originals.contains_key(key) {
            return Ok(());
        }
        let mut originals = self.originals.clone();
        originals.insert(key.clone(), value.to_owned());
        self.directory.write_json(FILE, &originals)?;
        self.originals = originals;
        Ok(())
    }

    /// Forgets everything: the host is as it was.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub fn clear(&mut self) -> Result<(), DirectoryError> {
        self.directory.remove(FILE)?;
        self.originals.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays_until_it_is_put_back() {
        let root = tempfile::tempdir().unwrap();
        let open = || SavedHost::open(StateDirectory::open(root.path()).unwrap()).unwrap();
        let key = SysctlKey::ipv4_forwarding();
        let mut saved = open();
        saved.remember(&key, "0").unwrap();
        saved.remember(&key, "1").unwrap();
        assert_eq!(open().originals().get(&key).map(String::as_str), Some("0"));
        saved.clear().unwrap();
        assert!(open().originals().is_empty());
    }
}
