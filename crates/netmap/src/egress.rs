//! With which of a relay's addresses whose traffic leaves: an admin's choices, in the addresses of
//! those they are about.

use crate::{network::Network, state::Node};
use std::collections::BTreeMap;
use weir_overlay::{AddressRange, AddressSet, NodeId};
use weir_policy::NodeSelector;
use weir_protocol::RouteEgress;

impl Network<'_> {
    /// What a relay is told of the addresses that an admin chose for its routes, by route. Who is
    /// not its peer does not occur, and who is selected twice occurs where the first selector puts
    /// them.
    #[must_use]
    pub fn egress(&self, relay: NodeId) -> Vec<RouteEgress> {
        let Some(relay) = self.state.nodes.get(&relay) else {
            return Vec::new();
        };
        if relay.egress.is_empty() {
            return Vec::new();
        }
        let peers = self.policy.peers(relay.id);
        let peers: Vec<&Node> = peers
            .iter()
            .filter_map(|id| self.state.nodes.get(id))
            .collect();
        let mut told = Vec::new();
        for (route, choice) in &relay.egress {
            if !relay.host.advertised_routes.contains(route) {
                continue;
            }
            let mut sources: BTreeMap<&NodeSelector, Vec<AddressRange>> = BTreeMap::new();
            for peer in &peers {
                let mut selectors = choice.by_selector.keys();
                if let Some(first) = selectors.find(|selector| self.selects(selector, peer)) {
                    let addresses = self.addresses(relay, peer).into_iter();
                    let ranges = sources.entry(first).or_default();
                    ranges.extend(addresses.map(AddressRange::from));
                }
            }
            told.extend(sources.into_iter().filter_map(|(selector, ranges)| {
                Some(RouteEgress {
                    route: *route,
                    sources: Some(ranges.into_iter().collect::<AddressSet>()),
                    address: *choice.by_selector.get(selector)?,
                })
            }));
            told.extend(choice.address.map(|address| RouteEgress {
                route: *route,
                sources: None,
                address,
            }));
        }
        told
    }

    fn selects(&self, selector: &NodeSelector, node: &Node) -> bool {
        let owner = node.user.and_then(|user| self.state.users.get(&user));
        self.source.selects(selector, &node.tags, owner)
    }
}
