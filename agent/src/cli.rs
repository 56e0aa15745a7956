//! The command line.

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use weir_protocol::IpProtocol;

use crate::settings::Change;

/// Where the daemon listens, unless told otherwise.
pub(crate) const SOCKET: &str = "/run/weir/agent.sock";
/// Where the daemon keeps its state, unless told otherwise.
pub(crate) const STATE_DIRECTORY: &str = "/var/lib/weir/agent";

/// Joins this host to a Weir network: reach what the policy allows through relays with a fixed
/// public address, or be such a relay.
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version,
    max_term_width = 100,
    after_help = "Examples:
  agent up --coordinator=https://coordinator.example.com:8443 --auth-key=file:/root/weir.key
  agent up --advertise-routes=8.8.8.8/32
  agent status"
)]
pub(crate) struct Cli {
    /// The daemon's socket
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    pub(crate) socket: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Go up: join the network and take part in it
    #[command(after_help = "\
Without settings, it goes up with those that are saved. With settings, they must be all of those
that are in force: one that is left out is not taken back by accident, but refused with the full
command to run. A key in /etc/weir/agent.toml, of the same name as the flag, is always in force.

A machine that is not in the network yet needs an auth key, or an admin: without a key, `agent up`
prints an address at which an admin lets the machine in, and waits. Interrupted, it leaves the daemon
waiting; `agent down` ends that.

Examples:
  agent up --coordinator=https://coordinator.example.com:8443 --auth-key=file:/root/weir.key
  agent up --coordinator=https://coordinator.example.com:8443 --pin=PIN
  agent up --advertise-routes=8.8.8.8,8.8.4.4
  agent up --advertise-routes=10.20.0.0/24 --snat-subnet-routes=false --wait
  agent up --exit-node=relay --exit-node-allow-lan-access
  agent up --force-reauth --auth-key=file:/root/weir.key")]
    Up(UpArgs),

    /// Go down: leave the host exactly as it was before `up`
    #[command(after_help = "\
The settings stay saved: `agent up` goes up with them again.

Examples:
  agent down")]
    Down(DownArgs),

    /// Change single settings, and leave the others as they are
    #[command(
        after_help = "\
An empty value takes a setting back to none.

Examples:
  agent set --advertise-routes=8.8.8.8,8.8.4.4
  agent set --exit-node=
  agent set --accept-routes=false",
        arg_required_else_help = true
    )]
    Set(SetArgs),

    /// Show how things stand: node, coordinator, peers, routes, what was denied
    #[command(after_help = "\
Exits with 0 when the node is up and all is in force, with 1 when not.

Examples:
  agent status
  agent status --json")]
    Status(JsonArgs),

    /// Show the routes this node advertises, and those of others
    #[command(after_help = "\
Examples:
  agent routes
  agent routes --json")]
    Routes(JsonArgs),

    /// Say why a connection passes, or where it stops and what mends it
    #[command(after_help = "\
Looks at every step that the first packet of the connection takes, and changes nothing. From a
client, the relay's part is not seen: it is asked there, with --from. Exits with 1 when a step is
found that stops the connection.

Examples:
  agent explain 8.8.8.8:443
  agent explain build:22 --json
  agent explain 8.8.8.8:53 --protocol=udp --from=alice    on the relay
  agent explain 8.8.8.8:443 --from=alice --trace          the same, with a real packet")]
    Explain(ExplainArgs),

    /// Leave the network for good: remove the node, forget its keys
    #[command(after_help = "\
The host is then as it was before `agent up`, and the settings stay saved. To come back, the machine
needs a new auth key. `agent down` goes down and keeps the node.

Examples:
  agent logout
  agent logout --yes")]
    Logout(LogoutArgs),

    /// Give this node another WireGuard key: no connection breaks, and it stays the same node
    #[command(after_help = "\
The coordinator tells all peers at once. The node keeps its name and addresses, and what was agreed
about its routes. When it expires stays as it was: `agent up --force-reauth` renews that.

Examples:
  agent rotate-key
  agent rotate-key --json")]
    RotateKey(JsonArgs),

    /// Write down all that helps to find out what is wrong, without secrets
    #[command(after_help = "\
Holds versions, status, doctor, settings, rulesets, rules, routes and the last lines of the log. Keys
are left out; names, addresses and the rulesets of other programs are not: read it before you send
it.

Examples:
  agent bugreport
  agent bugreport --output=/tmp/weir.txt")]
    Bugreport {
        /// Where to [default: standard output]
        #[arg(long, value_name = "PATH")]
        output: Option<PathBuf>,
    },

    /// Send echo requests to a node, over the tunnel
    #[command(after_help = "\
Says how long each answer takes, and where the node's WireGuard is: packets go there directly. Exits
with 1 when nothing is answered.

Examples:
  agent ping relay
  agent ping 100.64.0.1 --count=1 --timeout=1 --json")]
    Ping(PingArgs),

    /// Say whose an address or a name is: node, user, tags, or the relay that serves it
    #[command(after_help = "\
