//! `coordinator nodes`.

use super::{Session, client::segment, output, routes::state};
use crate::api::{Node, RenameNode, TagNode};
use clap::Subcommand;
use weir_overlay::Tag;

#[derive(Debug, Subcommand)]
#[command(after_help = "NODE is a name or an id.\n\nExamples:\n  \
    coordinator nodes list\n  \
    coordinator nodes show relay\n  \
    coordinator nodes rename relay-2 relay-paris\n  \
    coordinator nodes tag 3 tag:relay\n  \
    coordinator nodes delete old-laptop")]
pub(super) enum Nodes {
    /// List the nodes
    ///
    /// STATE is "behind" while the newest network map is not in force on the node yet, "failing"
    /// when a part of it could not be applied: nodes show tells which.
    List,
    /// Show all that is known of a node
    Show {
        /// Name or id
        node: String,
    },
    /// Delete a node: within a second no other node talks to it
    Delete {
        /// Name or id
        node: String,
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

impl Nodes {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let client = &session.client;
        match self {
            Self::List => list(session).await,
            Self::Show { node } => {
                let node: Node = client.get(&path(&node)).await?;
                done(session, &node, &describe(&node))
            }
            Self::Delete { node } => {
                let node: Node = client.delete(&path(&node)).await?;
                let text = format!("deleted node {} ({})", node.id, node.name);
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

fn seen(node: &Node) -> String {
    if node.online && !node.failures.is_empty() {
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
                seen(node),
            ]
        })
        .collect();
    output::table(
        ["ID", "NAME", "OWNER", "ADDRESSES", "ROUTES", "STATE"],
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
