//! The compiled firewall on the real kernel. A veth link that bears the tunnel's name stands for
//! the tunnel: the ruleset knows the link by its name only.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use anyhow::{Context as _, Result};
use std::{cell::RefCell, collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};
use weir_kernel_plan::firewall::{
    DENIED_RELAY, DENIED_SPOOFED, DENIED_TO_OVERLAY, DesiredFirewall, FirewallChange,
    ObservedFirewall, SourceTranslation, Table, change,
};
use weir_lab::{Lab, Node, Ping, Spawned, patient, program, wait_until};
use weir_overlay::{AddressRange, AddressSet, GrantId, InterfaceName};
use weir_protocol::{Destination, Grant, IpProtocol, PortRange, RouteEgress};

const ALICE: &str = "100.64.0.2";
const BOB: &str = "100.64.0.3";
const SERVICE: &str = "8.8.8.8";
const RELAY: &str = "203.0.113.7";

struct Network {
    lab: Lab,
    clients: Node,
    relay: Node,
    service: Node,
    _server: Spawned,
    interface: InterfaceName,
    /// What the last load left.
    loaded: RefCell<Option<Arc<Table>>>,
}

fn set(items: &[&str]) -> AddressSet {
    let ranges = items
        .iter()
        .map(|item| item.parse::<AddressRange>().unwrap());
    ranges.collect()
}

fn grant(id: u32, from: &[&str], protocol: u8, to: &[&str], ports: (u16, u16)) -> Grant {
    Grant {
        id: GrantId(id),
        sources: set(from),
        protocols: [IpProtocol(protocol)].into(),
        destinations: vec![Destination {
            addresses: set(to),
            ports: PortRange {
                first: ports.0,
                last: ports.1,
            },
        }],
        origin: format!("acls[{id}]"),
    }
}

fn firewall(grants: Vec<Grant>) -> DesiredFirewall {
    DesiredFirewall {
        own_addresses: set(&["100.64.0.1"]),
        served: set(&[SERVICE, "10.20.0.0/24"]),
        exit: false,
        grants,
        translation: SourceTranslation {
            subnets: true,
            egress: BTreeSet::new(),
            routes: Vec::new(),
        },
        tunnel_port: None,
        relayed: AddressSet::default(),
    }
}

impl Network {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (clients, relay, service) = (
            lab.node("clients")?,
            lab.node("relay")?,
            lab.node("service")?,
        );
        lab.connect((&clients, "weir0"), (&relay, "weir0"))?;
        lab.connect((&relay, "eth0"), (&service, "eth0"))?;
        clients.ip(&format!(
            "address add {ALICE}/32 dev weir0\n\
             address add {BOB}/32 dev weir0\n\
             route add 100.64.0.1 dev weir0\n\
             route add default via 100.64.0.1 dev weir0"
        ))?;
        relay.ip(&format!(
            "address add 100.64.0.1/32 dev weir0\n\
             route add 100.64.0.0/10 dev weir0\n\
             address add {RELAY}/24 dev eth0\n\
             route add default via 203.0.113.1"
        ))?;
        relay.forward()?;
        service.ip(&format!(
            "address add 203.0.113.1/24 dev eth0\n\
             address add {SERVICE}/32 dev lo\n\
             address add 1.1.1.1/32 dev lo\n\
             address add 10.20.0.5/32 dev lo\n\
             route add 198.51.100.0/24 via 203.0.113.7"
        ))?;
        let host = program("weir-lab-host")?;
        let host = host.to_string_lossy();
        let serve = "serve --address 8.8.8.8 --address 1.1.1.1 --address 10.20.0.5 \
                     --tcp 443 --tcp 80 --udp 53";
        let server = service.spawn([&*host].into_iter().chain(serve.split_whitespace()))?;
        server.wait_for_log("listening", patient(Duration::from_secs(5)))?;
        let interface = "weir0".parse()?;
        Ok(Self {
            lab,
            clients,
            relay,
            service,
            _server: server,
            interface,
            loaded: RefCell::default(),
        })
    }

    fn observed(&self) -> Result<Option<ObservedFirewall>> {
        let listed = self
            .relay
            .try_run(["nft", "-j", "list", "table", "inet", "weir"])?;
        if !listed.success() {
            return Ok(None);
        }
        let listing = serde_json::from_str(&listed.stdout)?;
        Ok(Some(ObservedFirewall::from_listing(&listing)))
    }

    /// Loads what is to be: the difference where it is known what is loaded.
    fn load(&self, desired: &DesiredFirewall) -> Result<FirewallChange> {
        let known = self.loaded.borrow().clone();
        let observed = self.observed()?;
        let change = change(
            desired,
            &self.interface,
            observed.as_ref(),
            known.as_deref(),
        );
        for document in change.documents() {
            self.relay
                .command(["nft", "-j", "-f", "-"])
                .stdin(document)
                .run()?;
        }
        let loaded = self.observed()?.context("no table after a load")?;
        assert!(loaded.is(&change.last.table), "{:?}", change.last.table);
        *self.loaded.borrow_mut() = Some(Arc::clone(&change.last.table));
        Ok(change)
    }

    fn counter(&self, name: &str) -> Result<u64> {
        let observed = self.observed()?.context("no table")?;
        Ok(observed
            .counters
            .get(name)
            .context("no such counter")?
            .packets)
    }

    /// Asks the server who it sees; `None` without an answer.
    fn ask(&self, from: &str, protocol: &str, to: &str) -> Result<Option<IpAddr>> {
        let host = program("weir-lab-host")?;
        let host = host.to_string_lossy();
        let seconds = patient(Duration::from_millis(700))
            .as_secs_f64()
            .to_string();
        let asked =
            self.clients
                .try_run([&*host, protocol, to, "--timeout", &seconds, "--from", from])?;
        let seen = asked
            .stdout
            .trim()
            .strip_prefix("you are ")
            .and_then(|at| at.rsplit_once(':'));
        let plain = |address: &str| address.trim_matches(['[', ']']).parse();
        Ok(seen.map(|(address, _)| plain(address)).transpose()?)
    }
}

