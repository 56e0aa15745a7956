//! `coordinator nodes`.

use super::{
    Session,
    client::segment,
    keys::{node_life, seconds},
    output,
    routes::state,
};
use crate::api::{
    ApproveMachine, MachineName, Node, NodeLife, RenameNode, SetNodeAddress, SetNodeExpiry,
    TagNode, WaitingMachine,
};
use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use std::net::IpAddr;
use weir_overlay::Tag;

#[derive(Debug, Subcommand)]
#[command(after_help = "NODE is a name or an id.\n\nExamples:\n  \
    coordinator nodes list\n  \
    coordinator nodes show relay\n  \
    coordinator nodes pending\n  \
    coordinator nodes approve CODE --user alice\n  \
    coordinator nodes approve CODE --tag tag:relay\n  \
    coordinator nodes deny CODE\n  \
    coordinator nodes rename relay-2 relay-paris\n  \
    coordinator nodes tag 3 tag:relay\n  \
    coordinator nodes set-address relay 100.64.0.7\n  \
    coordinator nodes expire old-laptop\n  \
    coordinator nodes expire build --never\n  \
    coordinator nodes revoke stolen-laptop\n  \
    coordinator nodes delete old-laptop")]
pub(super) enum Nodes {
    /// List the nodes
    ///
    /// STATE is "expired" once the node's key is, "behind" while the newest network map is not in force on the node yet, "failing"
    /// when a part of it could not be applied: nodes show tells which.
    List,
    /// Show all that is known of a node
    Show {
        /// Name or id
        node: String,
    },
    /// List the machines that ask to be let in without an auth key
    ///
    /// What they say of themselves is not proven: compare the fingerprint with the one that `agent
    /// up` shows on the machine.
    Pending,
    /// Let a machine in that asks for it
    Approve(Approve),
    /// Keep a machine out that asks to be let in; it may ask again after a quarter of an hour
    Deny {
        /// The code that `nodes pending` lists, or the address that `agent up` printed
        code: String,
    },
    /// Delete a node: within a second no other node talks to it
    ///
    /// With another auth key its machine may join again; `revoke` shuts it out for ever.
    Delete {
        /// Name or id
        node: String,
    },
    /// Delete a node and never let its machine in again, whatever auth key it brings
    Revoke {
        /// Name or id
        node: String,
    },
    /// Let the key of a node expire: within a second no other node talks to it
    ///
    /// The node keeps its name, addresses and routes. Let in again (`agent up --force-reauth
    /// --auth-key=KEY`), it is back with all of them.
    Expire {
        /// Name or id
        node: String,
        /// Not at once, but after this time: a number and s, m, h or d
        #[arg(long = "in", value_name = "TIME", value_parser = seconds)]
        after: Option<u64>,
        /// Never
        #[arg(long, conflicts_with = "after")]
        never: bool,
    },
    /// Give a node the overlay address that you choose
    ///
    /// Its IPv4 and IPv6 address end in the same number; either names the pair. Peers follow at
    /// once.
    SetAddress {
        /// Name or id
        node: String,
        /// The address, such as 100.64.0.7
        address: IpAddr,
    },
    /// Give a node another name
    Rename {
        /// Name or id
        node: String,
        /// The new name: lower-case letters, digits and -
        name: String,
    },
    /// Give a node these tags and no others; it no longer belongs to a user then
    Tag {
        /// Name or id
        node: String,
        /// The tags, separated by spaces or commas
        #[arg(required = true, value_delimiter = ',', value_name = "TAG")]
        tags: Vec<Tag>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    coordinator nodes approve CODE --user alice\n  \
    coordinator nodes approve CODE --tag tag:relay\n  \
    coordinator nodes approve https://coordinator.example.com:8443/register/CODE --user alice")]
#[command(group = ArgGroup::new("for").required(true).args(["user", "tag"]))]
#[group(skip)]
pub(super) struct Approve {
    /// The code that `nodes pending` lists, or the address that `agent up` printed
    code: String,
    /// The user who will own the machine
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Tags that the machine will carry instead of belonging to a user, separated by commas
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    tag: Vec<Tag>,
    /// How long the key of the node is good: a number and s, m, h or d, or `never` [default: 180d
    /// for a user's, never for one with tags]
    #[arg(long, value_name = "TIME|never", value_parser = node_life)]
    node_expiry: Option<NodeLife>,
}

impl Nodes {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let client = &session.client;
        match self {
            Self::List => list(session).await,
            Self::Show { node } => {
                let node: Node = client.get(&path(&node)).await?;
                done(session, &node, &describe(&node))
            }
            Self::Pending => pending(session).await,
            Self::Approve(approve) => {
                let path = format!("/approvals/{}/approve", segment(code(&approve.code)));
                let request = ApproveMachine {
                    user: approve.user,
                    tags: approve.tag.into_iter().collect(),
                    node_life: approve.node_expiry.unwrap_or_default(),
                };
                let node: Node = client.post(&path, &request).await?;
                let text = format!(
                    "let in as node {} ({}) of {}: its agent goes up by itself",
                    node.id,
                    node.name,
                    owner(&node)
                );
                done(session, &node, &text)
            }
            Self::Deny { code: given } => {
                let path = format!("/approvals/{}/deny", segment(code(&given)));
                let denied: WaitingMachine = client.post(&path, &serde_json::json!({})).await?;
                if session.json {
                    return output::json(&denied);
                }
                output::line(&format!("denied {}", MachineName(&denied.hostname)))
            }
            Self::Delete { node } => {
                let node: Node = client.delete(&path(&node)).await?;
                let text = format!("deleted node {} ({})", node.id, node.name);
                done(session, &node, &text)
            }
            Self::Revoke { node } => {
                let path = format!("{}/revoke", path(&node));
                let node: Node = client.post(&path, &serde_json::json!({})).await?;
                let text = format!(
                    "revoked node {} ({}): its machine is never let in again",
                    node.id, node.name
                );
                done(session, &node, &text)
            }
            Self::Expire { node, after, never } => {
                let path = format!("{}/expiry", path(&node));
                let in_seconds = (!never).then_some(after.unwrap_or(0));
                let node: Node = client.put(&path, &SetNodeExpiry { in_seconds }).await?;
                let text = format!("the key of {} {}", node.name, expiry(&node));
                done(session, &node, &text)
            }
            Self::SetAddress { node, address } => {
                let path = format!("{}/address", path(&node));
                let node: Node = client.put(&path, &SetNodeAddress { address }).await?;
                let text = format!("{} now has {}", node.name, output::list(&node.addresses));
                done(session, &node, &text)
            }
            Self::Rename { node, name } => {
                let path = format!("{}/name", path(&node));
                let renamed: Node = client.put(&path, &RenameNode { name }).await?;
                let text = format!("node {} is now called {}", renamed.id, renamed.name);
                done(session, &renamed, &text)
            }
            Self::Tag { node, tags } => {
                let path = format!("{}/tags", path(&node));
                let tags = tags.into_iter().collect();
                let tagged: Node = client.put(&path, &TagNode { tags }).await?;
                let text = format!("{} now carries {}", tagged.name, output::list(&tagged.tags));
                done(session, &tagged, &text)
            }
        }
    }
}

fn path(node: &str) -> String {
    format!("/nodes/{}", segment(node))
}

/// The code of an address that ends in it.
fn code(given: &str) -> &str {
    let given = given.trim().trim_end_matches('/');
    given.rsplit('/').next().unwrap_or(given)
}

async fn pending(session: &Session) -> anyhow::Result<()> {
    let machines: Vec<WaitingMachine> = session.client.list("/approvals").await?;
    if session.json {
        return output::json(&machines);
    }
    if machines.is_empty() {
        return output::line("no machine asks to be let in");
    }
    let blocks: Vec<_> = machines
        .iter()
        .map(|machine| {
            let waits = Timestamp::now().duration_since(machine.asked).as_secs();
            [
                format!("code         {}", machine.code),
                format!("fingerprint  {}", machine.fingerprint),
                format!(
                    "host         {}, {}, agent {}",
                    MachineName(&machine.hostname),
                    MachineName(&machine.os),
                    MachineName(&machine.version)
                ),
                format!("asks from    {}", machine.address),
                format!("routes       {}", output::list(&machine.routes)),
                format!("tags         {}", output::list(&machine.tags)),
                format!(
                    "waits        for {} s, until {}",
                    waits.max(0),
                    output::time(machine.expires)
                ),
            ]
            .join("\n")
        })
        .collect();
    output::line(&blocks.join("\n\n"))
}

fn done(session: &Session, node: &Node, text: &str) -> anyhow::Result<()> {
    if session.json {
        return output::json(node);
    }
    output::line(text)
}

fn owner(node: &Node) -> String {
    node.user
        .clone()
        .unwrap_or_else(|| output::list(&node.tags))
}

fn expiry(node: &Node) -> String {
    match node.key_expires {
        None => "never expires".to_owned(),
        Some(end) if node.key_expired => format!("expired {}", output::time(end)),
        Some(end) => format!("expires {}", output::time(end)),
    }
}

fn seen(node: &Node) -> String {
    if node.key_expired {
        "expired".to_owned()
    } else if node.online && !node.failures.is_empty() {
        "connected, failing".to_owned()
    } else if node.lags {
        "connected, behind".to_owned()
    } else if node.online {
        "connected".to_owned()
    } else {
        format!("last seen {}", output::time(node.last_seen))
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let nodes: Vec<Node> = session.client.list("/nodes").await?;
    if session.json {
        return output::json(&nodes);
    }
    if nodes.is_empty() {
        return output::line(
            "no nodes yet: coordinator keys create --user NAME makes a key to join",
        );
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            [
                node.id.to_string(),
                node.name.to_string(),
                owner(node),
                output::list(&node.addresses),
                output::list(node.routes.iter().map(|route| route.prefix)),
                node.key_expires
                    .map_or_else(|| "never".to_owned(), output::time),
                seen(node),
            ]
        })
        .collect();
    output::table(
        [
            "ID",
            "NAME",
            "OWNER",
            "ADDRESSES",
            "ROUTES",
            "EXPIRES",
            "STATE",
        ],
        &rows,
    )
}

fn describe(node: &Node) -> String {
    let generation = |number: Option<_>| number.map_or("-".to_owned(), |n| format!("{n}"));
    let mut lines = vec![
        format!("name        {} (node {})", node.name, node.id),
        format!("owner       {}", owner(node)),
        format!("state       {}", seen(node)),
        format!("addresses   {}", output::list(&node.addresses)),
        format!("endpoint    {}", output::list(node.endpoint)),
        format!(
            "host        {}, {}, agent {}",
            node.hostname, node.os, node.version
        ),
        format!("enrolled    {}", output::time(node.enrolled)),
        format!("key         {}, {}", node.key, expiry(node)),
        format!(
            "map         generation {}, applied {}",
            generation(node.generation),
            generation(node.applied_generation)
        ),
    ];
    if node.ephemeral {
        lines.push("ephemeral   yes: forgotten half an hour after it leaves".to_owned());
    }
    for route in &node.routes {
        lines.push(format!(
            "route       {} {}",
            route.prefix,
            state(route.state, route.approved_by)
        ));
    }
    for failure in &node.failures {
        lines.push(format!("failed      {}: {}", failure.item, failure.reason));
    }
    lines.join("\n")
}
