//! Namespaces for tests: each node has its own network, and its own empty `/run`.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{
    future::Future,
    process::{Command, Output},
    sync::mpsc,
    thread::JoinHandle,
};
use tokio::runtime::{Builder, Runtime};
use weir_kernel::{KernelOptions, LinuxKernel, userspace::DeviceProgram};
use weir_kernel_plan::{Kernel, ObservedState, Scope, Step};
use weir_overlay::{InterfaceName, NodePrivateKey};

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// A thread in namespaces of its own. Everything that it starts lives in them too.
pub(crate) struct Node {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// The thread's id: `ip link set X netns THREAD` moves a link here.
    pub(crate) thread_id: i32,
}

impl Node {
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("needs root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(
                Some("run"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            run("ip link set lo up");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let _at_the_end = RemoveLink;
            for job in inbox {
                job(&runtime);
            }
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            thread_id: started.recv().expect("the node starts"),
        }
    }

    /// Runs `work` in the node.
    pub(crate) fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.start(work)
            .recv()
            .expect("the work in the node panicked")
    }

    /// Starts `work` in the node; its result comes later.
    pub(crate) fn start<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> mpsc::Receiver<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |runtime| {
            let _receiver_gone = done.send(runtime.block_on(work()));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result
    }

    /// Runs a command line in the node; its standard output.
    pub(crate) fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(|| async move { run(&line) })
    }
}

/// Removes the link also when a test fails: a userspace device ends with its link.
struct RemoveLink;

impl Drop for RemoveLink {
    fn drop(&mut self) {
        let _gone = output("ip link del weir0");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

pub(crate) fn output(line: &str) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}

/// Runs a command line in the namespaces of this thread; its standard output.
pub(crate) fn run(line: &str) -> String {
    let output = output(line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn interface() -> InterfaceName {
    "weir0".parse().unwrap()
}

pub(crate) fn scope() -> Scope {
    Scope {
        interface: interface(),
        sysctls: Default::default(),
        paths: Default::default(),
    }
}

/// The adapter, with the device program that cargo built for these tests.
pub(crate) fn kernel() -> LinuxKernel {
    let program = std::env::var_os("WEIR_USERSPACE_DEVICE")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_weir-userspace-wireguard").into());
    LinuxKernel::new(KernelOptions {
        userspace_device: DeviceProgram {
            program: program.into(),
            arguments: Vec::new(),
        },
        ..KernelOptions::default()
    })
}

pub(crate) async fn apply(kernel: &LinuxKernel, step: Step) {
    kernel.apply(&scope(), &step).await.unwrap();
    // Doing a step twice is the same as doing it once.
    kernel.apply(&scope(), &step).await.unwrap();
}

pub(crate) async fn observe(kernel: &LinuxKernel) -> ObservedState {
    kernel.observe(&scope()).await.unwrap()
}

pub(crate) fn private_key(seed: u8) -> NodePrivateKey {
    NodePrivateKey::from_bytes([seed; 32])
}

/// What can be seen of the network of this thread's namespace, and of control sockets.
pub(crate) fn scratch() -> String {
    let commands = [
        "ip -o link",
        "ip -o addr",
        "ip rule show",
        "ip -6 rule show",
        "ip route show table all",
        "nft list ruleset",
        "ls -R /run",
    ];
    commands.iter().map(|line| run(line)).collect()
}

/// A link that is somebody's cable, up. (Not every kernel has dummy links.)
pub(crate) fn add_cable(name: &str) {
    run(&format!(
        "ip link add {name} type veth peer name {name}-far"
    ));
    run(&format!("ip link set {name}-far up"));
    run(&format!("ip link set {name} up"));
}