#[test]
fn only_what_is_granted_is_relayed_and_leaves_with_the_relays_address() {
    let network = Network::new().unwrap();
    network
        .load(&firewall(vec![
            grant(1, &[ALICE], 6, &[SERVICE], (443, 443)),
            grant(2, &[ALICE, BOB], 17, &[SERVICE], (53, 53)),
            grant(3, &[ALICE], 6, &["0.0.0.0/0"], (80, 90)),
        ]))
        .unwrap();
    let relay = Some(RELAY.parse().unwrap());
    assert_eq!(network.ask(ALICE, "tcp", "8.8.8.8:443").unwrap(), relay);
    assert_eq!(network.ask(ALICE, "udp", "8.8.8.8:53").unwrap(), relay);
    assert_eq!(network.ask(BOB, "udp", "8.8.8.8:53").unwrap(), relay);
    assert_eq!(network.ask(ALICE, "tcp", "8.8.8.8:80").unwrap(), relay);
    assert_eq!(network.ask(ALICE, "tcp", "10.20.0.5:80").unwrap(), relay);

    let denied = network.counter(DENIED_RELAY).unwrap();
    assert_eq!(network.ask(BOB, "tcp", "8.8.8.8:443").unwrap(), None);
    assert!(network.counter(DENIED_RELAY).unwrap() > denied);
    // Granted by a rule that is wider than what this relay serves: still not relayed.
    assert_eq!(network.ask(ALICE, "tcp", "1.1.1.1:80").unwrap(), None);
    network.lab.finish().unwrap();
}

#[test]
fn a_running_connection_ends_with_the_ruleset_that_no_longer_allows_it() {
    let network = Network::new().unwrap();
    let both = firewall(vec![
        grant(1, &[ALICE], 6, &[SERVICE], (443, 443)),
        grant(2, &[BOB], 6, &[SERVICE], (443, 443)),
    ]);
    network.load(&both).unwrap();
    let host = program("weir-lab-host").unwrap();
    let host = host.to_string_lossy();
    let download = network
        .clients
        .spawn([&*host, "download", "8.8.8.8:443", "--idle", "1.5"])
        .unwrap();
    let lines = || -> Result<usize> { Ok(download.log()?.lines().count()) };
    let deadline = patient(Duration::from_secs(10));
    wait_until("a running download", deadline, || Ok(lines()? > 5)).unwrap();

    // The same grants again, and another grant beside: the download goes on.
    for id in 3..6 {
        let mut more = both.clone();
        more.grants
            .push(grant(id, &[BOB], 6, &["10.20.0.5"], (80, 80)));
        network.load(&more).unwrap();
        let before = lines().unwrap();
        wait_until("the download to go on", deadline, || {
            Ok(lines()? > before + 5)
        })
        .unwrap();
    }

    let only_bob = firewall(both.grants[1..].to_vec());
    let denied =
        network.counter(DENIED_RELAY).unwrap() + network.counter(DENIED_TO_OVERLAY).unwrap();
    network.load(&only_bob).unwrap();
    let after_the_load = lines().unwrap();
    let ended = download.wait(deadline).unwrap();
    assert!(!ended.success(), "the download ended by itself");
    // What was in flight at the load may still have been printed.
    assert!(
        lines().unwrap() <= after_the_load + 3,
        "{}",
        download.log().unwrap()
    );
    let now = network.counter(DENIED_RELAY).unwrap() + network.counter(DENIED_TO_OVERLAY).unwrap();
    assert!(
        now > denied,
        "counters are kept over loads and count the cut connection"
    );
    network.lab.finish().unwrap();
}

