//! The ruleset: every chain of our table, and why it is there.
//!
//! ```text
//! prerouting  ── overlay sources that did not come from the link, overlay destinations likewise: dropped
//! input       ── from the link ──▶ to_host      ┐ current connections pass; others: judge, where
//! forward     ── from the link ──▶ to_relay     ├ a map (grants_ports, grants_hosts, or those of
//!             ── to the link   ──▶ to_overlay   │ the source's class) gives the grant's mark ▶ pass
//! output      ── replies to the link ▶ to_overlay_from_host ┘ (marked and accepted), or denied
//! postrouting ── relayed traffic leaves with this host's address
//! clamp       ── TCP segment size, both ways
//! ```
//!
//! A connection's mark holds the firewall generation it was judged under and the grant. A new
//! ruleset has a new generation: every connection is judged again by its next packet, in whichever
//! direction that goes, and re-marked or dropped. So a revocation is part of the transaction.

mod sets;

pub(super) use sets::SOURCES_PREFIX;

use ipnet::IpNet;
use nftables::{
    expr::MetaKey,
    schema::SetType,
    types::{NfChainType, NfHook},
};
use weir_overlay::{AddressRange, AddressSet, InterfaceName, OVERLAY_V4, OVERLAY_V6};
use weir_protocol::IpProtocol;

use super::{
    DesiredFirewall,
    classes::classify,
    document::{
        Expr, Stmt, accept, any_of, at_most, clamp_segment_size, concat, count, ct, ct_mark_or,
        direction, drop, established, from_link, goto, integer, is, is_not, jump, leave, log,
        look_up, looked_up, masked, masquerade, meta, not_to_link, payload, range, route_back_is,
        set_ct_mark, set_packet_mark, source_address, text, to_link,
    },
    extent::fingerprint_of_grants,
    narrow::split,
    nat::{ROUTES_OUT, Way, Ways, translation_chain},
    numbering::Numbered,
    table::{Bank, Table},
};
use crate::{
    CT_GENERATION_MASK, CT_GENERATION_SHIFT, REROUTED_MARK, TUNNEL_MARK, TUNNEL_MARK_MASK,
};

/// Packets that were to be relayed, and no grant allows it.
pub const DENIED_RELAY: &str = "denied_relay";
/// Packets to this host, and no grant allows it.
pub const DENIED_HOST: &str = "denied_host";
/// Packets towards the overlay: replies of revoked connections, and hosts that this node does not
/// serve.
pub const DENIED_TO_OVERLAY: &str = "denied_to_overlay";
/// Packets with an overlay address that did not come through the tunnel.
pub const DENIED_SPOOFED: &str = "denied_spoofed";
/// Connections that a grant let in (their first packet, and the first after each new ruleset).
pub const GRANTED: &str = "granted";

pub(super) const COUNTERS: [&str; 5] = [
    DENIED_RELAY,
    DENIED_HOST,
    DENIED_TO_OVERLAY,
    DENIED_SPOOFED,
    GRANTED,
];
/// The sets of what this node reaches through relays.
const RELAYED: &str = "relayed";
const LOG_RATE: u32 = 5;
const LOG_BURST: u32 = 10;
#[derive(Clone, Copy)]
struct Family {
    ipv4: bool,
    /// How names of chains end, and of sets that rules fill.
    number: &'static str,
    /// How names of all other sets end.
    suffix: &'static str,
    header: &'static str,
    address: SetType,
    protocol: &'static str,
}

const fn families(bank: Bank) -> [Family; 2] {
    let [four, six] = bank.suffixes();
    [
        Family {
            ipv4: true,
            number: "4",
            suffix: four,
            header: "ip",
            address: SetType::Ipv4Addr,
            protocol: "ipv4",
        },
        Family {
            ipv4: false,
            number: "6",
            suffix: six,
            header: "ip6",
            address: SetType::Ipv6Addr,
            protocol: "ipv6",
        },
    ]
}

/// Compiles the firewall. Classes that live on from `previous` keep their numbers, so that a change
/// of a few grants is a change of a few elements.
pub(super) fn compile(
    desired: &DesiredFirewall,
    interface: &InterfaceName,
    generation: u16,
    previous: Option<&Table>,
) -> Table {
    let bank = previous.map_or(Bank::First, |table| table.bank);
    compile_in(bank, desired, interface, generation, previous)
}

