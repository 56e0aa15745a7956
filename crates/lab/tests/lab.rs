//! The lab keeps its own promises.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_lab::{
    HostSnapshot, Internet, Lab, Ping, TOUCHED_SYSCTLS, addresses, patient, program, wait_until,
};

const SHORT: Duration = Duration::from_secs(5);

#[test]
fn a_node_is_a_machine_of_its_own() {
    let lab = Lab::new().unwrap();
    let node = lab.node("island").unwrap();
    assert_eq!(node.run(["hostname"]).unwrap().stdout.trim(), "island");
    let links = node.run(["ip", "-o", "link"]).unwrap().stdout;
    assert_eq!(links.lines().count(), 1, "only lo: {links}");
    assert!(links.contains("LOOPBACK,UP"), "{links}");
    let classes = node.run(["ls", "/sys/class/net"]).unwrap().stdout;
    assert_eq!(classes.trim(), "lo", "sysfs shows the node's links");
}

#[test]
fn files_of_a_node_stay_in_the_node() {
    let lab = Lab::new().unwrap();
    let node = lab.node("files").unwrap();
    let other = lab.node("others").unwrap();
    for path in [
        "/etc/weir/agent.toml",
        "/var/lib/weir/agent/ledger",
        "/run/weir/x",
        "/etc/new",
    ] {
        node.write_file(path, "hello").unwrap();
        assert_eq!(node.run(["cat", path]).unwrap().stdout, "hello");
        assert_eq!(node.read_file(path).unwrap(), "hello");
        assert!(!Path::new(path).exists(), "{path} reached the host");
        assert!(
            !other.try_run(["cat", path]).unwrap().success(),
            "{path} reached another node"
        );
    }
    // What programs read from /etc is still there, and the host's own file cannot be written.
    assert!(
        node.run(["cat", "/etc/passwd"])
            .unwrap()
            .stdout
            .contains("root:")
    );
    let written = node.try_run(["sh", "-c", "echo x >> /etc/passwd"]).unwrap();
    assert!(written.stderr.contains("Read-only"), "{}", written.stderr);
}

#[test]
fn a_command_has_a_deadline() {
    let lab = Lab::new().unwrap();
    let node = lab.node("slow").unwrap();
    let started = Instant::now();
    let command = node
        .command(["sleep", "600"])
        .deadline(Duration::from_millis(100));
    let error = command.run().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`sleep 600` in slow did not end within"),
        "{error}"
    );
    assert!(started.elapsed() < patient(SHORT));
}

#[test]
fn a_failed_command_says_what_it_said() {
    let lab = Lab::new().unwrap();
    let node = lab.node("wrong").unwrap();
    let error = node
        .run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("exit status: 3") && text.contains("out\nerr"),
        "{text}"
    );
}

#[test]
fn what_a_node_started_dies_with_it() {
    let lab = Lab::new().unwrap();
    let node = lab.node("parent").unwrap();
    // A daemon that left its parent and its session.
    let script = "setsid sleep 987 >/dev/null 2>&1 & echo $!";
    let pid = node
        .run(["sh", "-c", script])
        .unwrap()
        .stdout
        .trim()
        .to_owned();
    let process = Path::new("/proc").join(&pid);
    let is_sleeping = || fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty());
    wait_until("the daemon", patient(SHORT), || Ok(is_sleeping())).unwrap();
    drop(lab);
    assert!(!is_sleeping(), "process {pid} outlived its node");
}

#[test]
fn a_spawned_program_has_a_log_and_can_be_stopped() {
    let lab = Lab::new().unwrap();
    let node = lab.node("talker").unwrap();
    let talker = node
        .spawn(["sh", "-c", "echo hello; exec sleep 600"])
        .unwrap();
    assert_eq!(talker.wait_for_log("hell", SHORT).unwrap(), "hello");
    assert!(talker.ended().unwrap().is_none());
    assert!(!talker.stop(Signal::SIGTERM, SHORT).unwrap().success());
    assert!(talker.signal(Signal::SIGTERM).is_err());
    let silent = node.spawn(["true"]).unwrap();
    let error = silent.wait_for_log("never", SHORT).unwrap_err();
    assert!(format!("{error:#}").contains("it ended with"), "{error:#}");
}

#[test]
fn a_logged_error_fails_the_test() {
    let lab = Lab::new().unwrap();
    let node = lab.node("clumsy").unwrap();
    let line = "2026-11-21T20:00:01Z ERROR agent: oh";
    let program = node.spawn(["echo", line]).unwrap();
    program.wait_for_log("oh", SHORT).unwrap();
    let error = lab.finish().unwrap_err().to_string();
    assert!(
        error.contains("clumsy-00-echo.log: 2026-11-21T20:00:01Z ERROR agent: oh"),
        "{error}"
    );
    let other = node
        .spawn(["echo", "2026-11-21T20:00:01Z ERROR agent: disk full"])
        .unwrap();
    other.wait_for_log("full", SHORT).unwrap();
    lab.expect_error("disk full");
    lab.finish().unwrap();
}

