//! With which address a relayed connection leaves: by destination, then by source.
//!
//! A connection is looked up once, by its first packet: the route that it takes in one map, and,
//! where that route makes a difference between sources, its source in another. So the cost does
//! not grow with the number of routes, groups or nodes.

use ipnet::IpNet;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use weir_overlay::{AddressRange, AddressSet};

use super::{DesiredFirewall, RouteEgress};

impl DesiredFirewall {
    /// The fixed address that a relayed connection leaves with; `None` for that of the link.
    #[must_use]
    pub fn egress_for(&self, source: IpAddr, destination: IpAddr) -> Option<IpAddr> {
        let of_family = |address: &IpAddr| address.is_ipv4() == destination.is_ipv4();
        let choices = || {
            let routes = self.translation.routes.iter();
            routes.filter(|choice| {
                choice.route.contains(&destination)
                    && of_family(&choice.address)
                    && !(choice.route.prefix_len() == 0 && self.served.contains(destination))
            })
        };
        let longest = choices().map(|choice| choice.route.prefix_len()).max();
        choices()
            .filter(|choice| Some(choice.route.prefix_len()) == longest)
            .find(|choice| {
                let sources = choice.sources.as_ref();
                sources.is_none_or(|sources| sources.contains(source))
            })
            .map(|choice| choice.address)
            .or_else(|| self.translation.egress.iter().copied().find(of_family))
    }
}

/// The map from destinations to the chains of their routes.
pub(super) const ROUTES_OUT: &str = "routes_out";

/// How the names of chains begin that give connections their source address.
pub(super) const TRANSLATION_PREFIX: &str = "leave_";

/// The name of a chain that gives connections their source address.
pub(super) fn translation_chain(number: u32) -> String {
    format!("{TRANSLATION_PREFIX}{number}")
}

/// How connections leave that come to one chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// All with this address.
    Fixed(IpAddr),
    /// It depends on the source.
    BySource(BySource),
}

/// Chains by source, and the address of all other sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BySource {
    pub(super) leading: Vec<(AddressRange, u32)>,
    address: Option<IpAddr>,
}

impl Way {
    /// The address of connections that nothing else is said of; `None` for that of the link.
    pub(super) const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Fixed(address) => Some(*address),
            Self::BySource(by_source) => by_source.address,
        }
    }
}

/// The ways out for one family.
#[derive(Debug, Default)]
pub(super) struct Ways {
    default: Option<IpAddr>,
    by_route: Vec<(AddressRange, u32)>,
    chains: BTreeMap<Way, u32>,
    offset: u32,
}

/// Where the numbers of IPv6's chains begin: one chain is of one family.
const V6_CHAINS: u32 = 1 << 16;

impl Ways {
    pub(super) fn new(desired: &DesiredFirewall, ipv4: bool) -> Self {
        let of_family = |address: &IpAddr| address.is_ipv4() == ipv4;
        let translation = &desired.translation;
        let mut ways = Self {
            default: translation.egress.iter().copied().find(of_family),
            offset: if ipv4 { 0 } else { V6_CHAINS },
            ..Self::default()
        };
        let mut choices: BTreeMap<(Reverse<u8>, IpNet), Vec<&RouteEgress>> = BTreeMap::new();
        for choice in translation
            .routes
            .iter()
            .filter(|choice| of_family(&choice.address) && choice.route.addr().is_ipv4() == ipv4)
        {
            let key = (Reverse(choice.route.prefix_len()), choice.route);
            choices.entry(key).or_default().push(choice);
        }
        // Of routes that hold one destination, the longest decides; a default route leaves those
        // alone that are served for their own sake.
        let mut decided = AddressSet::default();
        for ((_, route), choices) in choices {
            if route.prefix_len() == 0 {
                decided = decided.union(&desired.served);
            }
            let whole: AddressSet = [AddressRange::from(route)].into_iter().collect();
            let number = ways.route(&choices);
            let left = whole.difference(&decided);
            let led = left.ranges().iter().map(|range| (*range, number));
            ways.by_route.extend(led);
            decided = decided.union(&whole);
        }
        ways
    }

    fn number(&mut self, way: Way) -> u32 {
        let next = self.offset + u32::try_from(self.chains.len()).unwrap_or(u32::MAX);
        *self.chains.entry(way).or_insert(next)
    }

