//! The state directory: files that are either the old one or the new one, never half of each.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Why the state directory did not serve.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It could not be made or closed to others.
    #[error("cannot make the state directory {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written. The old one is still there.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what this version writes.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A directory that only its owner may enter (0700), with files that only they may read (0600).
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// Opens the directory and makes it when it is not there.
    ///
    /// # Errors
    /// [`DirectoryError::Open`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Open {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// The path of a file in it.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// [`DirectoryError::Read`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DirectoryError> {
        let path = self.path_of(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DirectoryError::Read { path, source }),
        }
    }

    /// Reads a JSON file; `None` when there is none.
    ///
    /// # Errors
    /// [`DirectoryError::Read`], and [`DirectoryError::Damaged`] for what does not parse.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, DirectoryError> {
        self.read(name)?
            .map(|bytes| {
                serde_json::from_slice(&bytes).map_err(|source| DirectoryError::Damaged {
                    path: self.path_of(name),
                    source,
                })
            })
            .transpose()
    }

    /// Writes a file so that a crash at any point leaves the old one or the new one: into a
    /// temporary file, to the disk, renamed into place, and the directory to the disk.
    ///
    /// # Errors
    /// [`DirectoryError::Write`]; then the old file is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        let path = self.path_of(name);
        let temporary = self.path_of(&format!("{name}.new"));
        let written = (|| {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(|source| DirectoryError::Write { path, source })
    }

    /// Writes a JSON file, as [`Self::write`] does.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), DirectoryError> {
        let mut bytes = serde_json::to_vec(value).map_err(|error| DirectoryError::Write {
            path: self.path_of(name),
            source: io::Error::other(error),
        })?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DirectoryError::Write { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Renames a damaged file to `NAME.damaged`, over an earlier one: kept for a person to look
    /// at, out of the way of the program. Says where it is now.
    ///
    /// # Errors
    /// [`DirectoryError::Write`].
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, DirectoryError> {
        let aside = self.path_of(&format!("{name}.damaged"));
        fs::rename(self.path_of(name), &aside).map_err(|source| DirectoryError::Write {
            path: aside.clone(),
            source,
        })?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directory_are_closed_to_others() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let directory = StateDirectory::open(&path).unwrap();
        directory.write("x.json", b"{}").unwrap();
        directory.write("x.json", b"[]").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&directory.path_of("x.json")), 0o600);
        assert_eq!(directory.read("x.json").unwrap().unwrap(), b"[]");
        assert_eq!(directory.read("y.json").unwrap(), None);
    }

    #[test]
    fn a_half_written_temporary_file_does_no_harm() {
        let root = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(root.path()).unwrap();
        directory.write("x.json", b"1").unwrap();
        fs::write(directory.path_of("x.json.new"), b"garb").unwrap();
        assert_eq!(directory.read_json::<u32>("x.json").unwrap(), Some(1));
        directory.write("x.json", b"2").unwrap();
        assert_eq!(directory.read_json::<u32>("x.json").unwrap(), Some(2));
    }
}
