//! The steps from what the kernel looks like to what it should look like.
//!
//! The order keeps every moment at most as wide as before or after: tighten the firewall, move
//! prefixes from peers that go to their heirs (the same node with a new key loses no packet), take
//! peers, prefixes, rules and routes away, add link, addresses and settings, add peers, routes and
//! rules, loosen the firewall.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use weir_overlay::{NodePublicKey, overlay_prefixes};

use crate::{
    CT_GENERATION_MASK, DesiredPeer, DesiredState, LinkKind, ObservedLink, ObservedPeer,
    ObservedState, PeerUpdate, SESSION_SECONDS, Step, SysctlKey, WireguardBackend,
    firewall::{DesiredFirewall, InForce, ObservedFirewall, change},
};

/// How many peers one step updates, so that a failure names a few and not all.
const PEERS_A_STEP: usize = 256;

const fn kind_of(backend: WireguardBackend) -> LinkKind {
    match backend {
        WireguardBackend::Kernel => LinkKind::Wireguard,
        WireguardBackend::Userspace => LinkKind::Tun,
    }
}

/// The firewall's part: what to load first, and what to load last.
fn firewall_steps(
    desired: &DesiredState,
    observed: Option<&ObservedFirewall>,
    in_force: Option<&InForce>,
) -> (Vec<Step>, Vec<Step>) {
    let link = &desired.link.name;
    let loaded = observed.and_then(|table| table.fingerprint.as_deref());
    let wanted = &desired.firewall;
    if loaded == Some(wanted.fingerprint(link).as_str()) {
        return (Vec::new(), Vec::new());
    }
    // Who has the table need not go through all grants for its fingerprint.
    let in_force_now = observed.and_then(ObservedFirewall::in_force);
    let is_loaded = |old: &&InForce| match &old.table {
        Some(table) => in_force_now == Some(table.in_force()),
        None => in_force_now == Some(old.firewall.fingerprint(link).as_str()),
    };
    let known = in_force.filter(is_loaded);
    let load = |firewall: &DesiredFirewall| {
        let table = known.and_then(|old| old.table.as_deref());
        let change = change(firewall, link, observed, table);
        let forget = change.mark.map(|mark| Step::ForgetConnections {
            mark,
            mask: CT_GENERATION_MASK,
        });
        let begins_anew = change.full.is_some();
        let stages = change.before.into_iter().chain([change.last]);
        let loads = stages.enumerate().map(|(place, stage)| Step::LoadFirewall {
            ruleset: stage.document,
            table: Some(stage.table),
            difference: place > 0 || !begins_anew,
        });
        forget.into_iter().chain(loads).collect()
    };
    let Some(InForce { firewall: old, .. }) = known else {
        // Nothing is known of what is in force: what is wanted is at least not too wide.
        return (load(wanted), Vec::new());
    };
    let both = old.tightened_to(wanted);
    if both.acts_like(wanted) {
        return (load(wanted), Vec::new());
    }
    if both.acts_like(old) {
        return (Vec::new(), load(wanted));
    }
    // The second load goes over what the first one leaves, which nobody has observed yet: the
    // reconciler looks again before it takes the second step.
    (load(&both), Vec::new())
}

fn endpoint_update(
    desired: &DesiredPeer,
    observed: Option<&ObservedPeer>,
) -> Option<std::net::SocketAddr> {
    let wanted = desired.endpoint?;
    match observed {
        None => Some(wanted),
        Some(peer) => {
            // A live session has roamed for a reason.
            let live = peer.handshake_age.is_some_and(|age| age < SESSION_SECONDS);
            (peer.endpoint != Some(wanted) && !(live && peer.endpoint.is_some())).then_some(wanted)
        }
    }
}

struct PeerSteps {
    hand_over: Vec<Step>,
    remove: Vec<Step>,
    add: Vec<Step>,
}

/// Who has each prefix of the peers that go.
fn estate<'a>(
    gone: &BTreeSet<NodePublicKey>,
    observed: &'a BTreeMap<NodePublicKey, ObservedPeer>,
) -> BTreeMap<IpNet, &'a ObservedPeer> {
    gone.iter()
        .filter_map(|key| observed.get(key))
        .flat_map(|peer| peer.allowed_ips.iter().map(move |prefix| (*prefix, peer)))
        .collect()
}

