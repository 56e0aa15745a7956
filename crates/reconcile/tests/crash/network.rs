//! Random networks, as one node is told of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use proptest::prelude::*;
use weir_kernel_plan::{LinkMtu, NodeSettings, WireguardBackend, desired_state};
use weir_overlay::{AddressSet, Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteState, RouteStatus, SelfNode,
};
use weir_reconcile::Target;

pub(crate) const OWN: &str = "100.64.0.1";
/// What this node offers to relay to.
pub(crate) const OFFERED: [&str; 2] = ["1.1.1.1/32", "10.77.0.0/24"];
/// What its peers may offer.
pub(crate) const ROUTES: [&str; 4] = ["8.8.8.8/32", "9.9.9.9/32", "10.20.0.0/24", "172.16.5.0/24"];
pub(crate) const PORTS: [u16; 2] = [53, 443];
pub(crate) const PEERS: u8 = 4;

/// A network as one node is told of it.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// By peer: the version of its key, when it is there.
    pub(crate) keys: [Option<u8>; PEERS as usize],
    /// By route: the peer that serves it.
    pub(crate) owners: [Option<u8>; ROUTES.len()],
    /// By offer: whether it is approved.
    pub(crate) approved: [bool; OFFERED.len()],
    /// Who may use which offer, or this host, at which port.
    pub(crate) grants: Vec<(u8, u8, u16)>,
}

pub(crate) fn network() -> impl Strategy<Value = Network> {
    let keys = proptest::array::uniform4(prop_oneof![
        1 => Just(None),
        3 => (0..2u8).prop_map(Some),
    ]);
    let owners = proptest::array::uniform4(proptest::option::of(0..PEERS));
    let grant = (0..PEERS, 0..3u8, prop::sample::select(PORTS.to_vec()));
    let grants = prop::collection::vec(grant, 0..6);
    (keys, owners, any::<[bool; 2]>(), grants).prop_map(|(keys, owners, approved, grants)| {
        Network {
            keys,
            owners,
            approved,
            grants,
        }
    })
}

pub(crate) fn address(peer: u8) -> IpAddr {
    IpAddr::from([100, 64, 0, 10 + peer])
}

pub(crate) fn key(peer: u8, version: u8) -> NodePublicKey {
    NodePublicKey::from_bytes([10 + peer * 2 + version; 32])
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Network {
    pub(crate) fn map(&self, generation: u64) -> NetworkMap {
        let peer = |number: u8, version: u8| {
            let owned = ROUTES.iter().zip(self.owners);
            Peer {
                id: NodeId(2 + u64::from(number)),
                name: format!("peer-{number}").parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                node_key: key(number, version),
                addresses: BTreeSet::from([address(number)]),
                routes: owned
                    .filter(|(_, owner)| *owner == Some(number))
                    .map(|(route, _)| prefix(route))
                    .collect(),
                source_prefixes: BTreeSet::new(),
                endpoint: format!("198.51.100.{number}:51920").parse().ok(),
            }
        };
        let peers = (0..PEERS)
            .zip(self.keys)
            .filter_map(|(number, version)| Some(peer(number, version?)))
            .map(|peer| (peer.id, peer))
            .collect();
        let set = |net: IpNet| -> AddressSet { [net].into_iter().collect() };
        let grant = |(number, (from, to, port)): (usize, &(u8, u8, u16))| Grant {
            id: GrantId(1 + u32::try_from(number).unwrap()),
            sources: set(IpNet::from(address(*from))),
            protocols: BTreeSet::from([IpProtocol::TCP]),
            destinations: vec![Destination {
                addresses: set(match OFFERED.get(usize::from(*to)) {
                    Some(offer) => prefix(offer),
                    None => IpNet::from(OWN.parse::<IpAddr>().unwrap()),
                }),
                ports: PortRange::single(*port),
            }],
            origin: String::new(),
        };
        NetworkMap {
            generation: Generation(generation),
            node: SelfNode {
                egress: Vec::new(),
                id: NodeId(1),
                name: "relay".parse().unwrap(),
                user: None,
                tags: BTreeSet::new(),
                addresses: BTreeSet::from([OWN.parse().unwrap()]),
                routes: OFFERED
                    .iter()
                    .zip(self.approved)
                    .map(|(offer, approved)| RouteStatus {
                        prefix: prefix(offer),
                        state: if approved {
                            RouteState::Serving
                        } else {
                            RouteState::AwaitingApproval
                        },
                    })
                    .collect(),
                key: weir_protocol::KeyStatus::default(),
            },
            peers,
            filter: self.grants.iter().enumerate().map(grant).collect(),
            notices: Vec::new(),
        }
    }

    pub(crate) fn target(&self, generation: u64) -> Arc<Target> {
        let settings = NodeSettings {
            interface: "weir0".parse().unwrap(),
            backend: WireguardBackend::Kernel,
            mtu: LinkMtu::FromPath,
            listen_port: 51920,
            accept_routes: true,
            exit_node: None,
            exit_node_allow_lan_access: false,
            snat_subnet_routes: true,
            egress: BTreeSet::new(),
            route_egress: BTreeMap::new(),
            advertised: OFFERED.iter().map(|offer| prefix(offer)).collect(),
            ipv6: false,
            autoconfigured_links: BTreeSet::new(),
            keepalive: false,
            direct: BTreeSet::new(),
            may_validate_marks: true,
        };
        let own = NodePrivateKey::from_bytes([7; 32]);
        Arc::new(Target {
            generation: Generation(generation),
            state: desired_state(&self.map(generation), &settings, own),
        })
    }
}
