//! What the sets and maps of our table hold: which grant each key stands for, the classes of
//! sources, the addresses that connections leave with, and the legend of the marks.

use nftables::{expr::MetaKey, schema::SetType};
use std::sync::Arc;
use weir_overlay::{AddressRange, AddressSet, GrantId};
use weir_protocol::Grant;

use super::{
    super::{
        DesiredFirewall,
        classes::Reach,
        document::{any_of, concat, direction, goto, is, looked_up, meta, payload, set_ct_mark},
        narrow::Tiers,
        nat::{ROUTES_OUT, Way, Ways, translation_chain},
        numbering::{Elements, Numbered, source},
        table::{Key, Shape, Table, Value},
        transaction::{CLASS_PREFIX, class_chain},
    },
    Body, CARRIERS, Family, RELAYED, WAYS, families, protocol,
};

/// How the maps from sources to classes begin: `sources4`, `source_ranges6`.
pub(in super::super) const SOURCES_PREFIX: &str = "source";
/// Sources that denials are rate-limited for at once; more share no log line, and are counted.
const LOG_SOURCES: u32 = 4096;
/// The longest comment that nft takes (`NFTNL_UDATA_COMMENT_MAXLEN`, libnftnl), in bytes.
const COMMENT_BYTES: usize = 128;

/// Keys of maps to grants: from everywhere, and within a class. With ports and without.
const fn key_types(ipv4: bool) -> [&'static [SetType]; 4] {
    use SetType::{InetProto, InetService, Ipv4Addr, Ipv6Addr};
    if ipv4 {
        [
            &[Ipv4Addr, Ipv4Addr, InetProto, InetService],
            &[Ipv4Addr, Ipv4Addr, InetProto],
            &[Ipv4Addr, InetProto, InetService],
            &[Ipv4Addr, InetProto],
        ]
    } else {
        [
            &[Ipv6Addr, Ipv6Addr, InetProto, InetService],
            &[Ipv6Addr, Ipv6Addr, InetProto],
            &[Ipv6Addr, InetProto, InetService],
            &[Ipv6Addr, InetProto],
        ]
    }
}

fn comment(grant: &Grant) -> Arc<str> {
    let as_it_is = |c: char| !c.is_control() && c != '"';
    if grant.origin.len() <= COMMENT_BYTES && grant.origin.chars().all(as_it_is) {
        return grant.origin.as_str().into();
    }
    let mut text: String = grant
        .origin
        .chars()
        .map(|c| if c.is_control() || c == '"' { ' ' } else { c })
        .collect();
    while text.len() > COMMENT_BYTES {
        text.pop();
    }
    text.into()
}