#[test]
fn links_carry_packets_and_a_cut_one_loses_them() {
    let lab = Lab::new().unwrap();
    let (left, right) = (lab.node("left").unwrap(), lab.node("right").unwrap());
    lab.connect((&left, "eth0"), (&right, "eth0")).unwrap();
    left.address("eth0", "192.0.2.1/24").unwrap();
    right.address("eth0", "192.0.2.2/24").unwrap();
    let ping = Ping::start(&left, "192.0.2.2", Duration::from_millis(50)).unwrap();
    wait_until("answers", patient(SHORT), || Ok(ping.answers()? >= 5)).unwrap();
    // A link that is down would not do: the neighbour's queue keeps packets until it is back.
    let cut = "chain input { type filter hook input priority filter; policy drop; }";
    right.nft(&format!("table ip cut {{ {cut}; }}")).unwrap();
    std::thread::sleep(patient(Duration::from_millis(400)));
    right.nft("delete table ip cut").unwrap();
    let before = ping.answers().unwrap();
    wait_until("answers again", patient(SHORT), || {
        Ok(ping.answers()? >= before + 5)
    })
    .unwrap();
    let report = ping.stop().unwrap();
    assert!(report.lost.len() >= 3, "{report:?}");
    assert!(report.received >= 10, "{report:?}");

    let ping = Ping::start(&left, "192.0.2.2", Duration::from_millis(50)).unwrap();
    wait_until("answers", patient(SHORT), || Ok(ping.answers()? >= 5)).unwrap();
    assert_eq!(ping.stop().unwrap().lost, [0_u32; 0]);
}

#[test]
fn a_snapshot_sees_every_kind_of_change_and_its_undoing() {
    let lab = Lab::new().unwrap();
    let node = lab.node("host").unwrap();
    let peer = lab.node("peer").unwrap();
    lab.connect((&node, "eth0"), (&peer, "eth0")).unwrap();
    node.address("eth0", "192.0.2.1/24").unwrap();
    let before = HostSnapshot::take(&node, TOUCHED_SYSCTLS).unwrap();
    let again = HostSnapshot::take(&node, TOUCHED_SYSCTLS).unwrap();
    assert_eq!(before.difference(&again), None);

    node.ip("link add extra type bridge\n\
             address add 192.0.2.9/24 dev eth0\n\
             rule add priority 5700 lookup 5701\n\
             route add 8.8.8.8/32 via 192.0.2.2 table 5701")
        .unwrap();
    node.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    node.nft("table inet weir {}").unwrap();
    let during = HostSnapshot::take(&node, TOUCHED_SYSCTLS).unwrap();
    let difference = before.difference(&during).unwrap();
    for expected in [
        "extra",
        "192.0.2.9/24",
        "5700:",
        "8.8.8.8 via 192.0.2.2",
        "+ /proc/sys/net/ipv4/ip_forward:1",
        "+ table inet weir",
    ] {
        assert!(
            difference.contains(expected),
            "{expected} is missing in\n{difference}"
        );
    }

    node.ip("link del extra\n\
             address del 192.0.2.9/24 dev eth0\n\
             rule del priority 5700\n\
             route del 8.8.8.8/32 table 5701")
        .unwrap();
    node.set_sysctl("net.ipv4.ip_forward", "0").unwrap();
    node.nft("delete table inet weir").unwrap();
    let after = HostSnapshot::take(&node, TOUCHED_SYSCTLS).unwrap();
    assert_eq!(before.difference(&after), None);
}

#[test]
fn the_little_internet_is_as_the_story_needs_it() {
    let network = Internet::new().unwrap();
    let ask = |node: &weir_lab::Node, protocol: &str, place: &str| {
        node.try_run(["weir-lab-host", protocol, place, "--timeout", "1"])
            .unwrap()
    };
    // The service admits the relay, over both protocols and both addresses, and nobody else.
    for (protocol, place) in [("tcp", "8.8.8.8:443"), ("udp", "8.8.4.4:53")] {
        let answer = ask(&network.relay, protocol, place);
        assert!(
            answer.stdout.starts_with("you are 203.0.113.7:"),
            "{answer:?}"
        );
        let refused = ask(&network.alice, protocol, place);
        assert!(!refused.success(), "{refused:?}");
    }
    assert!(network.refused_by_service().unwrap() >= 2);
    // alice and bob reach the rest, as their gateways; the coordinator is reachable by all.
    for (node, seen) in [
        (&network.alice, "198.51.100.21"),
        (&network.bob, "198.51.100.22"),
    ] {
        let answer = ask(node, "tcp", "1.1.1.1:443");
        assert!(
            answer.stdout.starts_with(&format!("you are {seen}:")),
            "{answer:?}"
        );
    }
    for node in network.hosts() {
        let coordinator = addresses::COORDINATOR.to_string();
        node.run(["ping", "-n", "-c", "1", "-W", "20", &coordinator])
            .unwrap();
    }
    // Nobody comes in through a gateway, and only the office relay knows the office.
    let alice = addresses::ALICE.to_string();
    let inward = network
        .relay
        .try_run(["ping", "-n", "-c", "1", "-W", "1", &alice])
        .unwrap();
    assert!(!inward.success(), "{inward:?}");
    let answer = ask(&network.office_relay, "tcp", "10.20.0.5:443");
    assert!(
        answer.stdout.starts_with("you are 10.20.0.1:"),
        "{answer:?}"
    );
    assert!(!ask(&network.alice, "tcp", "10.20.0.5:443").success());
    assert!(
        network
            .server_log(&network.office)
            .unwrap()
            .contains("from 10.20.0.1:")
    );
}