/// The same with names of the given bank; `previous` has those names.
pub(super) fn compile_in(
    bank: Bank,
    desired: &DesiredFirewall,
    interface: &InterfaceName,
    generation: u16,
    previous: Option<&Table>,
) -> Table {
    let within = desired.within();
    let tiers = split(&desired.grants, &within);
    let classes = fingerprint_of_grants(&tiers.broad, &within);
    let mut body = Body {
        link: interface.as_str(),
        mark: u32::from(generation) << CT_GENERATION_SHIFT,
        document: Table {
            fingerprint: desired.fingerprint(interface),
            generation,
            bank,
            classes,
            ..Table::default()
        },
    };
    body.base_chains();
    body.log_sources();
    body.sets(desired);
    match previous.filter(|table| table.classes == body.document.classes) {
        Some(table) => body.classes_of(table),
        None => body.classes(&Numbered::new(classify(&tiers.broad, &within), previous)),
    }
    body.narrow(tiers);
    body.legend(&desired.grants);
    body.rules(desired);
    body.document
}

impl Table {
    /// The same with another generation: only rules name it.
    pub(super) fn with_generation(
        mut self,
        desired: &DesiredFirewall,
        interface: &InterfaceName,
        generation: u16,
    ) -> Self {
        let mut body = Body {
            link: interface.as_str(),
            mark: u32::from(generation) << CT_GENERATION_SHIFT,
            document: Self {
                bank: self.bank,
                ..Self::default()
            },
        };
        body.base_chains();
        body.rules(desired);
        self.generation = generation;
        self.chains.extend(body.document.chains);
        self
    }
}

const BASE_CHAINS: [(&str, NfChainType, NfHook, i32); 6] = [
    ("prerouting", NfChainType::Filter, NfHook::Prerouting, -300),
    ("input", NfChainType::Filter, NfHook::Input, 0),
    ("forward", NfChainType::Filter, NfHook::Forward, 0),
    ("output", NfChainType::Filter, NfHook::Output, 0),
    ("clamp", NfChainType::Filter, NfHook::Forward, -150),
    ("postrouting", NfChainType::NAT, NfHook::Postrouting, 100),
];

const DENIALS: [(&str, &str, &str); 3] = [
    ("deny_host", DENIED_HOST, "weir denied host"),
    ("deny_relay", DENIED_RELAY, "weir denied relay"),
    (
        "deny_to_overlay",
        DENIED_TO_OVERLAY,
        "weir denied to overlay",
    ),
];

/// What a packet of either direction calls the two ends of its connection, and the far port.
const WAYS: [(&str, &str, &str, &str); 2] = [
    ("original", "saddr", "daddr", "dport"),
    ("reply", "daddr", "saddr", "sport"),
];

/// The protocols with ports.
const CARRIERS: [IpProtocol; 3] = [IpProtocol::TCP, IpProtocol::UDP, IpProtocol::SCTP];

fn protocol(protocol: IpProtocol) -> Expr {
    integer(u32::from(protocol.0))
}

struct Body<'a> {
    link: &'a str,
    mark: u32,
    document: Table,
}