#[test]
fn a_running_ping_ends_with_its_grant() {
    let network = Network::new().unwrap();
    let granted = firewall(vec![
        grant(1, &[ALICE], 1, &[SERVICE], (0, 65535)),
        grant(2, &[BOB], 6, &[SERVICE], (443, 443)),
    ]);
    network.load(&granted).unwrap();
    let ping = Ping::start(&network.clients, SERVICE, Duration::from_millis(100)).unwrap();
    let deadline = patient(Duration::from_secs(10));
    wait_until("answers", deadline, || Ok(ping.answers()? > 3)).unwrap();
    let mut revoked = granted;
    revoked.grants.remove(0);
    network.load(&revoked).unwrap();
    // One that was answered before may still be printed.
    let after = ping.answers().unwrap() + 1;
    std::thread::sleep(patient(Duration::from_millis(600)));
    assert!(ping.answers().unwrap() <= after);
    drop(ping);
    network.lab.finish().unwrap();
}

#[test]
fn an_overlay_source_from_outside_goes_nowhere() {
    let network = Network::new().unwrap();
    network
        .load(&firewall(vec![grant(
            1,
            &[ALICE],
            17,
            &[SERVICE],
            (53, 53),
        )]))
        .unwrap();
    // The outsider bears alice's address and sends by way of the relay.
    let outsider = network.lab.node("outsider").unwrap();
    network
        .lab
        .connect((&network.relay, "eth1"), (&outsider, "eth0"))
        .unwrap();
    network
        .relay
        .ip("address add 198.51.100.1/24 dev eth1")
        .unwrap();
    outsider
        .ip(&format!(
            "address add 198.51.100.9/24 dev eth0\n\
             address add {ALICE}/32 dev lo\n\
             route add default via 198.51.100.1"
        ))
        .unwrap();
    let host = program("weir-lab-host").unwrap();
    let host = host.to_string_lossy();
    for to in ["8.8.8.8:53", "100.64.0.1:53"] {
        let before = network.counter(DENIED_SPOOFED).unwrap();
        let asked = outsider
            .try_run([&*host, "udp", to, "--timeout", "0.5", "--from", ALICE])
            .unwrap();
        assert!(!asked.success(), "{}", asked.stdout);
        assert!(network.counter(DENIED_SPOOFED).unwrap() > before, "{to}");
    }
    // Its own address may pass through this host as before: that traffic is not Weir's.
    let own = outsider
        .try_run([&*host, "udp", "8.8.8.8:53", "--timeout", "2"])
        .unwrap();
    assert!(own.stdout.contains("198.51.100.9"), "{}", own.text());
    network.lab.finish().unwrap();
}

#[test]
fn a_relay_with_a_fixed_source_address_uses_it() {
    let network = Network::new().unwrap();
    network.relay.address("eth0", "203.0.113.8/24").unwrap();
    let mut desired = firewall(vec![grant(1, &[ALICE], 6, &["0.0.0.0/0"], (443, 443))]);
    desired.translation.egress = ["203.0.113.8".parse().unwrap()].into();
    network.load(&desired).unwrap();
    let fixed = Some("203.0.113.8".parse().unwrap());
    assert_eq!(network.ask(ALICE, "tcp", "8.8.8.8:443").unwrap(), fixed);

    // Subnets may see the client itself, when their hosts know the way back.
    desired.translation.subnets = false;
    network.load(&desired).unwrap();
    network
        .service
        .ip(&format!("route add {ALICE} via {RELAY}"))
        .unwrap();
    let seen = network.ask(ALICE, "tcp", "10.20.0.5:443").unwrap();
    assert_eq!(seen, Some(ALICE.parse().unwrap()));
    assert_eq!(network.ask(ALICE, "tcp", "8.8.8.8:443").unwrap(), fixed);
    network.lab.finish().unwrap();
}

