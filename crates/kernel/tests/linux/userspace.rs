//! The userspace device as a process: it outlives who started it, and can be killed.

use crate::{
    support::{Node, apply, kernel, observe, output, private_key, run, scope},
    wireguard::{bring_up, device_process, update},
};
use nix::sys::signal::{Signal, kill};
use std::time::{Duration, Instant};
use weir_kernel::LinuxKernel;
use weir_kernel_plan::{Kernel, Step, WireguardBackend};

#[test]
fn the_userspace_device_answers_wg_and_outlives_who_started_it() {
    let node = Node::new();
    node.run(|| async {
        // The adapter, and with it everything that started the device, goes away.
        let kernel = kernel();
        bring_up(&kernel, WireguardBackend::Userspace, 1, "100.64.0.1/32").await;
        let key = private_key(2).public();
        apply(
            &kernel,
            Step::UpdatePeers(vec![update(key, &["100.64.0.2/32"])]),
        )
        .await;
    });
    node.run(|| async {
        let kernel = kernel();
        let device = observe(&kernel).await.device.unwrap();
        assert_eq!(device.peers.len(), 1);
        let printed = run("wg show weir0");
        assert!(
            printed.contains(&private_key(2).public().to_string()),
            "{printed}"
        );
        assert!(!printed.contains(&private_key(1).reveal()));
        // It leads a session of its own, so that no terminal or service manager's signal to its
        // parent's group reaches it.
        let process = device_process();
        assert_eq!(nix::unistd::getsid(Some(process)), Ok(process));
        let mode = run("stat -c %a /run/wireguard/weir0.sock");
        assert_eq!(mode.trim(), "600");
        // A second one of the same name is refused, and does no harm.
        let program = env!("CARGO_BIN_EXE_weir-userspace-wireguard");
        let second = output(&format!("{program} weir0"));
        assert!(String::from_utf8_lossy(&second.stderr).contains("exists already"));
        assert_eq!(observe(&kernel).await.device.unwrap().peers.len(), 1);
    });
}

#[test]
fn a_killed_device_can_be_started_again_and_a_hanging_one_removed() {
    Node::new().run(|| async {
        let kernel = kernel();
        bring_up(&kernel, WireguardBackend::Userspace, 1, "100.64.0.1/32").await;
        kill(device_process(), Signal::SIGKILL).unwrap();
        let gone = Instant::now() + Duration::from_secs(30);
        while observe(&kernel).await.link.is_some() {
            assert!(Instant::now() < gone, "the link stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bring_up(&kernel, WireguardBackend::Userspace, 1, "100.64.0.1/32").await;
        let process = device_process();
        kill(process, Signal::SIGSTOP).unwrap();
        kernel.apply(&scope(), &Step::DeleteLink).await.unwrap();
        assert_eq!(observe(&kernel).await.link, None);
        let ended = Instant::now() + Duration::from_secs(30);
        while kill(process, None).is_ok() {
            assert!(Instant::now() < ended, "the process stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_device_that_cannot_start_says_why() {
    Node::new().run(|| async {
        let kernel = LinuxKernel::new(weir_kernel::KernelOptions {
            userspace_device: weir_kernel::userspace::DeviceProgram {
                program: "/bin/sh".into(),
                arguments: vec![
                    "-c".into(),
                    "echo the tun module is missing >&2; exit 3".into(),
                ],
            },
            ..weir_kernel::KernelOptions::default()
        });
        let step = Step::CreateLink {
            backend: WireguardBackend::Userspace,
            mtu: 1420,
        };
        let error = kernel.apply(&scope(), &step).await.unwrap_err();
        assert!(
            error.to_string().contains("the tun module is missing"),
            "{error}"
        );
    });
}
