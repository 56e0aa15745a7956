//! What the machine boots: a stock kernel, and an initramfs that finds the root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::stages::must_succeed;

/// What the initramfs needs to reach the root; `modprobe` in the machine finds the rest.
const EARLY_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// The first program of the machine.
const INIT: &str = include_str!("init.sh");

/// Files to boot from.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The directory that the machine sees as `/lib/modules`.
    pub(crate) modules: PathBuf,
}

impl Image {
    /// Downloads what is missing into `directory` and puts the initramfs together.
    pub(crate) fn prepare(directory: &Path, kernel_package: &str, install: bool) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let package = concrete_package(directory, kernel_package, install)?;
        let tree = fetched(directory, &package, install)?;
        let busybox_tree = fetched(directory, "busybox-static", install)?;
        let busybox = first_existing(&busybox_tree, &["bin/busybox", "usr/bin/busybox"])?;
        let modules = first_existing(&tree, &["lib/modules", "usr/lib/modules"])?;
        let version = only_entry(&modules)?;
        let kernel = tree.join("boot").join(format!("vmlinuz-{version}"));
        if !kernel.is_file() {
            bail!("the package {package} has no kernel {}", kernel.display());
        }
        let base = modules
            .parent()
            .and_then(Path::parent)
            .context("the modules have no base")?;
        if !modules.join(&version).join("modules.dep").is_file() {
            // A package leaves this to its installation, which does not happen here.
            let base = if base.ends_with("usr") {
                tree.as_path()
            } else {
                base
            };
            must_succeed(
                Command::new("depmod")
                    .arg("--basedir")
                    .arg(base)
                    .arg(&version),
            )?;
        }
        let initramfs = directory.join(format!("{package}.initramfs"));
        let archive = initramfs_archive(&busybox, &modules.join(&version))?;
        // Another run may be about to boot from it.
        let part = directory.join(format!("initramfs-{}.part", process::id()));
        fs::write(&part, archive)
            .and_then(|()| fs::rename(&part, &initramfs))
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        Ok(Self {
            kernel,
            initramfs,
            modules,
        })
    }
}

/// Follows a meta package to the package with the kernel. The answer is kept, so that a second
/// run needs neither the package lists nor the network.
fn concrete_package(directory: &Path, name: &str, install: bool) -> Result<String> {
    let answer = directory.join(format!("{name}.is"));
    if let Ok(kept) = fs::read_to_string(&answer)
        && directory.join(kept.trim()).is_dir()
    {
        return Ok(kept.trim().to_owned());
    }
    let mut found = dependency(name)?;
    if found.is_none() && install {
        packages::update()?;
        found = dependency(name)?;
    }
    let package = found.with_context(|| {
        format!("the package lists have no kernel package {name}; try `apt-cache search linux-image` and --kernel NAME")
    })?;
    fs::write(&answer, &package).with_context(|| format!("cannot write {}", answer.display()))?;
    Ok(package)
}

/// The kernel package that `name` depends on, or itself; none when the lists do not know it.
fn dependency(name: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "--important", name])
        .stderr(Stdio::null())
        .output()
        .context("cannot run apt-cache; the machine's kernel is a Debian package")?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let kernel = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"));
    Ok(Some(kernel.unwrap_or(name).to_owned()))
}

fn fetched(directory: &Path, package: &str, install: bool) -> Result<PathBuf> {
    let tree = directory.join(package);
    if !tree.is_dir() {
        if !install {
            bail!("{package} is not downloaded; run once without --no-install");
        }
        if packages::unpack(package, &tree).is_err() {
            // Old lists name versions that the archive no longer has.
            packages::update()?;
            packages::unpack(package, &tree)?;
        }
    }
    Ok(tree)
}

fn first_existing(tree: &Path, candidates: &[&str]) -> Result<PathBuf> {
    let found = candidates
        .iter()
        .map(|path| tree.join(path))
        .find(|path| path.exists());
    found.with_context(|| format!("{} has none of {}", tree.display(), candidates.join(", ")))
}

fn only_entry(directory: &Path) -> Result<String> {
    let mut entries = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .flatten();
    let entry = entries
        .next()
        .with_context(|| format!("{} is empty", directory.display()))?;
    Ok(entry.file_name().display().to_string())
}

/// An archive with busybox, the early modules in the order of loading, and the init script.
fn initramfs_archive(busybox: &Path, modules: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in [
        "bin", "modules", "proc", "sys", "dev", "host", "memory", "root",
    ] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &read(busybox)?);
    let mut order = String::new();
    for path in early_modules(modules)? {
        let name = path
            .file_name()
            .context("a module has no name")?
            .display()
            .to_string();
        let name = name
            .split_once(".ko")
            .map_or(name.as_str(), |(stem, _)| stem);
        archive.file(&format!("modules/{name}.ko"), 0o644, &module_bytes(&path)?);
        order += &format!("{name}.ko\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// The files of the early modules and of what they depend on, dependencies first.
fn early_modules(modules: &Path) -> Result<Vec<PathBuf>> {
    let dependencies = fs::read_to_string(modules.join("modules.dep"))
        .with_context(|| format!("cannot read {}/modules.dep", modules.display()))?;
    let mut files = Vec::new();
    for wanted in EARLY_MODULES {
        // "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/…", the deepest dependency last.
        // What is built into the kernel is not listed.
        let line = dependencies.lines().find(|line| {
            line.split_once(".ko")
                .and_then(|(path, _)| path.rsplit('/').next())
                == Some(*wanted)
        });
        let Some((file, needed)) = line.and_then(|line| line.split_once(':')) else {
            continue;
        };
        for file in needed.split_whitespace().rev().chain([file]) {
            let path = modules.join(file);
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A module as the initramfs can load it: some packages ship them compressed.
fn module_bytes(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return read(path);
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("cannot run xz")?;
    if !output.status.success() {
        bail!("xz cannot read {}", path.display());
    }
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A cpio archive in the format that Linux takes as an initramfs (`newc`, see the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | permissions, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (number, size, name_size) = (self.entries, content.len(), name.len() + 1);
        // magic, inode, mode, owner, group, links, time, size, device (2), special device (2),
        // length of the name, checksum (unused)
        let header = format!(
            "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0, 1
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_expects() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        // Header (110), name with its end (5), padding to 116, content.
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"hello");
        assert_eq!(&bytes[54..62], b"00000005");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
