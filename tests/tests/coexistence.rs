//! Other programs' firewalls on a relay: they stay byte for byte what they are, `agent doctor`
//! names the rule that drops what Weir accepts, and the command that it prints lets it pass.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_lab::{Node, is_emulated, patient, wait_until};
use weir_tests::Finding;
use weir_tests::story::{ALICE, BOB, Quiet, World, policy};

const SOON: Duration = Duration::from_secs(10);
const BANK: &str = "8.8.8.8:443";
/// How many rules one after the other may drop the same traffic: doctor names the first.
const ROUNDS: usize = 6;

/// What loads a ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loader {
    Nft,
    IptablesNft,
    IptablesLegacy,
}

/// A ruleset as some program makes it.
#[derive(Debug)]
struct Foreign {
    name: &'static str,
    loader: Loader,
    ruleset: &'static str,
    /// Words that doctor must say of it.
    found: &'static str,
}

const DOCKER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
";

const UFW: &str = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-before-input - [0:0]
:ufw-user-forward - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-logging-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
";

const FOREIGN: [Foreign; 6] = [
    Foreign {
        name: "Docker, by iptables on nftables",
        loader: Loader::IptablesNft,
        ruleset: DOCKER,
        found: "table ip filter, chain FORWARD, its policy",
    },
    Foreign {
        name: "Docker, by nftables",
        loader: Loader::Nft,
        ruleset: "\
table ip docker-bridges {
  chain filter-FORWARD {
    type filter hook forward priority filter; policy accept;
    oifname \"docker0\" ct state established,related accept
    iifname \"docker0\" oifname != \"docker0\" accept
    oifname != { \"docker0\", \"eth1\" } meta l4proto { tcp, udp } counter drop comment \"unpublished\"
  }
}
",
        found: "table ip docker-bridges, chain filter-FORWARD, rule 3 (handle",
    },
    Foreign {
        name: "ufw, by iptables on nftables",
        loader: Loader::IptablesNft,
        ruleset: UFW,
        found: "table ip filter, chain FORWARD, its policy",
    },
    Foreign {
        name: "firewalld",
        loader: Loader::Nft,
        ruleset: "\
table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname \"lo\" accept
    ct state invalid drop
    tcp dport 22 accept
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname \"lo\" accept
    ct state invalid drop
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
    iifname \"eth9\" oifname \"eth0\" jump filter_FWD_internal
  }
  chain filter_FWD_internal {
    accept
  }
}
",
        found: "table inet firewalld, chain filter_FORWARD, rule 6 (handle",
    },
    Foreign {
        name: "somebody's own, by nftables",
        loader: Loader::Nft,
        ruleset: "\
table inet filter {
  set trusted {
    type ifname
    elements = { \"lo\", \"eth1\" }
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname @trusted accept
    ct state vmap { established : accept, related : accept, invalid : drop }
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport { 22, 8000-8100 } accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
  }
}
",
        found: "table inet filter, chain forward, its policy",
    },
    Foreign {
        name: "Docker, by the iptables before nftables",
        loader: Loader::IptablesLegacy,
        ruleset: DOCKER,
        found: "table ip filter, chain FORWARD, its policy",
    },
];

impl Loader {
    /// Whether this kernel has it: newer ones may leave the old iptables out.
    fn is_there(self, node: &Node) -> Result<bool> {
        match self {
            Self::Nft | Self::IptablesNft => Ok(true),
            Self::IptablesLegacy => Ok(node.try_run(["iptables-legacy", "-L", "-n"])?.success()),
        }
    }

    fn load(self, node: &Node, ruleset: &str) -> Result<()> {
        let program = match self {
            Self::Nft => return node.nft(ruleset),
            Self::IptablesNft => "iptables-nft-restore",
            Self::IptablesLegacy => "iptables-legacy-restore",
        };
        node.command([program]).stdin(ruleset).run().map(drop)
    }

