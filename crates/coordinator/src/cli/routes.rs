//! `coordinator routes`.

use super::{Session, client::segment, output, route_egress};
use crate::api::{Approver, DecideRoutes, Route};
use anyhow::ensure;
use clap::{Args, Subcommand};
use weir_overlay::parse_prefix_list;
use weir_protocol::RouteState;

#[derive(Debug, Subcommand)]
#[command(after_help = "NODE is a name or an id.\n\nExamples:\n  \
    coordinator routes list\n  \
    coordinator routes approve relay 8.8.8.8,8.8.4.4\n  \
    coordinator routes approve office-gw 10.20.0.0/24\n  \
    coordinator routes reject relay 0.0.0.0/0 ::/0\n  \
    coordinator routes reset relay 8.8.4.4\n  \
    coordinator routes egress relay 8.8.8.8 --address 203.0.113.8")]
pub(super) enum Routes {
    /// List the advertised routes and what has become of each
    List,
    /// Approve routes that a node advertises: traffic may take them at once
    Approve(Decide),
    /// Reject routes that a node advertises: traffic stops taking them at once
    Reject(Decide),
    /// Take back what was approved or rejected, as if nobody had decided
    ///
    /// The policy's autoApprovers decide about these routes again; a route that they do not approve
    /// awaits approval. Also for routes that the node does not advertise any more.
    Reset(Decide),
    /// Choose the address that new connections to a route leave with, for all or for some
    ///
    /// It goes before what the relay's own --egress-ip says. Connections that are established keep
    /// their address.
    Egress(route_egress::Egress),
}

#[derive(Debug, Args)]
pub(super) struct Decide {
    /// The node that advertises them: name or id
    node: String,
    /// Prefixes or bare addresses, separated by spaces or commas
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
}

/// A state in words. That an admin approved a route goes without saying.
pub(super) const fn state(state: RouteState, approved_by: Option<Approver>) -> &'static str {
    match (state, approved_by) {
        (RouteState::AwaitingApproval, _) => "awaiting approval",
        (RouteState::Serving, Some(Approver::Policy)) => "serving, approved by policy",
        (RouteState::Serving, Some(Approver::Admin) | None) => "serving",
        (RouteState::Standby, Some(Approver::Policy)) => "standby, approved by policy",
        (RouteState::Standby, Some(Approver::Admin) | None) => "standby",
        (RouteState::Rejected, _) => "rejected",
    }
}

impl Routes {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List => list(session).await,
            Self::Egress(egress) => egress.run(session).await,
            Self::Approve(decide) => decide.run(session, "approve", "approved").await,
            Self::Reject(decide) => decide.run(session, "reject", "rejected").await,
            Self::Reset(decide) => {
                decide
                    .run(session, "reset", "nothing is decided about")
                    .await
            }
        }
    }
}

impl Decide {
    async fn run(self, session: &Session, verb: &str, done: &str) -> anyhow::Result<()> {
        let prefixes = parse_prefix_list(&self.prefixes.join(" "))?;
        ensure!(
            !prefixes.is_empty(),
            "name at least one prefix, such as 8.8.8.8/32"
        );
        let path = format!("/nodes/{}/routes/{verb}", segment(&self.node));
        let request = DecideRoutes {
            prefixes: prefixes.into_iter().collect(),
        };
        let routes: Vec<Route> = session.client.post(&path, &request).await?;
        if session.json {
            return output::json(&routes);
        }
        for prefix in &request.prefixes {
            let Some(route) = routes.iter().find(|route| route.prefix == *prefix) else {
                let node = &self.node;
                let gone = "it is not advertised";
                output::line(&format!("{done} {prefix} of {node}: {gone}"))?;
                continue;
            };
            let by_policy = route.approved_by == Some(Approver::Policy);
            let now = match route.state {
                RouteState::Serving if by_policy => {
                    "the policy approves it: traffic that it allows takes it now"
                }
                RouteState::Serving => "traffic that the policy allows takes it now",
                RouteState::Standby => "another relay is primary for it; this one stands by",
                RouteState::Rejected => "no traffic takes it",
                RouteState::AwaitingApproval => "it awaits approval",
            };
            output::line(&format!(
                "{done} {} of {} (node {}): {now}",
                route.prefix, route.name, route.node
            ))?;
        }
        Ok(())
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let routes: Vec<Route> = session.client.list("/routes").await?;
    if session.json {
        return output::json(&routes);
    }
    if routes.is_empty() {
        return output::line(
            "no node advertises routes: on a relay, agent up --advertise-routes=PREFIX",
        );
    }
    let rows: Vec<_> = routes
        .iter()
        .map(|route| {
            [
                route.node.to_string(),
                route.name.to_string(),
                route.prefix.to_string(),
                state(route.state, route.approved_by).to_owned(),
                if route.online { "yes" } else { "no" }.to_owned(),
                route_egress::addresses(&route.egress),
            ]
        })
        .collect();
    output::table(
        [
            "NODE",
            "NAME",
            "PREFIX",
            "STATE",
            "CONNECTED",
            "LEAVES WITH",
        ],
        &rows,
    )?;
    let waiting = routes
        .iter()
        .find(|route| route.state == RouteState::AwaitingApproval);
    match waiting {
        Some(route) => output::note(&format!(
            "\napprove with: coordinator routes approve {} {}",
            route.name, route.prefix
        )),
        None => Ok(()),
    }
}
