//! Enrolled machines.

use super::dialect::{execute, fetch_all, fetch_one, fetch_optional};
use super::{NewNode, NodeRow, StoreError, Tx, parse, signed, unsigned};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::FromRow;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{Generation, MachinePublicKey, NodeId, NodeName, NodePublicKey, Tag, UserId};
use weir_protocol::{HostInfo, ItemFailure};

#[derive(FromRow)]
struct Columns {
    id: i64,
    machine_key: String,
    node_key: String,
    name: String,
    named_by_admin: bool,
    user_id: Option<i64>,
    user_name: Option<String>,
    ephemeral: bool,
    ipv4: String,
    ipv6: String,
    hostname: String,
    version: String,
    os: String,
    listen_port: i64,
    host_addresses: String,
    fixed_endpoint: Option<String>,
    observed_address: Option<String>,
    created_at: i64,
    last_seen_at: i64,
    reported_generation: Option<i64>,
    reported_failures: String,
    key_expires_at: Option<i64>,
}

impl Columns {
    fn row(self, tags: BTreeSet<Tag>) -> Result<NodeRow, StoreError> {
        let listen_port = u16::try_from(self.listen_port).map_err(|_| StoreError::Corrupt {
            expected: "port",
            value: self.listen_port.to_string(),
        })?;
        Ok(NodeRow {
            id: NodeId(unsigned("node id", self.id)?),
            machine_key: parse("machine key", &self.machine_key)?,
            node_key: parse("node key", &self.node_key)?,
            key_expires_at: self.key_expires_at,
            name: parse("node name", &self.name)?,
            named_by_admin: self.named_by_admin,
            user: self
                .user_id
                .map(|id| unsigned("user id", id).map(UserId))
                .transpose()?,
            user_name: self.user_name,
            tags,
            ephemeral: self.ephemeral,
            ipv4: parse("IPv4 address", &self.ipv4)?,
            ipv6: parse("IPv6 address", &self.ipv6)?,
            host: HostInfo {
                hostname: self.hostname,
                version: self.version,
                os: self.os,
                listen_port,
                addresses: from_json("list of addresses", &self.host_addresses)?,
                endpoint: self
                    .fixed_endpoint
                    .map(|text| parse("endpoint", &text))
                    .transpose()?,
                advertised_routes: BTreeSet::new(),
            },
            observed_address: self
                .observed_address
                .map(|text| parse("address", &text))
                .transpose()?,
            created_at: self.created_at,
            last_seen_at: self.last_seen_at,
            reported_generation: self
                .reported_generation
                .map(|number| unsigned("generation", number).map(Generation))
                .transpose()?,
            reported_failures: from_json("list of failures", &self.reported_failures)?,
        })
    }
}

fn from_json<T: DeserializeOwned>(expected: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt {
        expected,
        value: text.to_owned(),
    })
}

fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Json(what, source))
}

