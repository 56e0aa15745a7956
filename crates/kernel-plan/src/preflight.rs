//! What must hold of the host before `up` changes anything, and what `up` will do to it.

use ipnet::IpNet;
use std::{collections::BTreeSet, fmt, net::IpAddr};
use weir_overlay::{InterfaceName, TrafficClass};

use crate::{HostFacts, LinkFact, LinkKind, PortFact, SysctlKey, WireguardBackend, relay_sysctls};

/// Which WireGuard the admin asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireguardChoice {
    /// The kernel's where it has one, else userspace.
    #[default]
    Auto,
    /// The kernel's, or not at all.
    Kernel,
    /// The userspace process.
    Userspace,
}

/// What `up` asks of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightRequest {
    /// The link's name.
    pub interface: InterfaceName,
    /// The UDP port.
    pub listen_port: u16,
    /// Which WireGuard.
    pub wireguard: WireguardChoice,
    /// The routes to advertise.
    pub advertised: BTreeSet<IpNet>,
    /// Fixed source addresses of relayed traffic.
    pub egress: BTreeSet<IpAddr>,
    /// Whether the link and the port are this agent's own already.
    pub already_up: bool,
    /// Whether the admin insists on routes that hold an address of this host (`--force`).
    pub force: bool,
}

/// Why `up` cannot go on. Each prints as one sentence with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `CAP_NET_ADMIN`.
    #[error(
        "this needs the right to administer the network (CAP_NET_ADMIN): run the agent as root or through its systemd unit"
    )]
    Privilege,
    /// `nft` is missing or broken.
    #[error("nft cannot be run ({0}): install it with `apt install nftables`")]
    Nft(String),
    /// `--wireguard=kernel`, and there is none.
    #[error(
        "this kernel has no WireGuard: install a kernel that has it (5.6 or later), or use --wireguard=userspace"
    )]
    NoKernelWireguard,
    /// Userspace WireGuard without TUN.
    #[error(
        "neither WireGuard in the kernel nor /dev/net/tun is there: load one with `modprobe wireguard` or `modprobe tun`"
    )]
    NoTun,
    /// Somebody else has an interface of our name.
    #[error(
        "an interface named {0} exists and is not Weir's: remove it (`ip link del {0}`), or choose another name with --interface"
    )]
    InterfaceTaken(InterfaceName),
    /// Somebody else has our port.
    #[error(
        "UDP port {0} is in use by another program (`ss -ulpn` shows which): stop it, or choose another port with --listen-port"
    )]
    PortTaken(u16),
    /// An IPv6 route on a host without IPv6.
    #[error(
        "{0} is an IPv6 route and this host has no IPv6: leave it out, or turn IPv6 on (`sysctl net.ipv6.conf.all.disable_ipv6=0`)"
    )]
    NoIpv6(IpNet),
    /// Forwarding is off and cannot be turned on.
    #[error(
        "{key} must be {value} to relay, and cannot be set ({reason}): set it from outside (`sysctl -w {dotted}={value}`), or run the agent where it may"
    )]
    Sysctl {
        /// Which setting.
        key: SysctlKey,
        /// The value that is needed.
        value: String,
        /// The same setting as `sysctl` names it.
        dotted: String,
        /// The kernel's words.
        reason: String,
    },
    /// A fixed source address that the host does not have.
    #[error("--egress-ip {0} is not an address of this host: `ip address` lists those that are")]
    Egress(IpAddr),
    /// A route that holds one of the host's own addresses.
    #[error(
        "{prefix} holds {address}, an address of this host itself, which would become unreachable: leave it out, or use --force"
    )]
    OwnAddress {
        /// The route.
        prefix: IpNet,
        /// The address in it.
        address: IpAddr,
    },
}

/// What `up` does to the host, and which WireGuard it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Who will carry WireGuard's packets.
    pub backend: WireguardBackend,
    /// Why it is not the kernel, when it is not.
    pub backend_reason: Option<String>,
    /// Whether the overlay has IPv6 here.
    pub ipv6: bool,
    /// What is done to the host, a sentence each.
    pub notes: Vec<String>,
}

/// Refusals, printed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals(pub Vec<Refusal>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, refusal) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            refusal.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusals {}

fn backend(request: &PreflightRequest, facts: &HostFacts) -> Result<WireguardBackend, Refusal> {
    match request.wireguard {
        WireguardChoice::Kernel if facts.kernel_wireguard => Ok(WireguardBackend::Kernel),
        WireguardChoice::Kernel => Err(Refusal::NoKernelWireguard),
        WireguardChoice::Auto if facts.kernel_wireguard => Ok(WireguardBackend::Kernel),
        WireguardChoice::Auto | WireguardChoice::Userspace if facts.tun => {
            Ok(WireguardBackend::Userspace)
        }
        WireguardChoice::Auto | WireguardChoice::Userspace => Err(Refusal::NoTun),
    }
}

