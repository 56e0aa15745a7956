//! The names and numbers by which Weir's things in the kernel are known as its own.

/// The interface, when the settings name no other.
pub const DEFAULT_INTERFACE: &str = "weir0";

/// The UDP port of WireGuard, when the settings name no other. Not WireGuard's usual 51820: the
/// hosts that Weir comes to often have a `wg-quick` there already.
pub const DEFAULT_LISTEN_PORT: u16 = 51920;

/// What WireGuard adds to a packet, in bytes: 40 for IPv6, 8 for UDP, 32 of its own. Over IPv4 it
/// is 20 less, and a peer may move from one to the other, so the larger one counts (as in
/// wg-quick).
pub const WIREGUARD_OVERHEAD: u32 = 80;

/// The interface's MTU while no path is known, in bytes: for a path of 1500, Ethernet's.
pub const DEFAULT_MTU: u32 = 1500 - WIREGUARD_OVERHEAD;

/// The smallest MTU of the interface, in bytes: IPv6 needs that much (RFC 8200, section 5), and
/// the kernel takes it off a link with less.
pub const MIN_MTU: u32 = 1280;

/// The largest MTU of the interface, in bytes: an IPv4 packet with what WireGuard adds.
pub const MAX_MTU: u32 = 65535 - WIREGUARD_OVERHEAD;

/// How many paths to peers are looked up, so that a look at the kernel stays short with thousands
/// of peers. Nodes with a fixed way in are few, and their paths much alike.
pub const PATHS_AT_MOST: usize = 64;

/// The routing protocol number (`rtm_protocol`, linux/rtnetlink.h) on every route of ours. Above
/// `RTPROT_STATIC` and not in iproute2's `rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 87;

/// The table of relayed public prefixes: looked up before `main`.
pub const RELAYED_TABLE: u32 = 5701;
/// The table of private subnets: looked up after `main`'s own routes, except its default route.
pub const SUBNET_TABLE: u32 = 5702;
/// The table of the exit's default routes: looked up last of ours.
pub const EXIT_TABLE: u32 = 5703;
/// The kernel's `main` table (`RT_TABLE_MAIN`): the overlay's own routes live here, so that a node
/// that accepts no route needs no rule at all.
pub const MAIN_TABLE: u32 = 254;

/// The metric of a route that refuses what finds no better one. Above 1024, which IPv6 gives to
/// routes that name none.
pub const BACKSTOP_METRIC: u32 = 57_000;

/// The first priority of our band of routing rules.
pub const RULE_BAND_FIRST: u32 = 5700;
/// The last priority of our band of routing rules.
pub const RULE_BAND_LAST: u32 = 5799;
/// Relayed public prefixes.
pub const RULE_RELAYED: u32 = 5710;
/// `main`, but not its default route: a LAN that the host is connected to wins over a subnet that
/// somebody far away advertises.
pub const RULE_MAIN: u32 = 5720;
/// Private subnets.
pub const RULE_SUBNET: u32 = 5730;
/// The exit.
pub const RULE_EXIT: u32 = 5740;

/// The mark on the tunnel's own encrypted packets, which must never enter the tunnel. Its lower 24
/// bits are clear, where Tailscale (0xff0000), Kubernetes (0xc000) and Docker keep theirs.
pub const TUNNEL_MARK: u32 = 0x5700_0000;
/// The bits of a packet mark that [`TUNNEL_MARK`] is compared in.
pub const TUNNEL_MARK_MASK: u32 = 0xff00_0000;

/// The mark on packets of this host that a program bound to another interface, and that take the
/// tunnel all the same; in the bits of [`TUNNEL_MARK_MASK`].
pub const REROUTED_MARK: u32 = 0x5600_0000;

/// The nftables table, of family `inet`.
pub const NFT_TABLE: &str = "weir";
/// The group that denied packets are logged to (nflog).
pub const NFLOG_GROUP: u16 = 87;

/// The bits of the conntrack mark that hold the grant id.
pub const CT_GRANT_MASK: u32 = 0x000f_ffff;
/// The bits of the conntrack mark that hold the firewall generation.
pub const CT_GENERATION_MASK: u32 = 0xfff0_0000;
/// How far the firewall generation is shifted in the conntrack mark.
pub const CT_GENERATION_SHIFT: u32 = 20;
/// The largest firewall generation; after it comes 1. Zero marks flows that nobody judged.
pub const CT_GENERATION_MAX: u16 = 0x0fff;

/// How long a WireGuard session can live without a new handshake, in seconds
/// (`REJECT_AFTER_TIME`, WireGuard paper, section 6.1). A peer silent for longer may be given its
/// configured endpoint again.
pub const SESSION_SECONDS: u64 = 180;

/// The keepalive of a node without a fixed way in, towards those that have one, in seconds: under
/// the 30 s after which common NAT gateways forget a UDP flow (RFC 4787, REQ-5, asks for 120).
pub const KEEPALIVE_SECONDS: u16 = 25;
