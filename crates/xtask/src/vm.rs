//! `cargo xtask vm`: the tests on a stock Debian kernel, in an emulated machine.
//!
//! The machine has no disk and no network. Its root is this host's file system, read-only, with a
//! layer in memory over it: programs, tools and sources are simply there, and nothing comes back
//! but one directory with the status, the kernel's log and the tests' output. Emulation only
//! (`-accel tcg`): a KVM that can be opened need not be one that stock kernels survive.

mod image;
mod machine;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cargo::{TestProgram, build_tests, cargo, root, target_directory};
use crate::stages::{Tally, TestsFailed, must_succeed};
use crate::{packages, say};

use image::Image;
use machine::{Job, Machine, UNFINISHED};

/// Packages whose tests are worth a run on a stock kernel.
const TESTED: &[&str] = &["weir-lab", "weir-kernel", END_TO_END];
/// The package with the end-to-end tests, which run all our programs.
const END_TO_END: &str = "weir-tests";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Open a shell in the machine instead of running tests; `exit` ends it
    #[arg(long)]
    shell: bool,
    /// The whole run ends after this many minutes
    #[arg(long, default_value_t = DEFAULT_MINUTES)]
    minutes: u64,
    /// The Debian package with the kernel, such as linux-image-6.12-amd64
    #[arg(long, default_value = DEFAULT_KERNEL)]
    kernel: String,
    /// Run only the tests of these packages of the workspace
    #[arg(long = "package", short, default_values = TESTED)]
    packages: Vec<String>,
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
    /// Passed to every test program: a part of the tests' names, --nocapture and the like
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Debian's own choice of kernel.
const DEFAULT_KERNEL: &str = "linux-image-amd64";
/// Emulation is slow, but a run that takes longer than this hangs.
const DEFAULT_MINUTES: u64 = 70;

impl Options {
    /// All tests, as `cargo xtask test` runs them.
    pub(crate) fn all_tests(install: bool) -> Self {
        Self {
            shell: false,
            minutes: DEFAULT_MINUTES,
            kernel: DEFAULT_KERNEL.to_owned(),
            packages: TESTED.iter().map(ToString::to_string).collect(),
            no_install: !install,
            filter: Vec::new(),
        }
    }
}

/// Boots the machine, runs the tests in it, and returns what they counted.
pub(crate) fn run(options: &Options) -> Result<Tally> {
    packages::require_root("cargo xtask vm")?;
    let install = !options.no_install;
    let needs: Vec<_> = packages::LAB.iter().chain(packages::VM).copied().collect();
    packages::ensure(&needs, install)?;
    let target = target_directory()?;
    let image = Image::prepare(&target.join("vm"), &options.kernel, install)?;
    say::line("building what runs in the machine");
    must_succeed(&mut build_programs(&options.packages))?;
    let binaries = target.join("debug");
    let machine = Machine::new(&image, &target.join("vm"))?;
    if options.shell {
        let job = shell_job(&binaries);
        say::line("booting; the shell starts in this directory, with our programs in the path");
        return machine.shell(&job).map(|()| Tally::default());
    }
    let everything = options.packages.iter().any(|package| package == END_TO_END);
    let built = build_tests(if everything { &[] } else { &options.packages })?;
    let programs: Vec<_> = built
        .into_iter()
        .filter(|program| options.packages.contains(&program.package))
        .collect();
    let job = Job {
        script: test_script(&programs, &binaries, &options.filter),
    };
    say::line("booting (half a minute in emulation)");
    let (status, tally) = machine.run(&job, Duration::from_secs(60 * options.minutes))?;
    if status != 0 {
        return Err(TestsFailed(tally).into());
    }
    if tally == Tally::default() {
        bail!("no test matches {:?}", options.filter.join(" "));
    }
    Ok(tally)
}

/// Boots the machine, runs one program of this host in it, and returns what it printed.
pub(crate) fn output_of(program: &Path, arguments: &[OsString]) -> Result<String> {
    const REPORT: &str = "report";
    packages::require_root("this benchmark")?;
    say::aside();
    let needs: Vec<_> = packages::LAB.iter().chain(packages::VM).copied().collect();
    packages::ensure(&needs, true)?;
    let target = target_directory()?;
    let image = Image::prepare(&target.join("vm"), DEFAULT_KERNEL, true)?;
    let machine = Machine::new(&image, &target.join("vm"))?;
    let words: Vec<String> = std::iter::once(program.display().to_string())
        .chain(arguments.iter().map(|word| word.display().to_string()))
        .map(|word| quoted(&word))
        .collect();
    let directory = program.parent().context("a program has a directory")?;
    let job = Job {
        script: format!("{}{} > {REPORT}\n", environment(directory), words.join(" ")),
    };
    say::line("booting (half a minute in emulation)");
    let (status, _) = machine.run(&job, Duration::from_secs(60 * DEFAULT_MINUTES))?;
    if status != 0 {
        bail!("it ended with status {status} in the machine");
    }
    machine.left(REPORT)
}

