//! The ruleset: every chain of our table, and why it is there.
//!
//! ```text
//! prerouting  ── overlay sources that did not come from the link, overlay destinations likewise: dropped
//! input       ── from the link ──▶ to_host      ┐ current connections pass;
//! forward     ── from the link ──▶ to_relay     ├ others: judge ▶ class_N ▶ grant_N ▶ pass
//!             ── to the link   ──▶ to_overlay   │ (marked and accepted), or denied
//! output      ── replies to the link ▶ to_overlay_from_host ┘
//! postrouting ── relayed traffic leaves with this host's address
//! clamp       ── TCP segment size, both ways
//! ```
//!
//! A connection's mark holds the firewall generation it was judged under and the grant. A new
//! ruleset has a new generation: every connection is judged again by its next packet, in whichever
//! direction that goes, and re-marked or dropped. So a revocation is part of the transaction.

use ipnet::IpNet;
use nftables::{
    expr::MetaKey,
    schema::SetType,
    types::{NfChainType, NfHook},
};
use std::collections::BTreeMap;
use weir_overlay::{AddressRange, AddressSet, GrantId, InterfaceName, OVERLAY_V4, OVERLAY_V6};
use weir_protocol::{Grant, IpProtocol, PortRange};

use super::{
    DesiredFirewall, ObservedFirewall,
    classes::{Classes, Reach, classify},
    document::{
        Document, Expr, Stmt, accept, any_of, at_most, clamp_segment_size, concat, count, ct,
        ct_mark_or, direction, drop, established, from_link, go, goto, integer, is, is_not, jump,
        leave, log, look_up, masked, masquerade, meta, not_to_link, pair, payload, range,
        route_back_is, set_ct_mark, source_address, text, to_link,
    },
};
use crate::{CT_GENERATION_MASK, CT_GENERATION_MAX, CT_GENERATION_SHIFT};

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

const COUNTERS: [&str; 5] = [
    DENIED_RELAY,
    DENIED_HOST,
    DENIED_TO_OVERLAY,
    DENIED_SPOOFED,
    GRANTED,
];
const LOG_RATE: u32 = 5;
const LOG_BURST: u32 = 10;
/// Sources that denials are rate-limited for at once; more share no log line, and are counted.
const LOG_SOURCES: u32 = 4096;
/// The longest comment that nft takes (`NFTNL_UDATA_COMMENT_MAXLEN`, libnftnl), in bytes.
const COMMENT_BYTES: usize = 128;

#[derive(Clone, Copy)]
struct Family {
    ipv4: bool,
    suffix: &'static str,
    header: &'static str,
    address: SetType,
    protocol: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        ipv4: true,
        suffix: "4",
        header: "ip",
        address: SetType::Ipv4Addr,
        protocol: "ipv4",
    },
    Family {
        ipv4: false,
        suffix: "6",
        header: "ip6",
        address: SetType::Ipv6Addr,
        protocol: "ipv6",
    },
];

/// The generation after the one that marks connections now.
fn next_generation(observed: Option<&ObservedFirewall>, fingerprint: &str) -> u16 {
    match observed {
        Some(observed) if observed.generation != 0 => observed.generation % CT_GENERATION_MAX + 1,
        // The table is gone and the connections are not: any number that few of them bear.
        Some(_) | None => {
            let drawn = u16::from_str_radix(fingerprint.get(..4).unwrap_or("1"), 16).unwrap_or(1);
            drawn % CT_GENERATION_MAX + 1
        }
    }
}

/// A ruleset, ready to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// The libnftables JSON document: one transaction.
    pub document: String,
    /// The mark bits of its generation. Connections that bear them already were judged thousands
    /// of rulesets ago, and must be forgotten before it is loaded.
    pub mark: u32,
}

/// The document that removes our table.
#[must_use]
pub fn removal() -> String {
    let mut document = Document::default();
    // Deleting what is not there is an error; adding what is there is not.
    document.table();
    document.delete_table();
    document.render()
}

