//! A little internet: the network of the story that the end-to-end tests tell.
//!
//! ```text
//!   alice 192.168.1.2 ── gateway-a ┐                  ┌ relay        203.0.113.7
//!   bob   192.168.2.2 ── gateway-b ┤ 198.51.100.0/24  ├ office-relay 203.0.113.20 ── office 10.20.0.5
//!   coordinator      198.51.100.10 ┘        │         └ build        203.0.113.30
//!                                        internet
//!                    service 8.8.8.8, 8.8.4.4 ┘  └ elsewhere 1.1.1.1
//! ```
//!
//! The service admits 203.0.113.7 and nobody else; `elsewhere` admits everybody. The office host
//! has no route but to its own subnet, so it answers only to addresses of that subnet.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{Lab, Node, Spawned};

/// The addresses of the little internet. They are documentation addresses and well-known ones;
/// none of this traffic leaves the lab.
pub mod addresses {
    use std::net::Ipv4Addr;

    /// The relay with the one known address.
    pub const RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
    /// The second relay, in front of the office.
    pub const OFFICE_RELAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
    /// The build server.
    pub const BUILD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
    /// The coordinator.
    pub const COORDINATOR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
    /// alice's gateway, as the internet sees it.
    pub const GATEWAY_A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 21);
    /// bob's gateway, as the internet sees it.
    pub const GATEWAY_B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 22);
    /// alice, at home.
    pub const ALICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    /// bob, at home.
    pub const BOB: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 2);
    /// The service that admits one address.
    pub const SERVICE: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
    /// The service's other address.
    pub const SERVICE_SECOND: Ipv4Addr = Ipv4Addr::new(8, 8, 4, 4);
    /// A public host that nobody advertises.
    pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
    /// The host in the office.
    pub const OFFICE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 5);
    /// The office relay's address in the office.
    pub const OFFICE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
}

/// The link by which a host reaches the internet.
const WAN: &str = "eth0";
/// The link towards a LAN.
const LAN: &str = "eth1";
/// What the servers of the little internet listen on: one TCP and one UDP port each.
const SERVER: &[&str] = &["weir-lab-host", "serve", "--tcp", "443", "--udp", "53"];

/// The network of the story. Each field is a machine; see the picture at the top of this module.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "the picture and the addresses above say what each machine is"
)]
pub struct Internet {
    /// The machines' owner.
    pub lab: Lab,
    pub internet: Node,
    pub relay: Node,
    pub office_relay: Node,
    pub office: Node,
    pub coordinator: Node,
    pub gateway_a: Node,
    pub alice: Node,
    pub gateway_b: Node,
    pub bob: Node,
    pub build: Node,
    pub service: Node,
    pub elsewhere: Node,
    servers: Vec<Spawned>,
}