#[test]
fn each_route_and_source_leaves_with_its_own_address() {
    let network = Network::new().unwrap();
    for address in ["203.0.113.8/24", "203.0.113.9/24"] {
        network.relay.address("eth0", address).unwrap();
    }
    let all = &["100.64.0.0/10"];
    let mut desired = firewall(vec![grant(1, all, 6, &["0.0.0.0/0"], (443, 443))]);
    let choice = |route: &str, sources: Option<&str>, address: &str| RouteEgress {
        route: route.parse().unwrap(),
        sources: sources.map(|source| set(&[source])),
        address: address.parse().unwrap(),
    };
    desired.translation.routes = vec![
        choice("8.8.8.8/32", Some(BOB), "203.0.113.9"),
        choice("8.8.8.8/32", None, "203.0.113.8"),
        choice("10.20.0.0/24", Some(BOB), "203.0.113.8"),
    ];
    network.load(&desired).unwrap();
    for (from, to, address) in [
        (ALICE, "8.8.8.8:443", "203.0.113.8"),
        (BOB, "8.8.8.8:443", "203.0.113.9"),
        (ALICE, "10.20.0.5:443", RELAY),
        (BOB, "10.20.0.5:443", "203.0.113.8"),
    ] {
        let seen = network.ask(from, "tcp", to).unwrap();
        assert_eq!(seen, Some(address.parse().unwrap()), "{from} to {to}");
    }
    // Another choice is another transaction, for connections that begin after it.
    desired.translation.routes.remove(0);
    network.load(&desired).unwrap();
    let seen = network.ask(BOB, "tcp", "8.8.8.8:443").unwrap();
    assert_eq!(seen, Some("203.0.113.8".parse().unwrap()));
    network.lab.finish().unwrap();
}

#[test]
fn ipv6_leaves_with_the_relays_address_or_as_it_is() {
    let network = Network::new().unwrap();
    // A tunnel asks for no neighbours, and the firewall drops who does: both ends have the address
    // that either sends to without asking.
    let quiet = "link set weir0 address 02:00:00:00:00:01 arp off";
    network.clients.ip(quiet).unwrap();
    network.relay.ip(quiet).unwrap();
    network
        .clients
        .ip("address add fd77:6569:7200::2/128 dev weir0 nodad\n\
             route add fd77:6569:7200::1 dev weir0\n\
             route add default via fd77:6569:7200::1 dev weir0")
        .unwrap();
    network
        .relay
        .ip("address add fd77:6569:7200::1/128 dev weir0 nodad\n\
             route add fd77:6569:7200::/48 dev weir0\n\
             address add 2001:db8::7/64 dev eth0 nodad\n\
             address add 2001:db8::9/64 dev eth0 nodad\n\
             route add default via 2001:db8::1")
        .unwrap();
    network
        .service
        .ip("address add 2001:db8::1/64 dev eth0 nodad\n\
             address add 2001:4860:4860::8888/128 dev lo\n\
             address add fd00:20::5/128 dev lo\n\
             route add fd77:6569:7200::/48 via 2001:db8::7")
        .unwrap();
    let host = program("weir-lab-host").unwrap();
    let host = host.to_string_lossy();
    let serve = "serve --address 2001:4860:4860::8888 --address fd00:20::5 --tcp 443";
    let server = network
        .service
        .spawn([&*host].into_iter().chain(serve.split_whitespace()))
        .unwrap();
    server
        .wait_for_log("listening", patient(Duration::from_secs(5)))
        .unwrap();
    let client = "fd77:6569:7200::2";
    let mut desired = firewall(vec![grant(1, &[client], 6, &["::/0"], (443, 443))]);
    desired.own_addresses = set(&["100.64.0.1", "fd77:6569:7200::1"]);
    desired.served = set(&["2001:4860:4860::8888", "fd00:20::/64"]);
    let seen = |to: &str| network.ask(client, "tcp", to).unwrap();
    let is = |address: &str| Some(address.parse::<IpAddr>().unwrap());
    let (public, private) = ("[2001:4860:4860::8888]:443", "[fd00:20::5]:443");

    network.load(&desired).unwrap();
    assert!(seen(public).is_some_and(|address| address.to_string().starts_with("2001:db8::")));
    desired.translation.egress = ["2001:db8::9".parse().unwrap()].into();
    network.load(&desired).unwrap();
    assert_eq!(
        (seen(public), seen(private)),
        (is("2001:db8::9"), is("2001:db8::9"))
    );
    desired.translation.subnets = false;
    network.load(&desired).unwrap();
    assert_eq!(
        (seen(public), seen(private)),
        (is("2001:db8::9"), is(client))
    );
    network.lab.finish().unwrap();
}