impl Tx {
    /// The map that each node last said was in force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reported_generations(
        &mut self,
    ) -> Result<Vec<(NodeId, Option<Generation>)>, StoreError> {
        let rows: Vec<(i64, Option<i64>)> = fetch_all!(
            self,
            "list what nodes reported",
            "SELECT id, reported_generation FROM nodes"
        )?;
        let read = |(id, reported): (i64, Option<i64>)| {
            let reported = reported.map(|number| unsigned("generation", number));
            let reported = reported.transpose()?.map(Generation);
            Ok((NodeId(unsigned("node id", id)?), reported))
        };
        rows.into_iter().map(read).collect()
    }

    /// All nodes, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn nodes(&mut self) -> Result<Vec<NodeRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the nodes",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id ORDER BY nodes.id"
        )?;
        self.all_with_tags(rows).await
    }

    /// What no other node may have.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn names_and_addresses(
        &mut self,
    ) -> Result<Vec<(NodeName, Ipv4Addr, Ipv6Addr)>, StoreError> {
        let rows: Vec<(String, String, String)> = fetch_all!(
            self,
            "list the names and addresses of the nodes",
            "SELECT name, ipv4, ipv6 FROM nodes"
        )?;
        rows.iter()
            .map(|(name, ipv4, ipv6)| {
                Ok((
                    parse("node name", name)?,
                    parse("IPv4 address", ipv4)?,
                    parse("IPv6 address", ipv6)?,
                ))
            })
            .collect()
    }

    /// The nodes that are forgotten once they stay away, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ephemeral_nodes(&mut self) -> Result<Vec<NodeRow>, StoreError> {
        let rows: Vec<Columns> = fetch_all!(
            self,
            "list the ephemeral nodes",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id WHERE nodes.ephemeral ORDER BY nodes.id"
        )?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        self.all_with_tags(rows).await
    }

    async fn all_with_tags(&mut self, rows: Vec<Columns>) -> Result<Vec<NodeRow>, StoreError> {
        let tags: Vec<(i64, String)> = fetch_all!(
            self,
            "list the tags of nodes",
            "SELECT node_id, tag FROM node_tags"
        )?;
        let mut by_node: BTreeMap<i64, BTreeSet<Tag>> = BTreeMap::new();
        for (node, tag) in tags {
            by_node.entry(node).or_default().insert(parse("tag", &tag)?);
        }
        rows.into_iter()
            .map(|columns| {
                let tags = by_node.remove(&columns.id).unwrap_or_default();
                columns.row(tags)
            })
            .collect()
    }

    async fn with_tags(&mut self, columns: Option<Columns>) -> Result<Option<NodeRow>, StoreError> {
        let Some(columns) = columns else {
            return Ok(None);
        };
        let tags: Vec<(String,)> = fetch_all!(
            self,
            "look the tags of a node up",
            "SELECT tag FROM node_tags WHERE node_id = $1",
            columns.id
        )?;
        let tags = tags
            .iter()
            .map(|(tag,)| parse("tag", tag))
            .collect::<Result<_, _>>()?;
        columns.row(tags).map(Some)
    }

    /// The node that signs with this key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_by_machine(
        &mut self,
        key: &MachinePublicKey,
    ) -> Result<Option<NodeRow>, StoreError> {
        let columns = fetch_optional!(
            self,
            "look a node up by its machine key",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id WHERE nodes.machine_key = $1",
            key.to_string()
        )?;
        self.with_tags(columns).await
    }

    /// The node of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node(&mut self, id: NodeId) -> Result<Option<NodeRow>, StoreError> {
        let columns = fetch_optional!(
            self,
            "look a node up",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id WHERE nodes.id = $1",
            signed(id.0)
        )?;
        self.with_tags(columns).await
    }

    /// The node whose WireGuard has this key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_by_node_key(
        &mut self,
        key: &NodePublicKey,
    ) -> Result<Option<NodeRow>, StoreError> {
        let columns = fetch_optional!(
            self,
            "look a node up by its node key",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id WHERE nodes.node_key = $1",
            key.to_string()
        )?;
        self.with_tags(columns).await
    }

    /// The node of this name or, when no node has such a name, of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_by_name_or_id(&mut self, text: &str) -> Result<Option<NodeRow>, StoreError> {
        let columns = fetch_optional!(
            self,
            "look a node up",
            "SELECT nodes.*, users.name AS user_name FROM nodes \
             LEFT JOIN users ON users.id = nodes.user_id \
             WHERE nodes.name = $1 OR nodes.id = $2 ORDER BY nodes.name = $1 DESC LIMIT 1",
            text,
            text.parse::<i64>().ok()
        )?;
        self.with_tags(columns).await
    }

    /// Enrols a machine. Keys, name and addresses must be free. Its routes are stored apart.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_node(&mut self, node: &NewNode) -> Result<NodeId, StoreError> {
        let (id,): (i64,) = fetch_one!(
            self,
            "store a node",
            "INSERT INTO nodes (machine_key, node_key, name, user_id, ephemeral, ipv4, ipv6, \
             hostname, version, os, listen_port, host_addresses, fixed_endpoint, \
             observed_address, created_at, last_seen_at, key_expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16) \
             RETURNING id",
            node.machine_key.to_string(),
            node.node_key.to_string(),
            node.name.as_str(),
            node.user.map(|id| signed(id.0)),
            node.ephemeral,
            node.ipv4.to_string(),
            node.ipv6.to_string(),
            &node.host.hostname,
            &node.host.version,
            &node.host.os,
            i64::from(node.host.listen_port),
            to_json("the addresses of a host", &node.host.addresses)?,
            node.host.endpoint.map(|endpoint| endpoint.to_string()),
            node.observed_address.to_string(),
            node.created_at,
            node.key_expires_at
        )?;
        let id = NodeId(unsigned("node id", id)?);
        self.changes.nodes.insert(id);
        self.set_node_tags(id, &node.tags).await?;
        Ok(id)
    }

    /// Replaces the tags of a node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_tags(
        &mut self,
        id: NodeId,
        tags: &BTreeSet<Tag>,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        let doing = "store the tags of a node";
        execute!(
            self,
            doing,
            "DELETE FROM node_tags WHERE node_id = $1",
            signed(id.0)
        )?;
        for tag in tags {
            execute!(
                self,
                doing,
                "INSERT INTO node_tags (node_id, tag) VALUES ($1, $2)",
                signed(id.0),
                tag.as_str()
            )?;
        }
        Ok(())
    }

    /// Replaces the owner of a node; none for a node that is tagged.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_user(
        &mut self,
        id: NodeId,
        user: Option<UserId>,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        execute!(
            self,
            "store the owner of a node",
            "UPDATE nodes SET user_id = $1 WHERE id = $2",
            user.map(|user| signed(user.0)),
            signed(id.0)
        )?;
        Ok(())
    }

    /// Stores what a node tells of its host, its name and where its requests come from.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn update_node_host(
        &mut self,
        id: NodeId,
        name: &NodeName,
        host: &HostInfo,
        observed_address: IpAddr,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        execute!(
            self,
            "store what a node tells of its host",
            "UPDATE nodes SET name = $1, hostname = $2, version = $3, os = $4, listen_port = $5, \
             host_addresses = $6, fixed_endpoint = $7, observed_address = $8 WHERE id = $9",
            name.as_str(),
            &host.hostname,
            &host.version,
            &host.os,
            i64::from(host.listen_port),
            to_json("the addresses of a host", &host.addresses)?,
            host.endpoint.map(|endpoint| endpoint.to_string()),
            observed_address.to_string(),
            signed(id.0)
        )?;
        Ok(())
    }

    /// Replaces the WireGuard key of a node. No other node may have it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_key(
        &mut self,
        id: NodeId,
        key: &NodePublicKey,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        execute!(
            self,
            "store the key of a node",
            "UPDATE nodes SET node_key = $1 WHERE id = $2",
            key.to_string(),
            signed(id.0)
        )?;
        Ok(())
    }

    /// Stores until when the key of a node is good; none for ever.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_key_expiry(
        &mut self,
        id: NodeId,
        expires_at: Option<i64>,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        execute!(
            self,
            "store until when the key of a node is good",
            "UPDATE nodes SET key_expires_at = $1 WHERE id = $2",
            expires_at,
            signed(id.0)
        )?;
        Ok(())
    }

    /// Gives a node the addresses an admin chose. No other node may have either.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_addresses(
        &mut self,
        id: NodeId,
        ipv4: Ipv4Addr,
        ipv6: Ipv6Addr,
    ) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        self.frees_addresses();
        execute!(
            self,
            "store the addresses of a node",
            "UPDATE nodes SET ipv4 = $1, ipv6 = $2 WHERE id = $3",
            ipv4.to_string(),
            ipv6.to_string(),
            signed(id.0)
        )?;
        Ok(())
    }

    /// Never lets a machine in again. `name` is what it was called.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_machine(
        &mut self,
        key: &MachinePublicKey,
        name: &NodeName,
        now: i64,
    ) -> Result<(), StoreError> {
        execute!(
            self,
            "revoke the key of a machine",
            "INSERT INTO revoked_machines (machine_key, name, revoked_at) VALUES ($1, $2, $3) \
             ON CONFLICT DO NOTHING",
            key.to_string(),
            name.as_str(),
            now
        )?;
        Ok(())
    }

    /// Whether a machine is never to be let in again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_revoked(&mut self, key: &MachinePublicKey) -> Result<bool, StoreError> {
        let (count,): (i64,) = fetch_one!(
            self,
            "look a revoked machine up",
            "SELECT count(*) FROM revoked_machines WHERE machine_key = $1",
            key.to_string()
        )?;
        Ok(count > 0)
    }

    /// Gives a node the name an admin chose. No other node may have it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rename_node(&mut self, id: NodeId, name: &NodeName) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        execute!(
            self,
            "rename a node",
            "UPDATE nodes SET name = $1, named_by_admin = TRUE WHERE id = $2",
            name.as_str(),
            signed(id.0)
        )?;
        Ok(())
    }

    /// Remembers that a node was heard of, and from where. Says whether that is elsewhere than
    /// before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_seen(
        &mut self,
        id: NodeId,
        observed_address: Option<IpAddr>,
        now: i64,
    ) -> Result<bool, StoreError> {
        let doing = "store when a node was last seen";
        execute!(
            self,
            doing,
            "UPDATE nodes SET last_seen_at = $1 WHERE id = $2 AND last_seen_at < $1",
            now,
            signed(id.0)
        )?;
        let Some(address) = observed_address else {
            return Ok(false);
        };
        let moved = execute!(
            self,
            doing,
            "UPDATE nodes SET observed_address = $1 \
             WHERE id = $2 AND observed_address IS DISTINCT FROM $1",
            address.to_string(),
            signed(id.0)
        )?;
        if moved > 0 {
            self.changes.nodes.insert(id);
        }
        Ok(moved > 0)
    }

    /// Remembers what a node has applied and what it could not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_node_report(
        &mut self,
        id: NodeId,
        generation: Generation,
        failures: &[ItemFailure],
    ) -> Result<(), StoreError> {
        execute!(
            self,
            "store the report of a node",
            "UPDATE nodes SET reported_generation = $1, reported_failures = $2 WHERE id = $3",
            signed(generation.0),
            to_json("the failures of a node", &failures)?,
            signed(id.0)
        )?;
        Ok(())
    }

    /// Forgets a node, with its tags, routes and decisions about them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_node(&mut self, id: NodeId) -> Result<(), StoreError> {
        self.changes.nodes.insert(id);
        self.frees_addresses();
        execute!(
            self,
            "delete a node",
            "DELETE FROM nodes WHERE id = $1",
            signed(id.0)
        )?;
        Ok(())
    }
}