    /// The chain of a route with these choices, the first of which count.
    fn route(&mut self, choices: &[&RouteEgress]) -> u32 {
        let for_all = choices.iter().position(|choice| choice.sources.is_none());
        let address = for_all
            .and_then(|at| choices.get(at))
            .map(|choice| choice.address)
            .or(self.default);
        let mut leading = Vec::new();
        let mut decided = AddressSet::default();
        for choice in choices.iter().take(for_all.unwrap_or(choices.len())) {
            let Some(sources) = &choice.sources else {
                continue;
            };
            let number = self.number(Way::Fixed(choice.address));
            let left = sources.difference(&decided);
            let of_family = left
                .ranges()
                .iter()
                .filter(|range| range.is_ipv4() == choice.address.is_ipv4());
            leading.extend(of_family.map(|range| (*range, number)));
            decided = decided.union(sources);
        }
        match address {
            Some(address) if leading.is_empty() => self.number(Way::Fixed(address)),
            _ => self.number(Way::BySource(BySource { leading, address })),
        }
    }

    pub(super) fn has_choices(&self) -> bool {
        !self.by_route.is_empty()
    }

    /// The address where no route says otherwise; `None` for that of the link.
    pub(super) const fn default_address(&self) -> Option<IpAddr> {
        self.default
    }

    /// Destinations, none of them twice, and the numbers of their chains.
    pub(super) fn by_route(&self) -> Vec<(AddressRange, u32)> {
        self.by_route.clone()
    }

    /// The chains by number.
    pub(super) fn chains(&self) -> Vec<(u32, &Way)> {
        let numbered: BTreeSet<_> = self.chains.iter().map(|(way, at)| (*at, way)).collect();
        numbered.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::SourceTranslation;

    fn set(text: &str) -> AddressSet {
        text.split(' ')
            .map(|item| item.parse::<AddressRange>().unwrap())
            .collect()
    }

    fn choice(route: &str, sources: Option<&str>, address: &str) -> RouteEgress {
        RouteEgress {
            route: route.parse().unwrap(),
            sources: sources.map(set),
            address: address.parse().unwrap(),
        }
    }

    fn firewall(routes: Vec<RouteEgress>) -> DesiredFirewall {
        DesiredFirewall {
            own_addresses: AddressSet::default(),
            served: set("8.8.8.8 9.9.9.0/24"),
            exit: true,
            grants: Vec::new(),
            translation: SourceTranslation {
                subnets: true,
                egress: ["203.0.113.7".parse().unwrap()].into(),
                routes,
            },
            tunnel_port: None,
            relayed: AddressSet::default(),
        }
    }

    /// With which address a connection leaves, as the chains would have it.
    fn leaves(ways: &Ways, source: &str, destination: &str) -> Option<String> {
        let in_map = |map: &[(AddressRange, u32)], address: &str| {
            let address: AddressRange = address.parse().unwrap();
            let found: Vec<_> = map
                .iter()
                .filter(|(range, _)| range.contains(address.first()))
                .collect();
            assert!(found.len() < 2, "{address} twice in {map:?}");
            found.first().map(|(_, number)| *number)
        };
        let chains: BTreeMap<u32, &Way> = ways.chains().into_iter().collect();
        let address = match in_map(&ways.by_route(), destination).map(|number| chains[&number]) {
            None => ways.default_address(),
            Some(Way::Fixed(address)) => Some(*address),
            Some(way @ Way::BySource(by_source)) => in_map(&by_source.leading, source)
                .map_or(way.address(), |number| chains[&number].address()),
        };
        address.map(|address| address.to_string())
    }

    #[test]
    fn the_longest_route_and_the_first_choice_count() {
        let firewall = firewall(vec![
            choice("0.0.0.0/0", None, "203.0.113.10"),
            choice("9.9.0.0/16", None, "203.0.113.11"),
            choice("9.9.9.0/24", Some("100.64.0.2"), "203.0.113.12"),
            choice("9.9.9.0/24", Some("100.64.0.0/24"), "203.0.113.13"),
            choice("9.9.9.0/24", None, "2001:db8::1"),
        ]);
        let ways = Ways::new(&firewall, true);
        for (source, destination, address) in [
            ("100.64.0.2", "1.1.1.1", "203.0.113.10"),
            ("100.64.0.2", "9.9.1.1", "203.0.113.11"),
            ("100.64.0.2", "9.9.9.9", "203.0.113.12"),
            ("100.64.0.3", "9.9.9.9", "203.0.113.13"),
            ("100.64.1.3", "9.9.9.9", "203.0.113.7"),
            // Served for its own sake: what is chosen for the exit does not concern it.
            ("100.64.0.2", "8.8.8.8", "203.0.113.7"),
        ] {
            let found = leaves(&ways, source, destination);
            assert_eq!(found.as_deref(), Some(address), "{source} to {destination}");
            let said = firewall.egress_for(source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(said, address.parse().ok(), "{source} to {destination}");
        }
    }

    #[test]
    fn routes_with_the_same_choice_share_a_chain() {
        let routes = (0..200)
            .map(|n| choice(&format!("9.9.9.{n}/32"), Some("100.64.0.2"), "203.0.113.12"))
            .collect();
        let ways = Ways::new(&firewall(routes), true);
        assert_eq!(ways.chains().len(), 2);
    }
}
