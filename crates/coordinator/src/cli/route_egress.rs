//! `coordinator routes egress`.

use super::{Session, client::segment, output};
use crate::api::{ChooseEgress, Route, RouteEgress};
use anyhow::ensure;
use clap::Args;
use std::net::IpAddr;
use weir_overlay::parse_prefix_list;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    coordinator routes egress relay 8.8.8.8 --address 203.0.113.8\n  \
    coordinator routes egress relay 8.8.8.8 --address 203.0.113.9 --for group:finance\n  \
    coordinator routes egress relay 8.8.8.8 --clear --for group:finance\n  \
    coordinator routes egress relay 8.8.8.8 --clear")]
pub(super) struct Egress {
    /// The relay: name or id
    node: String,
    /// Prefixes or bare addresses that it advertises, separated by spaces or commas
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
    /// What new connections leave with: an address of the relay's host
    #[arg(
        long,
        value_name = "IP",
        required_unless_present = "clear",
        conflicts_with = "clear"
    )]
    address: Option<IpAddr>,
    /// Take back what was chosen: all of it, or with --for for these alone
    #[arg(long)]
    clear: bool,
    /// Whose connections: group:NAME, a user, tag:NAME, autogroup:member or autogroup:tagged; all
    /// that nothing else is chosen for when it is left out. Where several stand for a node, users
    /// decide before groups, groups before tags, tags before autogroups
    #[arg(long = "for", value_name = "SELECTOR", value_delimiter = ',')]
    of: Vec<String>,
}

/// The addresses of a route, in the order in which they count.
pub(super) fn addresses(egress: &[RouteEgress]) -> String {
    if egress.is_empty() {
        return "-".to_owned();
    }
    let each = egress.iter().map(|choice| {
        let missing = if choice.on_host {
            ""
        } else {
            " (NOT ON THE HOST)"
        };
        match &choice.of {
            Some(of) => format!("{of} {}{missing}", choice.address),
            None => format!("{}{missing}", choice.address),
        }
    });
    each.collect::<Vec<_>>().join(", ")
}

impl Egress {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let prefixes = parse_prefix_list(&self.prefixes.join(" "))?;
        ensure!(
            !prefixes.is_empty(),
            "name at least one prefix, such as 8.8.8.8/32"
        );
        let request = ChooseEgress {
            prefixes: prefixes.into_iter().collect(),
            address: self.address,
            of: self.of.into_iter().collect(),
        };
        let path = format!("/nodes/{}/routes/egress", segment(&self.node));
        let routes: Vec<Route> = session.client.post(&path, &request).await?;
        if session.json {
            return output::json(&routes);
        }
        for prefix in &request.prefixes {
            let Some(route) = routes.iter().find(|route| route.prefix == *prefix) else {
                output::line(&format!("{prefix} of {}: nothing is chosen", self.node))?;
                continue;
            };
            let leaves = if route.egress.is_empty() {
                "new connections leave as the relay's own settings say".to_owned()
            } else {
                format!("new connections leave with {}", addresses(&route.egress))
            };
            output::line(&format!("{} of {}: {leaves}", route.prefix, route.name))?;
        }
        Ok(())
    }
}