impl Body<'_> {
    /// Kept over a reload, with the rates they hold. The kernel refuses to add one that exists,
    /// since it bears a flag more than we asked for.
    pub(super) fn log_sources(&mut self) {
        for family in families(self.document.bank) {
            let name = format!("log_sources{}", family.number);
            self.document
                .dynamic_set(&name, family.address, LOG_SOURCES);
        }
    }

    /// The sets that are there whatever is granted.
    pub(super) fn sets(&mut self, desired: &DesiredFirewall) {
        let subnets: AddressSet = desired.subnets().into_iter().collect();
        for family in families(self.document.bank) {
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
            if !desired.relayed.is_empty() {
                document.interval_set(
                    &format!("{RELAYED}{suffix}"),
                    address,
                    &of(&desired.relayed),
                );
            }
            self.translation_maps(desired, family);
        }
    }

    /// The classes of an earlier table, made of the same grants: with the same numbers.
    pub(super) fn classes_of(&mut self, table: &Table) {
        let is_of_a_class =
            |name: &str| name.starts_with(CLASS_PREFIX) || name.starts_with(SOURCES_PREFIX);
        let sets = table.sets.iter().filter(|(name, _)| is_of_a_class(name));
        let sets = sets.map(|(name, set)| (name.clone(), Arc::clone(set)));
        self.document.sets.extend(sets);
        let chains = table.chains.iter().filter(|(name, _)| is_of_a_class(name));
        let chains = chains.map(|(name, chain)| (name.clone(), Arc::clone(chain)));
        self.document.chains.extend(chains);
    }

    /// Which class each source is in, and what each class reaches.
    pub(super) fn classes(&mut self, classes: &Numbered) {
        for family in families(self.document.bank) {
            let (mut single, mut wide) = (Vec::new(), Vec::new());
            for (range, class) in classes
                .sources()
                .filter(|(range, _)| range.is_ipv4() == family.ipv4)
            {
                if range.single().is_some() {
                    single.push((source(range), Value::Class(class)));
                } else {
                    wide.push((source(range), Value::Class(class)));
                }
            }
            let shape = |interval| Shape::Classes {
                key: family.address,
                interval,
            };
            let suffix = family.suffix;
            let document = &mut self.document;
            document.set(&format!("{SOURCES_PREFIX}s{suffix}"), shape(false), single);
            document.set(
                &format!("{SOURCES_PREFIX}_ranges{suffix}"),
                shape(true),
                wide,
            );
        }
        for (class, reach) in classes.reach() {
            self.document.chain(&class_chain(class));
            for family in families(self.document.bank) {
                self.class_maps(class, family, reach);
            }
        }
    }

    /// Single addresses with single ports, or with all of them, go to hashes; ranges of either to
    /// interval maps.
    fn class_maps(&mut self, class: u32, family: Family, reach: &[Reach]) {
        let [.., with_ports, without] = key_types(family.ipv4);
        let chain = class_chain(class);
        let elements = Elements::of(reach, family.ipv4);
        for (kind, key, interval, elements) in [
            ("ports", with_ports, false, elements.ports),
            ("hosts", without, false, elements.hosts),
            ("port_ranges", with_ports, true, elements.port_ranges),
            ("nets", without, true, elements.nets),
        ] {
            if elements.is_empty() {
                continue;
            }
            let name = format!("{chain}_{kind}{}", family.suffix);
            self.document
                .set(&name, Shape::Marks { key, interval }, elements);
            for (way, _, far, far_port) in WAYS {
                let mut rule = vec![direction(way)];
                let mut parts = vec![payload(family.header, far), meta(MetaKey::L4proto)];
                if key.len() == with_ports.len() {
                    rule.push(is(meta(MetaKey::L4proto), any_of(CARRIERS.map(protocol))));
                    parts.push(payload("th", far_port));
                }
                rule.push(set_ct_mark(looked_up(concat(parts), &name)));
                rule.push(goto("pass"));
                self.document.rule(&chain, rule);
            }
        }
    }

    /// From a destination, and from a source, to the address that a connection leaves with.
    fn translation_maps(&mut self, desired: &DesiredFirewall, family: Family) {
        let ways = Ways::new(desired, family.ipv4);
        let shape = Shape::Classes {
            key: family.address,
            interval: true,
        };
        let elements = |leading: Vec<(AddressRange, u32)>| {
            leading
                .into_iter()
                .map(|(range, number)| (source(range), Value::Translation(number)))
                .collect()
        };
        if ways.has_choices() {
            let map = format!("{ROUTES_OUT}{}", family.suffix);
            self.document.set(&map, shape, elements(ways.by_route()));
        }
        for (number, way) in ways.chains() {
            if let Way::BySource(by_source) = way {
                let map = format!("{}_sources{}", translation_chain(number), family.suffix);
                self.document
                    .set(&map, shape, elements(by_source.leading.clone()));
            }
        }
    }

    pub(super) fn narrow(&mut self, tiers: Tiers<'_>) {
        for (family, narrow) in families(self.document.bank)
            .into_iter()
            .zip([tiers.narrow4, tiers.narrow6])
        {
            let [ports, hosts, ..] = key_types(family.ipv4);
            for (name, key, elements) in [
                ("grants_ports", ports, narrow.ports),
                ("grants_hosts", hosts, narrow.hosts),
            ] {
                let name = format!("{name}{}", family.suffix);
                let interval = false;
                self.document
                    .set(&name, Shape::Marks { key, interval }, elements);
            }
        }
    }

    /// Which grant each mark stands for, and where the policy says so. No packet looks here.
    pub(super) fn legend(&mut self, grants: &[Grant]) {
        let mut used: Vec<GrantId> = self
            .document
            .sets
            .values()
            .flat_map(|set| &set.elements)
            .filter_map(|(_, value)| match value {
                Value::Grant(id) => Some(*id),
                Value::Present | Value::Class(_) | Value::Translation(_) | Value::Comment(_) => {
                    None
                }
            })
            .collect();
        used.sort_unstable();
        used.dedup();
        let elements = grants
            .iter()
            .filter(|grant| used.binary_search(&grant.id).is_ok())
            .map(|grant| {
                let key = Key {
                    grant: Some(grant.id),
                    ..Key::default()
                };
                (key, Value::Comment(comment(grant)))
            })
            .collect();
        self.document.set("grants", Shape::Legend, elements);
    }
}