impl Body<'_> {
    fn base_chains(&mut self) {
        for (name, kind, hook, priority) in BASE_CHAINS {
            self.document.base_chain(name, kind, hook, priority);
        }
    }

    /// The rules that are there whatever is granted.
    fn rules(&mut self, desired: &DesiredFirewall) {
        // What comes out of the tunnel, or from this host, is not asked where it comes from.
        for link in [self.link, "lo"] {
            self.document
                .rule("prerouting", vec![from_link(link), leave()]);
        }
        self.tunnel_packets(desired.tunnel_port);
        self.rerouted(&desired.relayed);
        self.base_rules();
        self.judgement();
        self.look_ups();
        self.denials();
        self.translation(desired);
    }

    /// Connections that were judged under this generation. Only `pass` gives such a mark, so nothing
    /// else has to be asked; what belongs to a connection, such as ICMP errors, has its mark.
    fn current(&self) -> Vec<Stmt> {
        let generation = masked(ct("mark"), CT_GENERATION_MASK);
        vec![is(generation, integer(self.mark)), accept()]
    }

    /// A new mark has the kernel route a packet again, which then takes the tunnel and needs its
    /// address: that of the other interface means nothing there.
    fn rerouted(&mut self, relayed: &AddressSet) {
        if relayed.is_empty() {
            return;
        }
        self.document
            .base_chain("reroute", NfChainType::Route, NfHook::Output, -150);
        let mark = || masked(meta(MetaKey::Mark), TUNNEL_MARK_MASK);
        for family in families(self.document.bank) {
            let to = text(&format!("@{RELAYED}{}", family.suffix));
            let elsewhere = vec![
                not_to_link(self.link),
                is(payload(family.header, "daddr"), to),
                is_not(mark(), integer(TUNNEL_MARK)),
                set_packet_mark(REROUTED_MARK, TUNNEL_MARK_MASK),
            ];
            self.document.rule("reroute", elsewhere);
        }
        let into_the_tunnel = vec![
            to_link(self.link),
            is(mark(), integer(REROUTED_MARK)),
            masquerade(),
        ];
        self.document.rule("postrouting", into_the_tunnel);
    }

    /// Before routing, where the kernel checks the source.
    fn tunnel_packets(&mut self, port: Option<u16>) {
        let Some(port) = port else { return };
        let arriving = vec![
            is(payload("udp", "dport"), integer(u32::from(port))),
            set_packet_mark(TUNNEL_MARK, TUNNEL_MARK_MASK),
        ];
        self.document.rule("prerouting", arriving);
    }

    fn base_rules(&mut self) {
        let link = self.link;
        for (family, overlay) in families(self.document.bank).into_iter().zip([
            AddressRange::from(IpNet::V4(OVERLAY_V4)),
            IpNet::V6(OVERLAY_V6).into(),
        ]) {
            self.document.rule(
                "prerouting",
                vec![
                    is(payload(family.header, "saddr"), range(&overlay)),
                    route_back_is(link),
                    count(DENIED_SPOOFED),
                    drop(),
                ],
            );
            let own = text(&format!("@own{}", family.suffix));
            self.document.rule(
                "prerouting",
                vec![
                    is(payload(family.header, "daddr"), own),
                    count(DENIED_SPOOFED),
                    drop(),
                ],
            );
        }
        self.document
            .rule("input", vec![from_link(link), goto("to_host")]);
        self.document
            .rule("forward", vec![from_link(link), goto("to_relay")]);
        self.document
            .rule("forward", vec![to_link(link), goto("to_overlay")]);
        let answers = vec![
            to_link(link),
            direction("reply"),
            goto("to_overlay_from_host"),
        ];
        self.document.rule("output", answers);
        let not_tcp = is_not(meta(MetaKey::L4proto), protocol(IpProtocol::TCP));
        self.document.rule("clamp", vec![not_tcp, leave()]);
        for ends in [from_link(link), to_link(link)] {
            let mut statements = vec![ends];
            statements.extend(clamp_segment_size());
            self.document.rule("clamp", statements);
        }
    }

    fn judgement(&mut self) {
        for chain in ["to_host", "to_relay", "to_overlay", "to_overlay_from_host"] {
            let current = self.current();
            self.document.rule(chain, current);
        }
        // What this host itself began, and what hosts of a subnet behind it began, is judged where
        // it goes: here the replies come back. A public service behind a relay begins nothing.
        self.document
            .rule("to_host", vec![established(), direction("reply"), accept()]);
        for family in families(self.document.bank) {
            let served = || text(&format!("@subnets{}", family.suffix));
            self.document.rule(
                "to_relay",
                vec![
                    established(),
                    direction("reply"),
                    is(payload(family.header, "daddr"), served()),
                    accept(),
                ],
            );
            self.document.rule(
                "to_overlay",
                vec![
                    direction("original"),
                    is(payload(family.header, "saddr"), served()),
                    accept(),
                ],
            );
        }
        for (chain, denied) in [
            ("to_host", "deny_host"),
            ("to_relay", "deny_relay"),
            ("to_overlay", "deny_to_overlay"),
            ("to_overlay_from_host", "deny_to_overlay"),
        ] {
            self.document.rule(chain, vec![jump("judge")]);
            self.document.rule(chain, vec![goto(denied)]);
        }
    }

    /// From a packet to the grant that allows it: the narrow ones first, then those of its source's
    /// class. A chain for each family and direction, so that none asks what another knows.
    fn look_ups(&mut self) {
        for family in families(self.document.bank) {
            for (way, near, far, far_port) in WAYS {
                let chain = format!("judge_{way}{}", family.number);
                let to_it = vec![
                    is(meta(MetaKey::Nfproto), text(family.protocol)),
                    direction(way),
                    goto(&chain),
                ];
                self.document.rule("judge", to_it);
                let ends = || {
                    vec![
                        payload(family.header, near),
                        payload(family.header, far),
                        meta(MetaKey::L4proto),
                    ]
                };
                let mut with_port = ends();
                with_port.push(payload("th", far_port));
                let in_map = |parts, name: &str| {
                    let map = format!("{name}{}", family.suffix);
                    set_ct_mark(looked_up(concat(parts), &map))
                };
                let carries_ports = is(meta(MetaKey::L4proto), any_of(CARRIERS.map(protocol)));
                let ports = vec![
                    carries_ports,
                    in_map(with_port, "grants_ports"),
                    goto("pass"),
                ];
                let hosts = vec![in_map(ends(), "grants_hosts"), goto("pass")];
                self.document.rule(&chain, ports);
                self.document.rule(&chain, hosts);
                for map in ["sources", "source_ranges"] {
                    let map = format!("{map}{}", family.suffix);
                    let key = payload(family.header, near);
                    self.document.rule(&chain, vec![look_up(key, &map)]);
                }
            }
        }
        let mark = self.mark;
        let pass = vec![count(GRANTED), set_ct_mark(ct_mark_or(mark)), accept()];
        self.document.rule("pass", pass);
    }

    fn denials(&mut self) {
        for (chain, counter, prefix) in DENIALS {
            self.document.rule(chain, vec![count(counter)]);
            for family in families(self.document.bank) {
                let source = payload(family.header, "saddr");
                let set = format!("log_sources{}", family.number);
                let logged = vec![at_most(LOG_RATE, LOG_BURST, source, &set), log(prefix)];
                self.document.rule(chain, logged);
            }
            self.document.rule(chain, vec![drop()]);
        }
    }

    fn translation(&mut self, desired: &DesiredFirewall) {
        // The kernel's WireGuard hands over its encrypted packets as come in by its link. Their
        // source is where peers answer.
        let encrypted = is(
            masked(meta(MetaKey::Mark), TUNNEL_MARK_MASK),
            integer(TUNNEL_MARK),
        );
        self.document.rule("postrouting", vec![encrypted, leave()]);
        let relayed = [from_link(self.link), not_to_link(self.link)];
        if !desired.translation.subnets {
            for prefix in desired.subnets() {
                let header = if prefix.addr().is_ipv4() { "ip" } else { "ip6" };
                let mut kept = relayed.to_vec();
                kept.push(is(payload(header, "daddr"), range(&prefix.into())));
                kept.push(leave());
                self.document.rule("postrouting", kept);
            }
        }
        for family in families(self.document.bank) {
            let ways = Ways::new(desired, family.ipv4);
            if ways.has_choices() {
                let map = format!("{ROUTES_OUT}{}", family.suffix);
                let mut chosen = relayed.to_vec();
                chosen.push(look_up(payload(family.header, "daddr"), &map));
                self.document.rule("postrouting", chosen);
            }
            for (number, way) in ways.chains() {
                let chain = translation_chain(number);
                if let Way::BySource(_) = way {
                    let map = format!("{chain}_sources{}", family.suffix);
                    let by_source = look_up(payload(family.header, "saddr"), &map);
                    self.document.rule(&chain, vec![by_source]);
                }
                let address = way.address();
                let source = address.map_or_else(masquerade, |address| source_address(&address));
                self.document.rule(&chain, vec![source]);
            }
            let mut leaving = relayed.to_vec();
            leaving.push(is(meta(MetaKey::Nfproto), text(family.protocol)));
            let fixed = ways.default_address();
            leaving.push(fixed.map_or_else(masquerade, |address| source_address(&address)));
            self.document.rule("postrouting", leaving);
        }
    }
}