Knows what this node is told: nodes that the policy lets it talk to or hear from.

Examples:
  agent whois 100.64.0.2
  agent whois relay --json
  agent whois 8.8.8.8")]
    Whois(WhoisArgs),

    /// Print what a shell needs to complete these commands
    #[command(after_help = "\
The package installs them already.

Examples:
  agent completions bash
  agent completions zsh")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },

    /// Examine this host: what is wrong with it, and what mends it
    #[command(after_help = "\
Looks at WireGuard, nft, forwarding, reverse path filters, MTU, clock, disk, coordinator and at
other programs' firewalls, and changes nothing. Works without the daemon as well, for root. Exits
with 1 when something is broken.

Examples:
  agent doctor
  agent doctor --json")]
    Doctor(JsonArgs),

    /// Print what Weir put into this host's kernel
    #[command(subcommand, arg_required_else_help = true)]
    Debug(crate::debug::DebugCommand),

    /// Show the version of this command and of the daemon
    #[command(after_help = "\
Examples:
  agent version")]
    Version(JsonArgs),

    /// Run the daemon, as the systemd unit does
    #[command(after_help = "\
On SIGTERM it stops and leaves the kernel as it is: traffic goes on, and the next start loses
nothing. WEIR_LOG sets what it logs (default: info).

Examples:
  agent daemon
  agent daemon --state-dir=/tmp/agent --socket=/tmp/agent.sock")]
    Daemon(DaemonArgs),

    /// Carry WireGuard's packets where the kernel cannot
    #[command(hide = true)]
    UserspaceWireguard {
        /// The interface to make.
        interface: String,
    },

    /// Write the manual pages, as the package has them
    #[command(hide = true)]
    Manual {
        /// Where to
        directory: PathBuf,
    },
}

/// `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) change: Change,

    #[command(flatten)]
    pub(crate) joining: JoinArgs,

    /// Be let in again with the auth key, though this machine is in: the time of its node's key
    /// begins anew, and node, name and addresses stay
    #[arg(long)]
    pub(crate) force_reauth: bool,

    /// Let settings that are not mentioned go back to their defaults
    #[arg(long)]
    pub(crate) reset: bool,

    /// Wait until an admin has approved the routes, at most for --timeout where that is given
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    pub(crate) change: Change,

    #[command(flatten)]
    pub(crate) joining: JoinArgs,
}

/// What `up` and `set` share besides the settings.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The key that lets this machine in, made by `coordinator keys create`
    #[arg(long, value_name = "KEY|file:PATH")]
    pub(crate) auth_key: Option<String>,

    /// The pin of the coordinator's certificate, as `coordinator status` shows it: needed once, where
    /// there is no auth key, which holds it, and no certificate that this host trusts
    #[arg(long, value_name = "PIN", allow_hyphen_values = true)]
    pub(crate) pin: Option<String>,

    /// How long it may take, in seconds [default: 30, and as long as an admin may take where this
    /// machine is to be let in]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) timeout: Option<u64>,

    /// Advertise routes even where they would cut something off
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// How long it may take, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) timeout: Option<u64>,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Commands that only show something.
#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Where the connection goes to: an address or a name, and the port
    #[arg(value_name = "DESTINATION:PORT")]
    pub(crate) destination: String,

    /// The node that opens it, by name or overlay address [default: this one]
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,

    /// Wait for a real packet, and follow it and its answer through every table of this host
    /// [default: 10]
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "from",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10",
        value_parser = clap::value_parser!(u64).range(1..=120)
    )]
    pub(crate) trace: Option<u64>,

    /// The protocol: a name or a number
    #[arg(long, default_value = "tcp")]
    pub(crate) protocol: IpProtocol,

    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `logout`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,

    /// Go on when the coordinator cannot be told; an admin then deletes the node there
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// A node's name or overlay address, or any other address
    #[arg(value_name = "NODE|ADDRESS")]
    pub(crate) node: String,

    /// How many requests
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) count: u16,

    /// How long to wait for each answer, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(1..=60)
    )]
    pub(crate) timeout: u64,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `whois`.
#[derive(Debug, Args)]
pub(crate) struct WhoisArgs {
    /// A node's name, an overlay address, or an address or prefix behind a relay
    #[arg(value_name = "ADDRESS|NAME")]
    pub(crate) query: String,

    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `daemon`.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// The settings file; it need not exist
    #[arg(long, value_name = "PATH", default_value = "/etc/weir/agent.toml")]
    pub(crate) config: PathBuf,

    /// Where keys, settings and the last network map are kept
    #[arg(long, value_name = "PATH", default_value = STATE_DIRECTORY)]
    pub(crate) state_dir: PathBuf,
}