    /// Everything in the host's firewalls but ours, without what traffic counts.
    fn listing(self, node: &Node) -> Result<String> {
        let tables = node.run(["nft", "list", "tables"])?;
        let mut text = String::new();
        for table in tables
            .stdout
            .lines()
            .filter(|line| *line != "table inet weir")
        {
            let mut command = vec!["nft", "--stateless", "list"];
            command.extend(table.split_whitespace());
            text += &node.run(command)?.stdout;
        }
        let programs = match self {
            Self::Nft => &[][..],
            Self::IptablesNft => &["iptables-nft-save", "ip6tables-nft-save"],
            Self::IptablesLegacy => &["iptables-legacy-save", "ip6tables-legacy-save"],
        };
        for program in programs {
            let saved = node.run([*program])?.stdout;
            let kept = saved.lines().filter(|line| !line.starts_with('#'));
            for line in kept {
                // Packets and bytes that a policy has seen.
                text += line.split(" [").next().unwrap_or(line);
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn unload(self, node: &Node) -> Result<()> {
        let tables = node.run(["nft", "list", "tables"])?;
        for table in tables
            .stdout
            .lines()
            .filter(|line| *line != "table inet weir")
        {
            let mut command = vec!["nft", "delete"];
            command.extend(table.split_whitespace());
            node.run(command)?;
        }
        if let Self::IptablesLegacy = self {
            let open = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
                        *nat\n:POSTROUTING ACCEPT\nCOMMIT\n";
            self.load(node, open)?;
        }
        Ok(())
    }
}

/// What doctor finds wrong with other programs' firewalls.
fn found(world: &World) -> Result<Vec<Finding>> {
    let output = world.relay.machine().type_in("agent doctor --json")?;
    let checks: Vec<Finding> = serde_json::from_str(&output.stdout)
        .with_context(|| format!("doctor said: {}", output.text()))?;
    let failed: Vec<_> = checks
        .into_iter()
        .filter(|check| check.outcome == "failed")
        .collect();
    ensure!(
        output.success() == failed.is_empty(),
        "{failed:#?} and {}",
        output.status
    );
    let others = failed.iter().find(|check| check.name != "other firewalls");
    ensure!(others.is_none(), "this is not in the way: {others:#?}");
    Ok(failed)
}

fn answer(world: &World, wait: Duration) -> Result<Option<String>> {
    world.alice.machine().ask_tcp(BANK, wait)
}

fn served(world: &World) -> Result<()> {
    wait_until("alice to be served", patient(SOON), || {
        let answer = answer(world, Duration::from_millis(500))?;
        Ok(answer.as_deref() == Some("203.0.113.7"))
    })
    .map(drop)
}

/// Everything that Weir does to a host, once.
fn live(world: &World) -> Result<()> {
    world.coordinator.set_policy(&policy(BOB))?;
    world.coordinator.set_policy(&policy(ALICE))?;
    world.relay.machine().must("agent down")?;
    world.relay.up("")?;
    world.relay.settled()?;
    // A session that one side has forgotten is renewed after 15 s, a new one at once.
    world.alice.machine().must("agent down")?;
    world.alice.up("")?;
    world.alice.settled().map(drop)
}

fn coexists(world: &World, foreign: &Foreign) -> Result<()> {
    let node = world.relay.machine().node();
    foreign.loader.load(node, foreign.ruleset)?;
    let before = foreign.loader.listing(node)?;
    live(world)?;
    let seen = answer(world, Duration::from_millis(700))?;
    ensure!(seen.is_none(), "alice was served as {seen:?}");
    let mut checks = found(world)?;
    let after = foreign.loader.listing(node)?;
    ensure!(before == after, "it was:\n{before}\nand is:\n{after}");
    ensure!(
        checks
            .iter()
            .any(|check| check.evidence.contains(foreign.found)),
        "doctor does not name \"{}\": {checks:#?}",
        foreign.found
    );
    for _ in 0..ROUNDS {
        for remedy in checks.iter().flat_map(|check| &check.remedies) {
            ensure!(remedy.on == "here", "{remedy:?}");
            world.relay.machine().must(&remedy.command)?;
        }
        checks = found(world)?;
        if checks.is_empty() {
            break;
        }
    }
    ensure!(checks.is_empty(), "no command mends it: {checks:#?}");
    served(world)?;
    // What is allowed there is still judged by the policy.
    let machine = world.alice.machine();
    let other = machine.ask_tcp("8.8.8.8:444", Duration::from_millis(300))?;
    ensure!(other.is_none(), "alice was served on another port");
    foreign.loader.unload(node)
}

#[test]
fn foreign_firewalls_stay_as_they_are_and_doctor_names_the_rule_and_the_remedy() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay", "alice"])?;
    world.relay.up("--advertise-routes=8.8.8.8")?;
    world.alice.up("")?;
    world.coordinator.approve("relay", "8.8.8.8/32")?;
    served(&world)?;
    let wrong = found(&world)?;
    ensure!(
        wrong.is_empty(),
        "doctor finds fault with a bare host: {wrong:#?}"
    );
    // Where each takes a minute, one of each kind has to do.
    let is_first = |at: usize, foreign: &Foreign| {
        let mut before = FOREIGN.iter().take(at);
        before.all(|other| other.loader != foreign.loader)
    };
    for (at, foreign) in FOREIGN.iter().enumerate() {
        if is_emulated() && !is_first(at, foreign) {
            continue;
        }
        if foreign.loader.is_there(world.relay.machine().node())? {
            coexists(&world, foreign).with_context(|| foreign.name)?;
        }
    }
    served(&world)?;
    world.network.lab.finish()
}

#[test]
fn doctor_works_without_a_daemon_and_says_so() -> Result<()> {
    let world = World::with_agents(&mut Quiet, &["relay"])?;
    let down = world.relay.machine().must("agent doctor")?;
    ensure!(down.stdout.contains("it is down"), "{}", down.text());
    let output = world
        .relay
        .machine()
        .type_in("agent doctor --socket=/run/weir/nobody.sock")?;
    ensure!(!output.success(), "{}", output.text());
    for words in ["does not run", "systemctl start weir-agent", "nft"] {
        ensure!(output.stdout.contains(words), "{words}: {}", output.text());
    }
    world.network.lab.finish()
}