/// Where the node behind a new key was last heard: with the old key, which had the same overlay
/// address.
fn last_heard(
    inherited: &BTreeSet<IpNet>,
    estate: &BTreeMap<IpNet, &ObservedPeer>,
) -> Option<std::net::SocketAddr> {
    let overlay = overlay_prefixes();
    inherited
        .iter()
        .filter(|prefix| overlay.iter().any(|net| net.contains(*prefix)))
        .find_map(|prefix| estate.get(prefix)?.endpoint)
}

fn peer_steps(
    desired: &DesiredState,
    observed: &BTreeMap<NodePublicKey, ObservedPeer>,
) -> PeerSteps {
    let gone: BTreeSet<_> = observed
        .keys()
        .filter(|key| !desired.peers.contains_key(key))
        .copied()
        .collect();
    let estate = estate(&gone, observed);
    let unseen = ObservedPeer::default();
    let (mut heirs, mut narrowed, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    // Those that some peer should have; only wanted when one has a prefix too many.
    let mut all: Option<BTreeSet<IpNet>> = None;
    for (key, peer) in &desired.peers {
        let found = observed.get(key);
        let seen = found.unwrap_or(&unseen);
        if !seen.allowed_ips.is_subset(&peer.allowed_ips) {
            let all = all.get_or_insert_with(|| {
                let peers = desired.peers.values();
                peers
                    .flat_map(|peer| peer.allowed_ips.iter().copied())
                    .collect()
            });
            // What another peer takes over is not lost: it moves.
            let lost: BTreeSet<IpNet> = seen.allowed_ips.difference(all).copied().collect();
            if !lost.is_empty() {
                narrowed.push(PeerUpdate {
                    remove_allowed_ips: lost,
                    ..PeerUpdate::of(*key)
                });
            }
        }
        let mut missing = &peer.allowed_ips - &seen.allowed_ips;
        let mut endpoint = endpoint_update(peer, found);
        let mut keepalive =
            (peer.keepalive != seen.keepalive).then(|| peer.keepalive.unwrap_or_default());
        let inherited: BTreeSet<IpNet> = if estate.is_empty() {
            BTreeSet::new()
        } else {
            missing
                .iter()
                .filter(|prefix| estate.contains_key(prefix))
                .copied()
                .collect()
        };
        let mut is_new = found.is_none();
        if !inherited.is_empty() {
            missing = &missing - &inherited;
            if is_new {
                endpoint = endpoint.or_else(|| last_heard(&inherited, &estate));
            }
            heirs.push(PeerUpdate {
                add_allowed_ips: inherited,
                endpoint: endpoint.take(),
                keepalive: keepalive.take(),
                ..PeerUpdate::of(*key)
            });
            is_new = false;
        }
        if is_new || !missing.is_empty() || endpoint.is_some() || keepalive.is_some() {
            updates.push(PeerUpdate {
                add_allowed_ips: missing,
                endpoint,
                keepalive,
                ..PeerUpdate::of(*key)
            });
        }
    }
    let chunks = |updates: &[PeerUpdate]| -> Vec<Step> {
        updates
            .chunks(PEERS_A_STEP)
            .map(|chunk| Step::UpdatePeers(chunk.to_vec()))
            .collect()
    };
    let mut remove = Vec::new();
    if !gone.is_empty() {
        remove.push(Step::RemovePeers(gone));
    }
    remove.extend(chunks(&narrowed));
    PeerSteps {
        hand_over: chunks(&heirs),
        remove,
        add: chunks(&updates),
    }
}

/// The link as far as it is the one we want; a link of another kind that is ours is made anew.
fn usable<'a>(desired: &DesiredState, observed: &'a ObservedState) -> Option<&'a ObservedLink> {
    observed
        .link
        .as_ref()
        .filter(|link| link.kind == kind_of(desired.link.backend))
}

