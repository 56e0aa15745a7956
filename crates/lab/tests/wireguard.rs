//! Kernel WireGuard between two nodes: what the virtual machine is for.

use std::time::Duration;

use anyhow::Result;
use weir_lab::{Lab, Node, Ping, patient, wait_until};

struct Side<'lab> {
    node: &'lab Node,
    underlay: &'static str,
    overlay: &'static str,
}

impl Side<'_> {
    /// Makes the interface and returns the public key.
    fn create(&self) -> Result<String> {
        self.node
            .address("eth0", &format!("{}/24", self.underlay))?;
        let secret = self.node.run(["wg", "genkey"])?.stdout;
        self.node.write_file("/run/weir/secret", &secret)?;
        self.node.ip(&format!(
            "link add weir0 type wireguard\n\
             address add {}/24 dev weir0\n\
             link set weir0 up",
            self.overlay
        ))?;
        let set = "wg set weir0 listen-port 51920 private-key /run/weir/secret";
        self.node.run(set.split(' '))?;
        let public = self
            .node
            .command(["wg", "pubkey"])
            .stdin(secret)
            .run()?
            .stdout;
        Ok(public.trim().to_owned())
    }

    fn add_peer(&self, key: &str, peer: &Self) -> Result<()> {
        let (overlay, underlay) = (peer.overlay, peer.underlay);
        let set =
            format!("wg set weir0 peer {key} allowed-ips {overlay}/32 endpoint {underlay}:51920");
        self.node.run(set.split(' ')).map(drop)
    }
}

#[test]
fn vm_kernel_wireguard_carries_packets_between_nodes() {
    let name = "vm_kernel_wireguard_carries_packets_between_nodes";
    if !Lab::needs_kernel_wireguard(name).unwrap() {
        return;
    }
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.node("left").unwrap(), lab.node("right").unwrap());
    lab.connect((&left, "eth0"), (&right, "eth0")).unwrap();
    let left = Side {
        node: &left,
        underlay: "192.0.2.1",
        overlay: "100.64.0.1",
    };
    let right = Side {
        node: &right,
        underlay: "192.0.2.2",
        overlay: "100.64.0.2",
    };
    let (left_key, right_key) = (left.create().unwrap(), right.create().unwrap());
    left.add_peer(&right_key, &right).unwrap();
    right.add_peer(&left_key, &left).unwrap();

    let ping = Ping::start(left.node, right.overlay, Duration::from_millis(100)).unwrap();
    let deadline = patient(Duration::from_secs(10));
    wait_until("ten answers", deadline, || Ok(ping.answers()? >= 10)).unwrap();
    // The packets before the handshake wait in the interface's queue.
    assert_eq!(ping.stop().unwrap().lost, [0_u32; 0]);
    let transfer = left
        .node
        .run(["wg", "show", "weir0", "transfer"])
        .unwrap()
        .stdout;
    assert!(transfer.starts_with(&right_key), "{transfer}");
    let details = left
        .node
        .run(["ip", "-d", "link", "show", "weir0"])
        .unwrap()
        .stdout;
    assert!(details.contains("wireguard"), "{details}");
}
