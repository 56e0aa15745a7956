//! Cables, switches, addresses, routes and simple firewalls.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::{Lab, Node};

impl Lab {
    /// Lays a cable: a link named `left_link` in `left` and `right_link` in `right`, both up.
    ///
    /// # Errors
    /// A name is taken in its node.
    pub fn connect(
        &self,
        (left, left_link): (&Node, &str),
        (right, right_link): (&Node, &str),
    ) -> Result<()> {
        left.ip(&format!(
            "link add {left_link} type veth peer name {right_link} netns {}\n\
             link set {left_link} up",
            right.pid()
        ))
        .and_then(|()| right.ip(&format!("link set {right_link} up")))
        .with_context(|| format!("cannot connect {} to {}", left.name(), right.name()))
    }
}

impl Node {
    /// Runs commands of `ip`, one a line without the word `ip`, in one process.
    ///
    /// # Errors
    /// One of them failed.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.command(["ip", "-batch", "-"])
            .stdin(commands)
            .run()
            .map(drop)
            .with_context(|| format!("of these:\n{commands}"))
    }

    /// Adds an address with its prefix length, such as `192.168.1.2/24`.
    ///
    /// # Errors
    /// There is no such link, or it has the address already.
    pub fn address(&self, link: &str, address: &str) -> Result<()> {
        self.ip(&format!("address add {address} dev {link}"))
    }

    /// Sets the default route.
    ///
    /// # Errors
    /// The gateway is not reachable directly, or there is a default route already.
    pub fn default_route(&self, gateway: IpAddr) -> Result<()> {
        self.route("default", gateway)
    }

    /// Adds a route to the main table.
    ///
    /// # Errors
    /// The gateway is not reachable directly, or there is such a route already.
    pub fn route(&self, prefix: &str, gateway: IpAddr) -> Result<()> {
        self.ip(&format!("route add {prefix} via {gateway}"))
    }

    /// Makes a switch: a bridge over links of this node, up.
    ///
    /// # Errors
    /// A link does not exist, or the name is taken.
    pub fn bridge(&self, name: &str, links: &[&str]) -> Result<()> {
        let mut commands = format!("link add {name} type bridge\nlink set {name} up\n");
        for link in links {
            commands += &format!("link set {link} master {name}\n");
        }
        self.ip(&commands)
    }

    /// Makes the node a router for IPv4 and IPv6.
    ///
    /// # Errors
    /// The sysctl cannot be set.
    pub fn forward(&self) -> Result<()> {
        let script = "echo 1 > /proc/sys/net/ipv4/ip_forward
            cd /proc/sys/net/ipv6 2> /dev/null || exit 0
            echo 1 > conf/all/forwarding";
        self.run(["sh", "-e", "-c", script]).map(drop)
    }

    /// Takes IPv6 away from the node, `lo` included.
    ///
    /// # Errors
    /// The kernel has no IPv6 at all.
    pub fn disable_ipv6(&self) -> Result<()> {
        self.set_sysctls(
            &["all", "default"].map(|link| (format!("net.ipv6.conf.{link}.disable_ipv6"), "1")),
        )
    }

    /// Makes the node a home router: what leaves by `link` gets that link's address, and nothing
    /// comes in by it that was not asked for.
    ///
    /// # Errors
    /// nft refused the ruleset.
    pub fn nat_gateway(&self, link: &str) -> Result<()> {
        self.forward()?;
        self.nft(&format!(
            "table ip gateway {{
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    iifname \"{link}\" ct state established,related accept
                    iifname \"{link}\" drop
                }}
                chain postrouting {{
                    type nat hook postrouting priority srcnat; policy accept;
                    oifname \"{link}\" masquerade
                }}
            }}"
        ))
    }

    /// Drops and counts everything for this node that is not from `client` (or from itself).
    ///
    /// # Errors
    /// nft refused the ruleset.
    pub fn admit_only(&self, client: IpAddr) -> Result<()> {
        let family = if client.is_ipv4() { "ip" } else { "ip6" };
        self.nft(&format!(
            "table inet admission {{
                chain input {{
                    type filter hook input priority filter; policy accept;
                    iifname lo accept
                    meta l4proto ipv6-icmp accept
                    {family} saddr {client} accept
                    counter drop
                }}
            }}"
        ))
    }
}