impl Internet {
    /// Builds the network and starts the servers in it.
    ///
    /// # Errors
    /// The kernel or a program refuses a piece of it.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [
            internet,
            relay,
            office_relay,
            office,
            coordinator,
            gateway_a,
            alice,
            gateway_b,
            bob,
            build,
            service,
            elsewhere,
        ] = lab.nodes([
            "internet",
            "relay",
            "office-relay",
            "office",
            "coordinator",
            "gateway-a",
            "alice",
            "gateway-b",
            "bob",
            "build",
            "service",
            "elsewhere",
        ])?;
        let mut network = Self {
            internet,
            relay,
            office_relay,
            office,
            coordinator,
            gateway_a,
            alice,
            gateway_b,
            bob,
            build,
            service,
            elsewhere,
            servers: Vec::new(),
            lab,
        };
        network
            .public_side()
            .context("cannot build the public side of the lab")?;
        network
            .private_side()
            .context("cannot build the private networks of the lab")?;
        network
            .start_servers()
            .context("cannot start the lab's servers")?;
        Ok(network)
    }

    /// Every machine.
    #[must_use]
    pub fn nodes(&self) -> [&Node; 12] {
        [
            &self.internet,
            &self.relay,
            &self.office_relay,
            &self.office,
            &self.coordinator,
            &self.gateway_a,
            &self.alice,
            &self.gateway_b,
            &self.bob,
            &self.build,
            &self.service,
            &self.elsewhere,
        ]
    }

    /// Every machine that is not infrastructure: those that may run an agent.
    #[must_use]
    pub fn hosts(&self) -> [&Node; 5] {
        [
            &self.relay,
            &self.office_relay,
            &self.alice,
            &self.bob,
            &self.build,
        ]
    }

    /// How many packets the service's own firewall has dropped.
    ///
    /// # Errors
    /// nft cannot be asked.
    pub fn refused_by_service(&self) -> Result<u64> {
        let rules = self
            .service
            .run(["nft", "list", "table", "inet", "admission"])?
            .stdout;
        let count = rules
            .split_once("counter packets ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .context("the service's firewall has no counter")?;
        count
            .parse()
            .with_context(|| format!("{count} is not a number of packets"))
    }

    /// The router with its cables, and everything that has a public address. One call of `ip` for
    /// each machine: processes are what costs time in emulation.
    fn public_side(&self) -> Result<()> {
        let router = &self.internet;
        let mut commands = String::from(
            "link add west type bridge\naddress add 198.51.100.1/24 dev west\nlink set west up\n\
             link add east type bridge\naddress add 203.0.113.1/24 dev east\nlink set east up\n",
        );
        for (port, node, switch) in [
            ("gwa", &self.gateway_a, "west"),
            ("gwb", &self.gateway_b, "west"),
            ("coord", &self.coordinator, "west"),
            ("relay", &self.relay, "east"),
            ("office", &self.office_relay, "east"),
            ("build", &self.build, "east"),
        ] {
            commands += &cable(port, node, WAN);
            commands += &format!("link set {port} master {switch}\n");
        }
        commands += &cable("service", &self.service, WAN);
        commands += &cable("elsewhere", &self.elsewhere, WAN);
        commands += &format!(
            "address add 192.0.2.1/30 dev service\n\
             address add 192.0.2.5/30 dev elsewhere\n\
             route add {}/32 via 192.0.2.2\n\
             route add {}/32 via 192.0.2.2\n\
             route add {}/32 via 192.0.2.6",
            addresses::SERVICE,
            addresses::SERVICE_SECOND,
            addresses::ELSEWHERE,
        );
        router.ip(&commands)?;
        // An internet does not check where a packet came from: forged sources must be stopped
        // by who receives them.
        router.set_sysctls(
            &["west", "east", "service", "elsewhere"]
                .map(|link| (format!("net.ipv4.conf.{link}.rp_filter"), "0")),
        )?;
        router.forward()?;
        for (node, address, gateway) in [
            (&self.coordinator, addresses::COORDINATOR, WEST_GATEWAY),
            (&self.relay, addresses::RELAY, EAST_GATEWAY),
            (&self.build, addresses::BUILD, EAST_GATEWAY),
        ] {
            node.ip(&first_link(&format!("{address}/24"), gateway))?;
        }
        self.service.ip(&format!(
            "{}address add {}/32 dev lo\naddress add {}/32 dev lo",
            first_link("192.0.2.2/30", "192.0.2.1"),
            addresses::SERVICE,
            addresses::SERVICE_SECOND,
        ))?;
        self.service.admit_only(IpAddr::V4(addresses::RELAY))?;
        self.elsewhere.ip(&format!(
            "{}address add {}/32 dev lo",
            first_link("192.0.2.6/30", "192.0.2.5"),
            addresses::ELSEWHERE,
        ))
    }

    /// The gateways with their LANs, and the hosts in them.
    fn private_side(&self) -> Result<()> {
        for (gateway, public, host, subnet, address) in [
            (
                &self.gateway_a,
                addresses::GATEWAY_A,
                &self.alice,
                "192.168.1",
                addresses::ALICE,
            ),
            (
                &self.gateway_b,
                addresses::GATEWAY_B,
                &self.bob,
                "192.168.2",
                addresses::BOB,
            ),
        ] {
            gateway.ip(&format!(
                "{}{}address add {subnet}.1/24 dev {LAN}",
                first_link(&format!("{public}/24"), WEST_GATEWAY),
                cable(LAN, host, WAN),
            ))?;
            gateway.nat_gateway(WAN)?;
            host.ip(&first_link(
                &format!("{address}/24"),
                &format!("{subnet}.1"),
            ))?;
        }
        self.office_relay.ip(&format!(
            "{}{}address add {}/24 dev {LAN}",
            first_link(&format!("{}/24", addresses::OFFICE_RELAY), EAST_GATEWAY),
            cable(LAN, &self.office, WAN),
            addresses::OFFICE_GATEWAY,
        ))?;
        self.office.ip(&format!(
            "address add {}/24 dev {WAN}\nlink set {WAN} up",
            addresses::OFFICE
        ))
    }

    fn start_servers(&mut self) -> Result<()> {
        let places: [(&Node, &[std::net::Ipv4Addr]); 3] = [
            (
                &self.service,
                &[addresses::SERVICE, addresses::SERVICE_SECOND],
            ),
            (&self.elsewhere, &[addresses::ELSEWHERE]),
            (&self.office, &[addresses::OFFICE]),
        ];
        let mut servers = Vec::new();
        for (node, listen) in places {
            let mut command: Vec<String> = SERVER.iter().map(ToString::to_string).collect();
            for address in listen {
                command.extend(["--address".to_owned(), address.to_string()]);
            }
            servers.push(node.spawn(command)?);
        }
        for server in &servers {
            server.wait_for_log(crate::serve::LISTENING, Duration::from_secs(5))?;
        }
        self.servers = servers;
        Ok(())
    }

    /// What the server of `node` has logged: a line for each client it saw.
    ///
    /// # Errors
    /// There is no server in that node, or its log cannot be read.
    pub fn server_log(&self, node: &Node) -> Result<String> {
        let place = [&self.service, &self.elsewhere, &self.office]
            .iter()
            .position(|place| place.pid() == node.pid())
            .with_context(|| format!("no server runs in {}", node.name()))?;
        self.servers
            .get(place)
            .context("the servers are not started")?
            .log()
    }
}

/// Commands of `ip` that lay a cable from `link` to `far_link` in another machine.
fn cable(link: &str, far: &Node, far_link: &str) -> String {
    format!(
        "link add {link} type veth peer name {far_link} netns {}\nlink set {link} up\n",
        far.pid()
    )
}

/// Commands of `ip` that set up a machine's way to the internet.
fn first_link(address: &str, gateway: &str) -> String {
    format!("address add {address} dev {WAN}\nlink set {WAN} up\nroute add default via {gateway}\n")
}

/// The router's address on the clients' side.
const WEST_GATEWAY: &str = "198.51.100.1";
/// The router's address on the servers' side.
const EAST_GATEWAY: &str = "203.0.113.1";
