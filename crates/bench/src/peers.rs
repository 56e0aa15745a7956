//! A relay with many peers, as its network map describes it.

use anyhow::{Context as _, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use weir_kernel_plan::{LinkMtu, NodeSettings, WireguardBackend, desired_state};
use weir_overlay::{AddressSet, Generation, GrantId, NodeId, NodePrivateKey, NodePublicKey};
use weir_protocol::{
    Destination, Grant, IpProtocol, NetworkMap, Peer, PortRange, RouteState, RouteStatus, SelfNode,
};
use weir_reconcile::Target;

/// The link of the benchmarks, in a network namespace of its own.
pub(crate) const LINK: &str = "weir0";
/// Every how manieth peer serves a subnet.
const SERVES: u32 = 10;
const PORT: u16 = 51920;

fn key() -> NodePrivateKey {
    NodePrivateKey::from_bytes([7; 32])
}

/// A key that nobody has the private half of.
fn public_key(number: u32) -> NodePublicKey {
    let mut bytes = [9; 32];
    for (byte, part) in bytes.iter_mut().zip(number.to_le_bytes()) {
        *byte = part;
    }
    NodePublicKey::from_bytes(bytes)
}

fn peer(number: u32) -> Result<Peer> {
    let address = Ipv4Addr::from(0x6440_0100 + number);
    let endpoint = IpAddr::from(Ipv4Addr::from(0xc612_0100 + number));
    let [_, _, high, low] = (number / SERVES).to_be_bytes();
    let subnet = number
        .is_multiple_of(SERVES)
        .then(|| format!("10.{high}.{low}.0/24"));
    Ok(Peer {
        id: NodeId(10 + u64::from(number)),
        name: format!("peer-{number}").parse()?,
        user: None,
        tags: BTreeSet::new(),
        node_key: public_key(number),
        addresses: BTreeSet::from([address.into()]),
        routes: subnet
            .map(|subnet| subnet.parse())
            .transpose()?
            .into_iter()
            .collect(),
        source_prefixes: BTreeSet::new(),
        endpoint: Some(SocketAddr::new(endpoint, PORT)),
    })
}

/// The map of a relay with so many peers.
pub(crate) fn map(peers: u32) -> Result<NetworkMap> {
    let set = |prefix: &str| -> Result<AddressSet> {
        let prefix: ipnet::IpNet = prefix.parse().context("a prefix of the benchmark")?;
        Ok([prefix].into_iter().collect())
    };
    let peers = (0..peers).map(|number| peer(number).map(|peer| (peer.id, peer)));
    Ok(NetworkMap {
        generation: Generation(1),
        node: SelfNode {
            egress: Vec::new(),
            id: NodeId(1),
            name: "relay".parse()?,
            user: None,
            tags: BTreeSet::new(),
            addresses: BTreeSet::from([Ipv4Addr::new(100, 64, 0, 1).into()]),
            routes: vec![RouteStatus {
                prefix: "203.0.113.80/32".parse()?,
                state: RouteState::Serving,
            }],
            key: weir_protocol::KeyStatus::default(),
        },
        peers: peers.collect::<Result<BTreeMap<_, _>>>()?,
        filter: vec![Grant {
            id: GrantId(1),
            sources: set("100.64.0.0/10")?,
            protocols: BTreeSet::from([IpProtocol::TCP]),
            destinations: vec![Destination {
                addresses: set("203.0.113.80/32")?,
                ports: PortRange::single(443),
            }],
            origin: String::new(),
        }],
        notices: Vec::new(),
    })
}

/// Lets one peer serve a prefix more, or that prefix less: the next map.
pub(crate) fn change_one_peer(map: &mut NetworkMap) -> Result<()> {
    map.generation = Generation(map.generation.0 + 1);
    let prefix = "172.16.0.0/24".parse()?;
    let mut peers = map.peers.values_mut();
    let peer = peers.nth(peers.len() / 2).context("there are no peers")?;
    if !peer.routes.insert(prefix) {
        peer.routes.remove(&prefix);
    }
    Ok(())
}

/// What the kernel should be with this map.
pub(crate) fn target(map: &NetworkMap, backend: WireguardBackend) -> Result<Arc<Target>> {
    let settings = NodeSettings {
        interface: LINK.parse()?,
        backend,
        mtu: LinkMtu::FromPath,
        listen_port: PORT,
        accept_routes: true,
        exit_node: None,
        exit_node_allow_lan_access: false,
        snat_subnet_routes: true,
        egress: BTreeSet::new(),
        route_egress: BTreeMap::new(),
        advertised: BTreeSet::from(["203.0.113.80/32".parse()?]),
        ipv6: false,
        autoconfigured_links: BTreeSet::new(),
        keepalive: false,
        direct: BTreeSet::new(),
        may_validate_marks: false,
    };
    Ok(Arc::new(Target {
        generation: map.generation,
        state: desired_state(map, &settings, key()),
    }))
}

/// The same peers as `wg setconf` reads them.
pub(crate) fn configuration(target: &Target) -> Result<String> {
    let mut text = String::new();
    let device = &target.state.device;
    writeln!(text, "[Interface]\nListenPort = {}", device.listen_port)?;
    writeln!(text, "FwMark = {}", device.firewall_mark)?;
    for (key, peer) in &target.state.peers {
        let prefixes: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        writeln!(
            text,
            "[Peer]\nPublicKey = {key}\nAllowedIPs = {}",
            prefixes.join(", ")
        )?;
        if let Some(endpoint) = peer.endpoint {
            writeln!(text, "Endpoint = {endpoint}")?;
        }
    }
    Ok(text)
}