#[test]
fn a_download_streams_until_it_is_cut() {
    let network = Internet::new().unwrap();
    let download = network
        .relay
        .spawn(["weir-lab-host", "download", "8.8.8.8:443", "--idle", "1"])
        .unwrap();
    download.wait_for_log("line 5", SHORT).unwrap();
    network
        .service
        .run(["nft", "flush", "chain", "inet", "admission", "input"])
        .unwrap();
    network
        .service
        .nft("add rule inet admission input ip saddr 203.0.113.7 drop")
        .unwrap();
    download.wait_for_log("stalled", SHORT).unwrap();
    assert!(!download.wait(SHORT).unwrap().success());
}

#[test]
fn admission_works_for_ipv6_too() {
    let lab = Lab::new().unwrap();
    let (server, client) = (lab.node("server").unwrap(), lab.node("client").unwrap());
    lab.connect((&server, "eth0"), (&client, "eth0")).unwrap();
    server.address("eth0", "2001:db8::1/64").unwrap();
    client
        .ip("address add 2001:db8::7/64 dev eth0\naddress add 2001:db8::8/64 dev eth0")
        .unwrap();
    let admitted: IpAddr = "2001:db8::7".parse().unwrap();
    server.admit_only(admitted).unwrap();
    let service = server
        .spawn(["weir-lab-host", "serve", "--address", "::", "--tcp", "443"])
        .unwrap();
    service.wait_for_log("listening", SHORT).unwrap();
    let ask = [
        "weir-lab-host",
        "tcp",
        "[2001:db8::1]:443",
        "--timeout",
        "1",
        "--from",
    ];
    let answer = client.run(ask.into_iter().chain(["2001:db8::7"])).unwrap();
    assert!(
        answer.stdout.starts_with("you are [2001:db8::7]:"),
        "{answer:?}"
    );
    assert!(
        !client
            .try_run(ask.into_iter().chain(["2001:db8::8"]))
            .unwrap()
            .success()
    );
}

/// The little internet in a process of its own, the way to enter alice, and where its logs are.
fn kept_internet() -> Result<(Child, String, PathBuf)> {
    let temporary = tempfile::tempdir()?.keep();
    let mut kept = Command::new(program("weir-lab-host")?)
        .arg("internet")
        .env("TMPDIR", &temporary)
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut enter = String::new();
    for line in BufReader::new(kept.stdout.take().context("no output")?).lines() {
        let line = line?;
        if let Some(command) = line.strip_prefix("alice: ") {
            enter = command.to_owned();
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    Ok((kept, enter, temporary))
}

fn shell(script: &str) -> Result<(bool, String)> {
    let output = Command::new("sh").args(["-c", script]).output()?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[test]
fn a_kept_internet_can_be_entered_and_ends_when_it_is_interrupted() {
    let (mut kept, enter, temporary) = kept_internet().unwrap();
    let (_, routes) = shell(&format!("{enter} ip route")).unwrap();
    kill(Pid::from_raw(kept.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(kept.wait().unwrap().success());
    assert!(routes.contains("default via 192.168.1.1"), "{routes}");
    assert!(
        !shell(&format!("{enter} true")).unwrap().0,
        "the machine is still there"
    );
    fs::remove_dir(temporary).unwrap();
}

#[test]
fn a_killed_lab_leaves_nothing_behind() {
    let (mut kept, enter, temporary) = kept_internet().unwrap();
    kept.kill().unwrap();
    kept.wait().unwrap();
    let gone = || Ok(!shell(&format!("{enter} true"))?.0);
    wait_until("the end of the machines", patient(SHORT), gone).unwrap();
    let removed = || Ok(fs::remove_dir(&temporary).is_ok());
    wait_until("the end of the logs", patient(SHORT), removed).unwrap();
}