fn in_emulation() -> bool {
    patient(Duration::from_secs(1)) > Duration::from_secs(1)
}

/// Numbers that look drawn, the same in each run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's MMIX.
        let factor = 6_364_136_223_846_793_005;
        self.0 = self.0.wrapping_mul(factor).wrapping_add(1);
        (self.0 >> 33) % limit
    }

    /// Blocks of addresses that overlap others, some of them single addresses.
    fn blocks(&mut self, prefix: &str) -> Vec<String> {
        let blocks = 0..=self.below(2);
        let block = blocks.map(|_| {
            let first = self.below(12) * 16;
            match self.below(3) {
                0 => format!("{prefix}{first}"),
                longer => format!("{prefix}{first}-{prefix}{}", first + longer * 24),
            }
        });
        block.collect()
    }

    fn grants(&mut self) -> Vec<Grant> {
        let grants = 1..=self.below(5);
        let one = grants.map(|id| {
            let mut sources = self.blocks("100.64.0.");
            if self.below(2) == 0 {
                sources.push("100.65.0.0/24".to_owned());
            }
            let to = self.blocks("10.20.0.");
            let first = u16::try_from(self.below(6) * 20).unwrap();
            let ports = match self.below(3) {
                0 => (0, u16::MAX),
                longer => (first, first + u16::try_from(longer * 30 - 30).unwrap()),
            };
            let sources: Vec<_> = sources.iter().map(String::as_str).collect();
            let to: Vec<_> = to.iter().map(String::as_str).collect();
            grant(u32::try_from(id).unwrap(), &sources, 6, &to, ports)
        });
        one.collect()
    }
}

#[test]
fn the_kernel_takes_every_transaction_on_the_way() {
    let network = Network::new().unwrap();
    let mut drawn = Drawn(2026);
    let mut transactions = 0;
    for _ in 0..if in_emulation() { 10 } else { 100 } {
        let change = network.load(&firewall(drawn.grants())).unwrap();
        transactions += change.documents().count();
    }
    assert!(transactions > if in_emulation() { 15 } else { 200 });
    network.lab.finish().unwrap();
}

#[test]
fn a_change_that_was_left_half_way_is_not_taken_for_whole_and_is_made_good() {
    let network = Network::new().unwrap();
    let mut drawn = Drawn(7);
    let (mut whole, mut difference) = (0, 0);
    for round in 0..if in_emulation() { 4 } else { 20 } {
        let known = network.load(&firewall(drawn.grants())).unwrap().last.table;
        // By who knows what is loaded, and by who has just begun.
        let known = (round % 2 == 0).then_some(known);
        let observed = network.observed().unwrap();
        let wanted = firewall(drawn.grants());
        let interface = &network.interface;
        let change = change(&wanted, interface, observed.as_ref(), known.as_deref());
        if change.before.is_empty() {
            continue;
        }
        let done = 1 + usize::try_from(drawn.below(2)).unwrap() % change.before.len();
        for stage in &change.before[..done] {
            let nft = network.relay.command(["nft", "-j", "-f", "-"]);
            nft.stdin(stage.document.clone()).run().unwrap();
        }
        let left = network.observed().unwrap().unwrap();
        assert!(!left.is(&change.last.table), "{left:?}");
        *network.loaded.borrow_mut() = None;
        network.load(&wanted).unwrap();
        let kind = if known.is_some() {
            &mut difference
        } else {
            &mut whole
        };
        *kind += 1;
    }
    assert!(whole > 0 && difference > 0, "{whole} {difference}");
    network.lab.finish().unwrap();
}

#[test]
fn a_table_that_somebody_changed_is_not_taken_for_ours() {
    let network = Network::new().unwrap();
    let desired = firewall(vec![grant(1, &[ALICE], 6, &[SERVICE], (443, 443))]);
    network.load(&desired).unwrap();
    for meddling in [
        "add rule inet weir to_relay accept",
        "flush chain inet weir to_relay",
        "add element inet weir grants_ports4 { 100.64.0.9 . 8.8.8.8 . tcp . 443 : 0x1 }",
    ] {
        network.relay.run(["nft", meddling]).unwrap();
        assert_eq!(
            network.observed().unwrap().unwrap().fingerprint,
            None,
            "{meddling}"
        );
        network.load(&desired).unwrap();
    }
    network.lab.finish().unwrap();
}