/// Builds what the tests run: everything for the end-to-end tests, the lab's programs for others.
fn build_programs(packages: &[String]) -> Command {
    if packages.iter().any(|package| package == END_TO_END) {
        // With all targets, so that the tests built next need no other features of anything.
        cargo(&["build", "--workspace", "--all-targets", "--locked"])
    } else {
        cargo(&["build", "--package", "weir-lab", "--bins", "--locked"])
    }
}

/// What every job starts with.
fn environment(binaries: &Path) -> String {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    format!(
        "export WEIR_VM=1 RUST_BACKTRACE=1 HOME=/root LANG=C.UTF-8 TERM=linux\n\
         export WEIR_BIN_DIR={0}\nexport PATH={0}:{path}\n",
        quoted(&binaries.display().to_string())
    )
}

fn shell_job(binaries: &Path) -> Job {
    let directory = quoted(&root().display().to_string());
    Job {
        script: format!(
            "{}cd {directory}\nexec bash --norc -i\n",
            environment(binaries)
        ),
    }
}

/// Programs run two at a time, as the machine has processors: each is a process with network
/// namespaces of its own. What one printed is shown when it has ended, and lies in
/// a file of the shared directory until then.
fn test_script(programs: &[TestProgram], binaries: &Path, filter: &[String]) -> String {
    let arguments: String = filter
        .iter()
        .map(|word| format!(" {}", quoted(word)))
        .collect();
    let mut script = environment(binaries);
    script += "shared=$PWD\n";
    for (number, program) in programs.iter().enumerate() {
        let variables: String = program
            .environment()
            .iter()
            .map(|(name, value)| format!("{name}={} ", quoted(&value.display().to_string())))
            .collect();
        script += &format!(
            "program_{number}() {{\n\
             echo; echo '     Running {} on Linux '\"$(uname -r)\"\n\
             cd {} && {variables}{} --color=never --test-threads=1{arguments}\n}}\n",
            program.title(),
            quoted(&program.directory.display().to_string()),
            quoted(&program.executable.display().to_string()),
        );
    }
    let numbers: String = (0..programs.len())
        .map(|number| format!(" {number}"))
        .collect();
    script += &format!(
        r#"lane() {{
    for number in{numbers}; do
        mkdir "$shared/taken-$number" 2> /dev/null || continue
        output="$shared/{UNFINISHED}$number"
        ("program_$number") > "$output" 2>&1 < /dev/null && : > "$shared/passed-$number"
        flock "$shared/taken-0" cat "$output"
        rm "$output"
    done
}}
lane & lane & wait
for number in{numbers}; do
    test -e "$shared/passed-$number" || exit 1
done
"#
    );
    script
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn program(executable: &str) -> TestProgram {
        TestProgram {
            package: "weir-tests".to_owned(),
            directory: PathBuf::from("/"),
            executable: PathBuf::from(executable),
        }
    }

    #[test]
    fn a_script_runs_every_program_and_remembers_a_failure() {
        for (programs, taken, succeeds) in [
            (["/bin/true", "/bin/echo", "/bin/true"], None, true),
            (["/bin/true", "/bin/false", "/bin/echo"], None, false),
            // Whatever kept a program from being run, it has not passed.
            (
                ["/bin/true", "/bin/echo", "/bin/true"],
                Some("taken-2"),
                false,
            ),
        ] {
            let filter = ["it's".to_owned(), "--nocapture".to_owned()];
            let script = test_script(&programs.map(program), Path::new("/w/debug"), &filter);
            let shared = tempfile::tempdir().unwrap();
            if let Some(name) = taken {
                std::fs::create_dir(shared.path().join(name)).unwrap();
            }
            let mut shell = Command::new("sh");
            let ended = shell
                .args(["-c", &script])
                .current_dir(shared.path())
                .output()
                .unwrap();
            let printed = String::from_utf8(ended.stdout).unwrap();
            assert_eq!(ended.status.success(), succeeds, "{printed}");
            assert_eq!(
                printed.matches("Running weir-tests").count(),
                3 - usize::from(taken.is_some()),
                "{printed}"
            );
            let arguments = "--color=never --test-threads=1 it's --nocapture";
            assert_eq!(printed.matches(arguments).count(), 1, "{printed}");
        }
    }
}