/// Compiles the firewall to the transaction that puts it in force in place of what was observed.
/// Counters keep their values.
#[must_use]
pub fn compile(
    desired: &DesiredFirewall,
    interface: &InterfaceName,
    observed: Option<&ObservedFirewall>,
) -> Ruleset {
    let fingerprint = desired.fingerprint(interface);
    let generation = next_generation(observed, &fingerprint);
    let mark = u32::from(generation) << CT_GENERATION_SHIFT;
    let mut body = Body {
        link: interface.as_str(),
        mark,
        document: Document::default(),
    };
    let classes = classify(&desired.grants, &desired.within());
    let used: BTreeMap<GrantId, &Grant> = granted_ids(&classes)
        .filter_map(|id| Some((id, desired.grants.iter().find(|grant| grant.id == id)?)))
        .collect();

    body.document.table();
    for counter in COUNTERS {
        body.document.counter(counter);
    }
    let chains = chain_names(&classes, &used);
    if let Some(observed) = observed {
        body.document.flush_table();
        for (name, is_map) in &observed.sets {
            if !name.starts_with("log_") {
                body.document
                    .delete(if *is_map { "map" } else { "set" }, name);
            }
        }
        for name in observed.chains.iter().filter(|name| {
            !chains.contains(name) && !BASE_CHAINS.iter().any(|(base, ..)| base == name)
        }) {
            body.document.delete("chain", name);
        }
    }
    for (name, kind, hook, priority) in BASE_CHAINS {
        body.document.base_chain(name, kind, hook, priority);
    }
    for name in &chains {
        body.document.chain(name);
    }
    body.log_sources(observed);
    body.sets(desired, &classes);
    body.base_rules();
    body.judgement(&classes);
    body.grants(&used);
    body.denials();
    body.translation(desired);
    let (rules, elements) = (body.document.rules, body.document.elements);
    body.document.chain(&super::listing::stamp(
        &fingerprint,
        generation,
        rules,
        elements,
    ));
    Ruleset {
        document: body.document.render(),
        mark,
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

fn granted_ids(classes: &Classes) -> impl Iterator<Item = GrantId> + '_ {
    classes.reach.iter().flatten().flat_map(|reach| {
        let ports = reach.ports.iter().map(|(_, _, id)| *id);
        ports.chain(reach.protocols.iter().map(|(_, id)| *id))
    })
}

fn chain_names(classes: &Classes, used: &BTreeMap<GrantId, &Grant>) -> Vec<String> {
    let fixed = [
        "to_host",
        "to_relay",
        "to_overlay",
        "to_overlay_from_host",
        "judge",
        "pass",
    ];
    fixed
        .into_iter()
        .map(str::to_owned)
        .chain(DENIALS.iter().map(|(name, ..)| (*name).to_owned()))
        .chain((0..classes.reach.len()).map(class_chain))
        .chain(used.keys().map(|id| grant_chain(*id)))
        .collect()
}

fn class_chain(index: usize) -> String {
    format!("class_{index}")
}

fn grant_chain(id: GrantId) -> String {
    format!("grant_{id}")
}

fn protocol(protocol: IpProtocol) -> Expr {
    integer(u32::from(protocol.0))
}

fn ports(ports: PortRange) -> Expr {
    let (first, last) = (
        integer(u32::from(ports.first)),
        integer(u32::from(ports.last)),
    );
    if ports.first == ports.last {
        first
    } else {
        pair(first, last)
    }
}

fn comment(grant: &Grant) -> Option<String> {
    let mut text: String = grant
        .origin
        .chars()
        .map(|c| if c.is_control() || c == '"' { ' ' } else { c })
        .collect();
    while text.len() > COMMENT_BYTES {
        text.pop();
    }
    (!text.is_empty()).then_some(text)
}

struct Body<'a> {
    link: &'a str,
    mark: u32,
    document: Document,
}

