//! Kernel WireGuard between two nodes: what the virtual machine is for.

use std::time::Duration;

use weir_lab::{Lab, Node, Ping, patient, wait_until};

fn generate_key(node: &Node) -> (String, String) {
    let secret = node.run(["wg", "genkey"]).unwrap().stdout;
    let public = node
        .command(["wg", "pubkey"])
        .stdin(secret.as_str())
        .run()
        .unwrap()
        .stdout;
    (secret.trim().to_owned(), public.trim().to_owned())
}

fn set_up(
    node: &Node,
    secret: &str,
    address: &str,
    peer: &str,
    peer_overlay: &str,
    endpoint: &str,
) {
    node.ip(&format!(
        "link add weir0 type wireguard\naddress add {address}/24 dev weir0\nlink set weir0 up"
    ))
    .unwrap();
    node.write_file("/run/weir/secret", secret).unwrap();
    node.run([
        "wg",
        "set",
        "weir0",
        "listen-port",
        "51920",
        "private-key",
        "/run/weir/secret",
        "peer",
        peer,
        "allowed-ips",
        &format!("{peer_overlay}/32"),
        "endpoint",
        endpoint,
    ])
    .unwrap();
}

#[test]
fn vm_kernel_wireguard_carries_packets_between_nodes() {
    if !Lab::kernel_has_wireguard().unwrap() {
        println!(
            "SKIPPED: this kernel has no WireGuard; `cargo xtask vm` runs this test on one that has"
        );
        return;
    }
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.node("left").unwrap(), lab.node("right").unwrap());
    lab.connect((&left, "eth0"), (&right, "eth0")).unwrap();
    left.address("eth0", "192.0.2.1/24").unwrap();
    right.address("eth0", "192.0.2.2/24").unwrap();
    let (left_secret, left_public) = generate_key(&left);
    let (right_secret, right_public) = generate_key(&right);
    set_up(
        &left,
        &left_secret,
        "100.64.0.1",
        &right_public,
        "100.64.0.2",
        "192.0.2.2:51920",
    );
    set_up(
        &right,
        &right_secret,
        "100.64.0.2",
        &left_public,
        "100.64.0.1",
        "192.0.2.1:51920",
    );

    let ping = Ping::start(&left, "100.64.0.2", Duration::from_millis(100)).unwrap();
    wait_until("ten answers", patient(Duration::from_secs(10)), || {
        Ok(ping.answers()? >= 10)
    })
    .unwrap();
    assert_eq!(
        ping.stop().unwrap().lost,
        [0_u32; 0],
        "kernel WireGuard queues for the handshake"
    );
    let transfer = left
        .run(["wg", "show", "weir0", "transfer"])
        .unwrap()
        .stdout;
    assert!(transfer.starts_with(&right_public), "{transfer}");
    let details = left
        .run(["ip", "-d", "link", "show", "weir0"])
        .unwrap()
        .stdout;
    assert!(details.contains("wireguard"), "{details}");
}