/// A usage error as one sentence: what is wrong, what was probably meant, where help is. `None`
/// for what is no error: help and version, and help where something is missing.
pub(crate) fn usage_error(error: &clap::Error, arguments: &[String]) -> Option<String> {
    use clap::error::ErrorKind as Kind;
    let is_help = matches!(
        error.kind(),
        Kind::DisplayHelp | Kind::DisplayVersion | Kind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        return None;
    }
    let text = error.to_string();
    let parts: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_end_matches('.'))
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(|line| {
            line.trim_start_matches("error: ")
                .trim_start_matches("tip: ")
        })
        .filter(|line| !line.is_empty())
        .collect();
    let command = arguments
        .get(1)
        .filter(|name| Cli::command().find_subcommand(name).is_some())
        .map_or_else(|| "agent".to_owned(), |name| format!("agent {name}"));
    Some(format!(
        "{}; `{command} --help` tells more",
        parts.join("; ")
    ))
}

/// The flags that take lists.
const LISTS: [&str; 3] = ["--advertise-routes", "--advertise-tags", "--egress-ip"];

/// Puts lists together that the shell took apart: `--advertise-routes=8.8.8.8, 8.8.4.4` is one
/// list. No command with such a flag takes words of its own, so nothing else can be meant.
pub(crate) fn joined_lists(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    let mut awaits_value = false;
    let mut in_list = false;
    for argument in arguments {
        if argument.starts_with('-') {
            let (flag, has_value) = argument
                .split_once('=')
                .map_or((argument.as_str(), false), |(flag, _)| (flag, true));
            let is_list = LISTS.contains(&flag);
            awaits_value = is_list && !has_value;
            in_list = is_list && has_value;
        } else if awaits_value {
            awaits_value = false;
            in_list = true;
        } else if in_list && let Some(list) = joined.last_mut() {
            list.push(',');
            list.push_str(&argument);
            continue;
        }
        joined.push(argument);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words = line.split_whitespace().map(str::to_owned);
        Cli::try_parse_from(joined_lists(words))
    }

    fn sentence(line: &str) -> Option<String> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        usage_error(&parse(line).unwrap_err(), &words)
    }

    fn up(line: &str) -> UpArgs {
        let cli = parse(line).unwrap_or_else(|error| panic!("{error}"));
        let Command::Up(args) = cli.command else {
            panic!("{line} is not `up`");
        };
        args
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn routes_with_and_without_spaces() {
        for line in [
            "agent up --advertise-routes=8.8.8.8,8.8.4.4",
            "agent up --advertise-routes 8.8.8.8,8.8.4.4",
            "agent up --advertise-routes=8.8.8.8, 8.8.4.4",
            "agent up --advertise-routes 8.8.8.8 , 8.8.4.4",
            "agent up --advertise-routes 8.8.8.8/32 ,8.8.4.4/32 --force",
            "agent up --force --advertise-routes=8.8.8.8 8.8.4.4 --accept-routes",
        ] {
            let routes = up(line).change.advertise_routes.unwrap();
            assert_eq!(routes.to_string(), "8.8.4.4/32,8.8.8.8/32", "{line}");
        }
    }

    #[test]
    fn usage_errors_say_what_is_wrong() {
        for (line, part) in [
            ("agent up --advertise-route=8.8.8.8", "--advertise-routes"),
            (
                "agent up --listen-port 1 --listen-port 2",
                "cannot be used multiple times",
            ),
            (
                "agent up --advertise-routes=10.20.0.5/24",
                "10.20.0.5/24 has host bits set; the prefix is 10.20.0.0/24",
            ),
            ("agent up --accept-routes=maybe", "maybe"),
            ("agent up --coordinator=http://c.example", "in the clear"),
            ("agent up --listen-port=0", "0"),
            ("agent up --interface=a/b", "not an interface name"),
            ("agent fly", "fly"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            let sentence = sentence(line).unwrap_or_else(|| panic!("{line} is no error"));
            assert!(sentence.contains(part), "{line}: {sentence}");
            assert_eq!(sentence.lines().count(), 1, "{line}: {sentence}");
        }
        assert_eq!(parse("agent set").unwrap_err().exit_code(), 2);
        assert_eq!(sentence("agent up --help"), None);
        assert_eq!(
            sentence("agent up --advertise-route=8.8.8.8").unwrap(),
            "unexpected argument '--advertise-route' found; a similar argument exists: \
             '--advertise-routes'; `agent up --help` tells more"
        );
    }

    #[test]
    fn a_pin_may_begin_with_a_hyphen() {
        for line in ["agent up --pin -abc --force", "agent up --pin=-abc --force"] {
            let joining = up(line).joining;
            assert_eq!(joining.pin.as_deref(), Some("-abc"), "{line}");
            assert!(joining.force, "{line}");
        }
    }

    #[test]
    fn switches_with_and_without_a_value() {
        let args = up("agent up --accept-routes --snat-subnet-routes=false --exit-node=");
        assert_eq!(args.change.accept_routes, Some(true));
        assert_eq!(args.change.snat_subnet_routes, Some(false));
        assert_eq!(args.change.exit_node.unwrap().0, None);
    }
}