impl Body<'_> {
    /// Kept over a reload, with the rates they hold. The kernel refuses to add one that exists,
    /// since it bears a flag more than we asked for.
    fn log_sources(&mut self, observed: Option<&ObservedFirewall>) {
        for family in FAMILIES {
            let name = format!("log_sources{}", family.suffix);
            if !observed.is_some_and(|observed| observed.sets.contains_key(&name)) {
                self.document
                    .dynamic_set(&name, family.address, LOG_SOURCES);
            }
        }
    }

    fn sets(&mut self, desired: &DesiredFirewall, classes: &Classes) {
        let subnets: AddressSet = desired.subnets().into_iter().collect();
        for family in FAMILIES {
            let of = |set: &AddressSet| -> Vec<AddressRange> {
                set.ranges()
                    .iter()
                    .filter(|r| r.is_ipv4() == family.ipv4)
                    .copied()
                    .collect()
            };
            let suffix = family.suffix;
            let address = family.address;
            let document = &mut self.document;
            document.interval_set(
                &format!("own{suffix}"),
                address,
                &of(&desired.own_addresses),
            );
            document.interval_set(&format!("subnets{suffix}"), address, &of(&subnets));
            let (single, wide): (Vec<_>, Vec<_>) = classes
                .sources
                .iter()
                .filter(|(sources, _)| sources.is_ipv4() == family.ipv4)
                .map(|(sources, class)| (sources, (range(sources), go(&class_chain(*class)))))
                .partition(|(sources, _)| sources.single().is_some());
            let only = |items: Vec<(_, _)>| items.into_iter().map(|(_, element)| element).collect();
            document.verdict_map(&format!("sources{suffix}"), &[address], false, only(single));
            document.verdict_map(
                &format!("source_ranges{suffix}"),
                &[address],
                true,
                only(wide),
            );
        }
        for (index, reach) in classes.reach.iter().enumerate() {
            for family in FAMILIES {
                self.class_maps(index, family, reach);
            }
        }
    }

    /// Single addresses with single ports go to a hash; ranges of either to an interval map.
    fn class_maps(&mut self, index: usize, family: Family, reach: &[Reach]) {
        let (mut exact, mut wide, mut portless) = (Vec::new(), Vec::new(), Vec::new());
        for piece in reach
            .iter()
            .filter(|piece| piece.addresses.is_ipv4() == family.ipv4)
        {
            let single = piece.addresses.single().is_some();
            for (proto, piece_ports, id) in &piece.ports {
                let key = concat(vec![
                    range(&piece.addresses),
                    protocol(*proto),
                    ports(*piece_ports),
                ]);
                let element = (key, go(&grant_chain(*id)));
                if single && piece_ports.first == piece_ports.last {
                    exact.push(element);
                } else {
                    wide.push(element);
                }
            }
            for (proto, id) in &piece.protocols {
                let key = concat(vec![range(&piece.addresses), protocol(*proto)]);
                portless.push((key, go(&grant_chain(*id))));
            }
        }
        let with_ports = [family.address, SetType::InetProto, SetType::InetService];
        let chain = class_chain(index);
        for (kind, key, interval, elements) in [
            ("exact", &with_ports[..], false, exact),
            ("ranges", &with_ports[..], true, wide),
            ("portless", &with_ports[..2], true, portless),
        ] {
            if elements.is_empty() {
                continue;
            }
            let name = format!("{chain}_{kind}{}", family.suffix);
            self.document.verdict_map(&name, key, interval, elements);
            for (which, side, port) in [("original", "daddr", "dport"), ("reply", "saddr", "sport")]
            {
                let mut statements = vec![direction(which)];
                let mut parts = vec![payload(family.header, side), meta(MetaKey::L4proto)];
                if kind != "portless" {
                    let carriers = [IpProtocol::TCP, IpProtocol::UDP, IpProtocol::SCTP];
                    statements.push(is(meta(MetaKey::L4proto), any_of(carriers.map(protocol))));
                    parts.push(payload("th", port));
                }
                statements.push(look_up(concat(parts), &name));
                self.document.rule(&chain, statements);
            }
        }
    }

    fn current(&self) -> Vec<Stmt> {
        let generation = masked(ct("mark"), CT_GENERATION_MASK);
        vec![established(), is(generation, integer(self.mark)), accept()]
    }

    fn base_rules(&mut self) {
        let link = self.link;
        for (family, overlay) in FAMILIES.into_iter().zip([
            AddressRange::from(IpNet::V4(OVERLAY_V4)),
            IpNet::V6(OVERLAY_V6).into(),
        ]) {
            let elsewhere = || is_not(meta(MetaKey::Iifname), any_of([text("lo"), text(link)]));
            self.document.rule(
                "prerouting",
                vec![
                    elsewhere(),
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
                    elsewhere(),
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
        for ends in [from_link(link), to_link(link)] {
            let mut statements = vec![ends];
            statements.extend(clamp_segment_size());
            self.document.rule("clamp", statements);
        }
    }

    fn judgement(&mut self, classes: &Classes) {
        for chain in ["to_host", "to_relay", "to_overlay", "to_overlay_from_host"] {
            let current = self.current();
            self.document.rule(chain, current);
        }
        // What this host itself began, and what hosts of a subnet behind it began, is judged where
        // it goes: here the replies come back. A public service behind a relay begins nothing.
        self.document
            .rule("to_host", vec![established(), direction("reply"), accept()]);
        for family in FAMILIES {
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
        if classes.sources.is_empty() {
            return;
        }
        for family in FAMILIES {
            for (which, side) in [("original", "saddr"), ("reply", "daddr")] {
                for map in ["sources", "source_ranges"] {
                    let map = format!("{map}{}", family.suffix);
                    let key = payload(family.header, side);
                    self.document
                        .rule("judge", vec![direction(which), look_up(key, &map)]);
                }
            }
        }
    }

    fn grants(&mut self, used: &BTreeMap<GrantId, &Grant>) {
        for (id, grant) in used {
            let chain = grant_chain(*id);
            let mark = vec![set_ct_mark(integer(id.0)), goto("pass")];
            self.document
                .rule_with_comment(&chain, mark, comment(grant));
        }
        let mark = self.mark;
        let pass = vec![count(GRANTED), set_ct_mark(ct_mark_or(mark)), accept()];
        self.document.rule("pass", pass);
    }

    fn denials(&mut self) {
        for (chain, counter, prefix) in DENIALS {
            self.document.rule(chain, vec![count(counter)]);
            for family in FAMILIES {
                let source = payload(family.header, "saddr");
                let set = format!("log_sources{}", family.suffix);
                let logged = vec![at_most(LOG_RATE, LOG_BURST, source, &set), log(prefix)];
                self.document.rule(chain, logged);
            }
            self.document.rule(chain, vec![drop()]);
        }
    }

    fn translation(&mut self, desired: &DesiredFirewall) {
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
        for family in FAMILIES {
            let fixed = desired
                .translation
                .egress
                .iter()
                .find(|ip| ip.is_ipv4() == family.ipv4);
            let mut leaving = relayed.to_vec();
            leaving.push(is(meta(MetaKey::Nfproto), text(family.protocol)));
            leaving.push(fixed.map_or_else(masquerade, source_address));
            self.document.rule("postrouting", leaving);
        }
    }
}