/// The steps from `observed` to `desired`, in the order in which they are safe. `in_force` is the
/// firewall that this agent loaded last, from its ledger; it lets a change tighten before it
/// loosens.
///
/// A change that both tightens and loosens the firewall gives only the tightening load: the
/// reconciler observes again and the next plan loosens. Equal states give no steps.
#[must_use]
pub fn plan(
    desired: &DesiredState,
    observed: &ObservedState,
    in_force: Option<&InForce>,
) -> Vec<Step> {
    let (tighten, loosen) = firewall_steps(desired, observed.firewall.as_ref(), in_force);
    let link = usable(desired, observed);
    let device = link.and(observed.device.as_ref());
    let no_peers = BTreeMap::new();
    let peers = peer_steps(desired, device.map_or(&no_peers, |device| &device.peers));
    let mut routes = observed.routes.clone();
    if link.is_none() {
        routes.retain(|route| !route.goes_with_the_link());
    }

    let mut steps = tighten;
    steps.extend(peers.hand_over);
    steps.extend(peers.remove);
    steps.extend(
        observed
            .rules
            .difference(&desired.rules)
            .map(|rule| Step::RemoveRule(*rule)),
    );
    steps.extend(
        routes
            .difference(&desired.routes)
            .filter(|route| {
                // A route whose source address changed is replaced, not removed.
                !desired.routes.iter().any(|new| new.has_the_place_of(route))
            })
            .map(|route| Step::RemoveRoute(*route)),
    );

    for (key, value) in &desired.sysctls {
        if let Some(Some(seen)) = observed.sysctls.get(key)
            && seen != value
        {
            steps.push(Step::SetSysctl {
                key: key.clone(),
                value: value.clone(),
            });
        }
    }
    let mtu = desired.link.mtu.bytes(observed.path_mtu);
    match link {
        Some(link) => {
            if link.mtu != mtu {
                steps.push(Step::SetMtu(mtu));
            }
            let stale = link.addresses.difference(&desired.link.addresses);
            steps.extend(stale.map(|address| Step::RemoveAddress(*address)));
        }
        None => {
            if matches!(
                observed.link.as_ref().map(|link| &link.kind),
                Some(LinkKind::Wireguard | LinkKind::Tun)
            ) {
                steps.push(Step::DeleteLink);
            }
            steps.push(Step::CreateLink {
                backend: desired.link.backend,
                mtu,
            });
        }
    }
    let configured = device.is_some_and(|device| {
        device.public_key == Some(desired.device.private_key.public())
            && device.listen_port == desired.device.listen_port
            && device.firewall_mark == desired.device.firewall_mark
    });
    if !configured {
        steps.push(Step::ConfigureDevice(desired.device.clone()));
    }
    let no_addresses = BTreeSet::new();
    let addresses = link.map_or(&no_addresses, |link| &link.addresses);
    steps.extend(
        desired
            .link
            .addresses
            .difference(addresses)
            .map(|a| Step::AddAddress(*a)),
    );
    if !link.is_some_and(|link| link.up) {
        steps.push(Step::SetLinkUp);
    }
    steps.extend(peers.add);
    steps.extend(
        desired
            .routes
            .difference(&routes)
            .map(|route| Step::AddRoute(*route)),
    );
    steps.extend(
        desired
            .rules
            .difference(&observed.rules)
            .map(|rule| Step::AddRule(*rule)),
    );
    steps.extend(loosen);
    steps
}

/// The steps that leave the host as it was before the first one: everything of ours goes, and the
/// settings get their saved values back. The firewall goes after the link, so that nothing passes
/// unjudged in between.
#[must_use]
pub fn plan_teardown(observed: &ObservedState, saved: &BTreeMap<SysctlKey, String>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (key, value) in saved.iter().rev() {
        if let Some(Some(seen)) = observed.sysctls.get(key)
            && seen != value
        {
            steps.push(Step::SetSysctl {
                key: key.clone(),
                value: value.clone(),
            });
        }
    }
    steps.extend(observed.rules.iter().map(|rule| Step::RemoveRule(*rule)));
    steps.extend(
        observed
            .routes
            .iter()
            .map(|route| Step::RemoveRoute(*route)),
    );
    if matches!(
        observed.link.as_ref().map(|link| &link.kind),
        Some(LinkKind::Wireguard | LinkKind::Tun)
    ) {
        steps.push(Step::DeleteLink);
    }
    if observed.firewall.is_some() {
        steps.push(Step::DeleteFirewall);
    }
    steps
}
