//! `explain`: gathers what is to be known; the pure room decides what it means.

use anyhow::{Context, Result, bail};
use std::{net::IpAddr, time::Duration};
use tokio::net::lookup_host;
use weir_diagnosis::{
    Target,
    explain::{
        Facts, Sender, addresses_of, explain_from_here, explain_from_node, find_peer, unresolved,
    },
    judge_trace, read_trace,
};
use weir_kernel::{LookRequest, TraceRequest};
use weir_kernel_plan::desired_state;
use weir_protocol::NetworkMap;

use super::{agent::Agent, host::Host};
use crate::control::{ExplainReport, ExplainRequest, NodeState};

/// How long `explain` waits for the reconciler's fresh look.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// How long the host's resolver may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

impl<H: Host> Agent<H> {
    /// Why a connection passes, or where it stops. Changes nothing.
    ///
    /// # Errors
    /// A node that is down, and what cannot be looked at.
    pub(crate) async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport> {
        let ExplainRequest {
            target,
            from,
            trace,
        } = request;
        let (map, settings) = {
            let state = self.state();
            let settings = state
                .saved
                .applied
                .as_ref()
                .filter(|_| state.saved.state == NodeState::Up)
                .map(|applied| applied.node_settings());
            let settings = settings
                .context("the node is down: `agent up` goes up, `agent status` tells more")?;
            let map = state.ledger.map().cloned();
            let map = map.context(
                "the node has no network map so far: `agent status` shows whether its coordinator \
                 is reached",
            )?;
            (map, settings)
        };
        let kernel = self.reconciler.look(LOOK_DEADLINE).await;
        let connection = self.connection.borrow().clone();
        let sender = from
            .as_deref()
            .filter(|name| !is_self(&map, name))
            .map(|name| find_peer(&map, name).map_or(Sender::Unknown(name), Sender::Known));
        let mut report = ExplainReport {
            from: match sender {
                None => map.node.name.to_string(),
                Some(Sender::Known(peer)) => peer.name.to_string(),
                Some(Sender::Unknown(name)) => name.to_owned(),
            },
            address: None,
            checks: weir_diagnosis::Checks::default(),
            trace: Vec::new(),
            target,
        };
        let (address, how) = match resolve(&map, &report.target).await {
            Ok(found) => found,
            Err(reason) => {
                report.checks = unresolved(&report.target, &reason.to_string());
                return Ok(report);
            }
        };
        report.address = Some(address);
        let peer = match sender {
            Some(Sender::Known(peer)) => Some(peer),
            Some(Sender::Unknown(_)) | None => None,
        };
        let source = peer.and_then(|peer| {
            let mut addresses = peer.addresses.iter().copied();
            addresses.find(|source| source.is_ipv4() == address.is_ipv4())
        });
        let host = self
            .host
            .look(&LookRequest {
                interface: settings.interface.clone(),
                destination: address,
                source,
            })
            .await
            .context("cannot look at this host")?;
        let desired = desired_state(&map, &settings, self.keys().node);
        let disconnected = connection
            .problem
            .as_deref()
            .or((!connection.open).then_some("connecting"));
        let facts = Facts {
            map: &map,
            desired: &desired,
            observed: kernel.observed.as_deref(),
            in_force: kernel.applied,
            failures: &kernel.failures,
            disconnected,
        };
        report.checks = match sender {
            Some(sender) => explain_from_node(&facts, &host, &report.target, address, sender, &how),
            None => explain_from_here(&facts, &host, &report.target, address, &how),
        };
        if let Some(seconds) = trace {
            let source = source.context(
                "--trace follows a packet that another node sends to or through this one: name it \
                 with --from",
            )?;
            let told = self
                .host
                .trace(&TraceRequest {
                    interface: settings.interface,
                    source,
                    destination: address,
                    protocol: report.target.protocol_towards(address),
                    port: report.target.port,
                    seconds,
                })
                .await?;
            report.trace = read_trace(&told);
            report.checks.0.push(judge_trace(&report.trace, seconds));
        }
        Ok(report)
    }
}

fn is_self(map: &NetworkMap, name: &str) -> bool {
    let node = &map.node;
    let address: Option<IpAddr> = name.parse().ok();
    node.name.as_str() == name || address.is_some_and(|address| node.addresses.contains(&address))
}

/// The destination's address, and how it is known.
async fn resolve(map: &NetworkMap, target: &Target) -> Result<(IpAddr, String)> {
    let host = target.host.as_str();
    if let Ok(address) = host.parse() {
        return Ok((address, format!("{address} is an address")));
    }
    if let Some(addresses) = addresses_of(map, host) {
        // The first one is the IPv4 address, where there is one.
        let first = addresses.iter().next().copied();
        let address = first.with_context(|| format!("the node {host} has no address"))?;
        return Ok((address, format!("{host} is the node with {address}")));
    }
    let found = tokio::time::timeout(RESOLVE_DEADLINE, lookup_host((host, 0))).await;
    let Ok(found) = found else {
        bail!(
            "its resolver did not answer within {} s",
            RESOLVE_DEADLINE.as_secs()
        );
    };
    let address = found?
        .next()
        .map(|address| address.ip())
        .context("its resolver gives no address")?;
    Ok((
        address,
        format!("{host} is {address}, says this host's resolver"),
    ))
}