/// A relay on its own LAN has an address in the subnet it advertises: that is as it should be. A
/// public prefix, or an address alone, that is the host's own would be cut off by its clients.
fn own_address(prefix: &IpNet, facts: &HostFacts) -> Option<Refusal> {
    let alone = prefix.prefix_len() == prefix.max_prefix_len();
    if !alone && TrafficClass::of(prefix) != TrafficClass::Relayed {
        return None;
    }
    let address = facts
        .addresses
        .iter()
        .find(|address| prefix.contains(*address))?;
    Some(Refusal::OwnAddress {
        prefix: *prefix,
        address: *address,
    })
}

fn notes(request: &PreflightRequest) -> Vec<String> {
    let mut notes = Vec::new();
    let has = |ipv4: bool| {
        request
            .advertised
            .iter()
            .any(|p| p.addr().is_ipv4() == ipv4)
    };
    let families = match (has(true), has(false)) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4",
        (false, true) => "IPv6",
        (false, false) => return notes,
    };
    notes.push(format!(
        "{families} forwarding is on; `agent down` puts the old value back"
    ));
    let source = if request.egress.is_empty() {
        "the address of the link it leaves by".to_owned()
    } else {
        request
            .egress
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" and ")
    };
    notes.push(format!("relayed traffic leaves with {source} (source NAT)"));
    notes.push("TCP segment sizes are lowered to what the tunnel carries, both ways".to_owned());
    notes
}

/// Checks the host against the request: all that is wrong at once, or what `up` will do.
///
/// # Errors
/// [`Refusals`]; then nothing may be changed.
pub fn preflight(request: &PreflightRequest, facts: &HostFacts) -> Result<Effects, Refusals> {
    let mut refusals = Vec::new();
    if !facts.may_administer {
        // Without the right, every other probe is guesswork.
        return Err(Refusals(vec![Refusal::Privilege]));
    }
    if let Err(reason) = &facts.nft {
        refusals.push(Refusal::Nft(reason.clone()));
    }
    let backend = backend(request, facts).map_err(|refusal| refusals.push(refusal));
    if !request.already_up {
        if matches!(
            &facts.link,
            LinkFact::Present(LinkKind::Wireguard | LinkKind::Tun | LinkKind::Other(_))
        ) {
            refusals.push(Refusal::InterfaceTaken(request.interface.clone()));
        }
        if facts.port == PortFact::Taken {
            refusals.push(Refusal::PortTaken(request.listen_port));
        }
    }
    // Default routes come in pairs; a host without IPv6 simply is an IPv4 exit.
    let without_ipv6 = |p: &&IpNet| !facts.ipv6 && p.addr().is_ipv6() && p.prefix_len() > 0;
    refusals.extend(
        request
            .advertised
            .iter()
            .filter(without_ipv6)
            .map(|p| Refusal::NoIpv6(*p)),
    );
    for (key, value) in relay_sysctls(&request.advertised, &facts.autoconfigured_links) {
        if let Some(reason) = facts.unwritable_sysctls.get(&key.0) {
            let dotted = key
                .0
                .replace('.', "\0")
                .replace('/', ".")
                .replace('\0', "/");
            refusals.push(Refusal::Sysctl {
                key,
                value,
                dotted,
                reason: reason.clone(),
            });
        }
    }
    for address in &request.egress {
        if !facts.addresses.contains(address) {
            refusals.push(Refusal::Egress(*address));
        }
    }
    if !request.force {
        refusals.extend(
            request
                .advertised
                .iter()
                .filter_map(|p| own_address(p, facts)),
        );
    }
    match backend {
        Ok(backend) if refusals.is_empty() => Ok(Effects {
            backend,
            backend_reason: match (backend, request.wireguard) {
                (WireguardBackend::Kernel, _) => None,
                (WireguardBackend::Userspace, WireguardChoice::Userspace) => {
                    Some("as asked with --wireguard=userspace".to_owned())
                }
                (WireguardBackend::Userspace, WireguardChoice::Auto | WireguardChoice::Kernel) => {
                    Some("this kernel has no WireGuard; userspace is slower".to_owned())
                }
            },
            ipv6: facts.ipv6,
            notes: notes(request),
        }),
        Ok(_) | Err(()) => Err(Refusals(refusals)),
    }
}
