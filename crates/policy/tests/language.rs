//! What the parts of the language mean beyond plain rules: devices of one user, steering,
//! sets, ranges, conditions on devices, approvals, and entries that deny.

#![expect(
    clippy::unwrap_used,
    reason = "a test's own helpers fail like the test does"
)]

use std::{collections::BTreeSet, fmt::Write as _};
use weir_overlay::{NodeId, UserId};
use weir_policy::{CompiledPolicy, Directory, Policy, PolicyNode, Posture, User, compile, render};

const LAPTOP: NodeId = NodeId(1);
const PHONE: NodeId = NodeId(2);
const BOB: NodeId = NodeId(3);
const SERVER: NodeId = NodeId(4);
const WEST: NodeId = NodeId(5);
const EAST: NodeId = NodeId(6);
const EXIT: NodeId = NodeId(7);

/// alice with two devices, bob with one, a server, two relays that serve one public address, and
/// an exit.
fn directory() -> Directory {
    let user = |id, name: &str| User {
        id: UserId(id),
        name: name.to_owned(),
        email: Some(format!("{name}@example.com")),
    };
    let node = |id: NodeId, user: Option<u64>, tags: &[&str], routes: &[&str], os: &str| {
        let addresses = [format!("100.64.0.{id}"), format!("fd77:6569:7200::{id}")];
        let node = PolicyNode {
            user: user.map(UserId),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            approved_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            posture: Posture {
                os: Some(os.to_owned()),
                os_version: Some("6.1.0".to_owned()),
                weir_version: Some("0.1.0".to_owned()),
            },
        };
        (id, node)
    };
    let relays = &["8.8.8.8/32", "10.20.0.0/24"];
    Directory {
        users: vec![user(1, "alice"), user(2, "bob")],
        nodes: [
            node(LAPTOP, Some(1), &[], &[], "linux"),
            node(PHONE, Some(1), &[], &[], "android"),
            node(BOB, Some(2), &[], &[], "linux"),
            node(SERVER, None, &["tag:server"], &[], "linux"),
            node(WEST, None, &["tag:relay", "tag:west"], relays, "linux"),
            node(
                EAST,
                None,
                &["tag:relay", "tag:east"],
                &relays[..1],
                "linux",
            ),
            node(EXIT, None, &["tag:exit"], &["0.0.0.0/0"], "linux"),
        ]
        .into(),
        ..Directory::default()
    }
}

/// A policy with these sections beside the names.
fn policy(sections: &str) -> Policy {
    let text = format!(
        r#"{{
    "groups": {{"group:staff": ["alice@example.com", "bob@example.com"]}},
    "tagOwners": {{"tag:server": [], "tag:relay": [], "tag:west": [], "tag:east": [], "tag:exit": []}},
    "hosts": {{"office": "10.20.0.0/24"}},
{sections}
}}"#
    );
    Policy::parse(&text).unwrap_or_else(|found| panic!("{}", render(&found, &text, "")))
}

fn compiled(sections: &str) -> CompiledPolicy {
    compile(&policy(sections), &directory())
}

/// The filters of all nodes that have one.
fn filters(compiled: &CompiledPolicy) -> String {
    let mut text = String::new();
    for node in (1..=7).map(NodeId) {
        for grant in compiled.filter(node) {
            let from = grant.sources.ranges();
            for to in &grant.destinations {
                let (ports, to) = (to.ports, to.addresses.ranges());
                let (first, last) = (ports.first, ports.last);
                writeln!(text, "{node}: {from:?} > {to:?}:{first}-{last}").unwrap();
            }
        }
    }
    text
}

fn peers(compiled: &CompiledPolicy, node: NodeId) -> Vec<u64> {
    compiled.peers(node).iter().map(|peer| peer.0).collect()
}

#[test]
fn own_devices_are_those_of_one_user() {
    let own = compiled(
        r#""grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"]}]"#,
    );
    insta::assert_snapshot!(filters(&own), @"
    1: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [100.64.0.1, fd77:6569:7200::1]:22-22
    2: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [100.64.0.2, fd77:6569:7200::2]:22-22
    3: [100.64.0.3, fd77:6569:7200::3] > [100.64.0.3, fd77:6569:7200::3]:22-22
    ");
    assert_eq!(peers(&own, LAPTOP), [2]);
    assert!(peers(&own, BOB).is_empty() && peers(&own, SERVER).is_empty());
    // Only the devices that may send are sources.
    let conditional = compiled(
        r#""postures": {"posture:desk": ["node:os == 'linux'"]},
           "acls": [{"action": "accept", "src": ["alice@example.com"], "dst": ["autogroup:self:*"],
                     "srcPosture": ["posture:desk"]}]"#,
    );
    insta::assert_snapshot!(filters(&conditional), @"
    1: [100.64.0.1, fd77:6569:7200::1] > [100.64.0.1, fd77:6569:7200::1]:0-65535
    2: [100.64.0.1, fd77:6569:7200::1] > [100.64.0.2, fd77:6569:7200::2]:0-65535
    ");
}

#[test]
fn via_leads_to_no_device() {
    let policy = policy(
        r#""grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self", "tag:server", "*"],
                       "ip": ["*"], "via": ["tag:east"]}]"#,
    );
    let said: Vec<_> = policy
        .own_warnings()
        .iter()
        .map(|one| &one.message)
        .collect();
    assert_eq!(
        said,
        [
            "\"autogroup:self\": via leads to no device: it allows nothing",
            "\"tag:server\": via leads to no device: it allows nothing",
            "\"*\": via leads to no device: it allows nothing",
        ]
    );
    let compiled = compile(&policy, &directory());
    assert_eq!(filters(&compiled), "");
    assert!((1..=7).all(|id| peers(&compiled, NodeId(id)).is_empty()));
}

#[test]
fn older_spellings_mean_the_same() {
    let rows = |sections: &str| {
        let compiled = compiled(sections);
        (filters(&compiled), peers(&compiled, SERVER))
    };
    let today = rows(
        r#""acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server:22"], "proto": "ipv6-icmp"}],
           "tests": [{"src": "bob@example.com", "deny": ["tag:server:22"]}]"#,
    );
    let older = rows(
        r#""ACLs": [{"Action": "accept", "Users": ["autogroup:members"], "Ports": ["tag:server:22"], "Proto": "icmpv6"}],
           "Tests": [{"User": "bob@example.com", "Deny": ["tag:server:22"]}]"#,
    );
    assert_eq!(older, today);
    // What is null is not there.
    let with_nulls = rows(
        r#""acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server:22"], "proto": "58", "srcPosture": null},
                    {"action": "accept", "src": null, "dst": ["*:*"], "proto": null},
                    {"action": "accept", "src": ["*"]}],
           "grants": [{"src": ["*"], "dst": null, "ip": ["*"], "app": null, "via": null}],
           "autoApprovers": {"routes": {"10.0.0.0/8": null}, "exitNode": null}, "ssh": null, "tests": null"#,
    );
    assert_eq!(with_nulls, today);
}

#[test]
fn names_of_addresses_can_be_asked_for() {
    let policy = policy(r#""acls": [], "ipsets": {"ipset:a": ["office", "remove 10.20.0.0/25"]}"#);
    let asked = |name: &str| {
        policy
            .addresses_of(name)
            .map(|set| format!("{:?}", set.ranges()))
    };
    assert_eq!(asked("office").as_deref(), Some("[10.20.0.0/24]"));
    assert_eq!(asked("host:office"), asked("office"));
    assert_eq!(asked("ipset:a").as_deref(), Some("[10.20.0.128/25]"));
    assert_eq!(asked("nothing"), None);
}

#[test]
fn via_steers_to_the_nodes_of_a_tag() {
    let steered = compiled(
        r#""grants": [{"src": ["alice@example.com"], "dst": ["8.8.8.8"], "ip": ["tcp:443"], "via": ["tag:east"]},
                      {"src": ["bob@example.com"], "dst": ["8.8.8.8"], "ip": ["tcp:443"]},
                      {"src": ["bob@example.com"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:relay"]}]"#,
    );
    insta::assert_snapshot!(filters(&steered), @"
    5: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:443-443
    6: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [8.8.8.8]:443-443
    6: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:443-443
    7: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:443-443
    ");
    let route = "8.8.8.8/32".parse().unwrap();
    let alice = steered.ways_into(LAPTOP, &route);
    assert!(!alice.anyone);
    assert_eq!(alice.through, [EAST].into());
    assert!(steered.ways_into(BOB, &route).anyone);
    assert_eq!(peers(&steered, LAPTOP), [6]);
    // The exit has none of the tags: nobody is steered to it.
    assert!(!steered.may_send_into(BOB, &"0.0.0.0/0".parse().unwrap()));
}

#[test]
fn sets_add_remove_and_nest() {
    let sets = compiled(
        r#""ipsets": {
               "ipset:lab": ["add 10.20.0.0/28", "remove 10.20.0.4-10.20.0.5", "8.8.8.8"],
               "ipset:all": ["ipset:lab", "host:office", "remove ipset:few"],
               "ipset:few": ["10.20.0.128/25"],
           },
           "acls": [{"action": "accept", "src": ["bob@example.com"], "dst": ["ipset:lab:80"]},
                    {"action": "accept", "src": ["ipset:few"], "dst": ["tag:server:22"]},
                    {"action": "accept", "src": ["alice@example.com"], "dst": ["ipset:all:443"]}]"#,
    );
    insta::assert_snapshot!(filters(&sets), @"
    4: [10.20.0.128/25] > [100.64.0.4, fd77:6569:7200::4]:22-22
    5: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8, 10.20.0.0/30, 10.20.0.6-10.20.0.15]:80-80
    5: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [8.8.8.8, 10.20.0.0/25]:443-443
    6: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:80-80
    6: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [8.8.8.8]:443-443
    7: [100.64.0.3, fd77:6569:7200::3] > [8.8.8.8]:80-80
    7: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [8.8.8.8]:443-443
    ");
}

#[test]
fn ranges_and_domains_select() {
    let ranges = compiled(
        r#""grants": [{"src": ["100.64.0.1-100.64.0.3"], "dst": ["10.20.0.7-10.20.0.9"], "ip": ["443"]},
                      {"src": ["user:*@Example.com"], "dst": ["tag:server"], "ip": ["udp:53"]}]"#,
    );
    insta::assert_snapshot!(filters(&ranges), @"
    4: [100.64.0.1-100.64.0.3, fd77:6569:7200::1-fd77:6569:7200::3] > [100.64.0.4, fd77:6569:7200::4]:53-53
    5: [100.64.0.1-100.64.0.3] > [10.20.0.7-10.20.0.9]:443-443
    ");
    let stranger =
        policy(r#""grants": [{"src": ["user:*@example.org"], "dst": ["*"], "ip": ["*"]}]"#);
    let found = stranger.verify(&directory()).unwrap_err();
    assert!(
        found[0]
            .message
            .starts_with("example.org is not associated")
    );
}

#[test]
fn conditions_hold_for_what_an_agent_reports() {
    let text = |condition: &str| {
        format!(
            r#""postures": {{"posture:new": ["{condition}"], "posture:server": ["node:os IN ['beos']"]}},
               "defaultSrcPosture": ["posture:new", "posture:server"],
               "acls": [{{"action": "accept", "src": ["*"], "dst": ["tag:server:22"]}}]"#
        )
    };
    let allowed = |condition: &str| {
        let filter = compiled(&text(condition)).filter(SERVER);
        let may = |id: &u64| {
            let address = format!("100.64.0.{id}").parse().unwrap();
            filter.iter().any(|grant| grant.sources.contains(address))
        };
        (1..=7).filter(may).collect::<Vec<u64>>()
    };
    assert_eq!(allowed("node:os == 'android'"), [2]);
    assert_eq!(allowed("node:osVersion >= '6.0'"), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(allowed("node:weirVersion < '0.1'"), [0u64; 0]);
    assert_eq!(allowed("custom:tier == 'gold'"), [0u64; 0]);
    // Nothing that is behind a relay reports anything.
    let office = "10.20.0.7".parse().unwrap();
    let filter = compiled(&text("node:os != 'beos'")).filter(SERVER);
    assert!(!filter[0].sources.contains(office));
}

#[test]
fn routes_are_approved_by_those_who_are_named() {
    let policy = policy(
        r#""acls": [],
           "autoApprovers": {
               "routes": {"10.0.0.0/8": ["group:staff"], "8.8.8.0/24": ["tag:relay", "bob@example.com"],
                          "0.0.0.0/0": ["tag:exit"]},
               "exitNode": ["tag:exit"],
           }"#,
    );
    let directory = directory();
    let approves = |node: NodeId, route: &str| {
        let node = &directory.nodes[&node];
        let owner = directory
            .users
            .iter()
            .find(|user| Some(user.id) == node.user);
        policy.approves(&route.parse().unwrap(), node, owner)
    };
    assert!(approves(LAPTOP, "10.20.0.0/24") && approves(BOB, "10.0.0.0/8"));
    assert!(!approves(SERVER, "10.20.0.0/24"));
    assert!(approves(WEST, "8.8.8.8/32") && approves(BOB, "8.8.8.8/32"));
    assert!(!approves(LAPTOP, "8.8.8.8/32") && !approves(WEST, "8.8.0.0/16"));
    assert!(approves(EXIT, "0.0.0.0/0") && approves(EXIT, "::/0"));
    assert!(!approves(WEST, "0.0.0.0/0"));
}

#[test]
fn denying_the_internet_leaves_what_an_exit_serves_by_a_route_of_its_own() {
    let mut directory = directory();
    let exit = directory.nodes.get_mut(&EXIT).unwrap();
    exit.approved_routes.insert("8.8.8.8/32".parse().unwrap());
    let policy = policy(
        r#""weir": {"denyRules": true}, "acls": [
            {"action": "deny", "src": ["bob@example.com"], "dst": ["autogroup:internet:*"]},
            {"action": "accept", "src": ["bob@example.com"], "dst": ["8.8.8.0/24:53"]}]"#,
    );
    let compiled = compile(&policy, &directory);
    let filter = compiled.filter(EXIT);
    let allowed = |address: &str| {
        let to = filter.iter().flat_map(|grant| &grant.destinations);
        let address = address.parse().unwrap();
        to.into_iter().any(|to| to.addresses.contains(address))
    };
    assert!(allowed("8.8.8.8") && !allowed("8.8.8.9"));
    let route = "8.8.8.8/32".parse().unwrap();
    assert!(compiled.may_send_into(BOB, &route));
    assert!(compiled.peers(BOB).contains(&EXIT));
}

#[test]
fn entries_that_deny_take_from_later_ones() {
    let denied = |entries: &str| {
        compiled(&format!(
            r#""weir": {{"denyRules": true}}, "acls": [{entries}]"#
        ))
    };
    let all =
        r#"{"action": "accept", "src": ["group:staff"], "dst": ["tag:server:*", "office:*"]}"#;
    let no_login = r#"{"action": "deny", "src": ["bob@example.com"], "dst": ["tag:server:22"], "proto": "tcp"}"#;
    let no_lab = r#"{"action": "deny", "src": ["*"], "dst": ["10.20.0.0/28:*"]}"#;
    insta::assert_snapshot!(filters(&denied(&format!("{no_login},{no_lab},{all}"))), @"
    4: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [100.64.0.4, fd77:6569:7200::4]:0-65535
    4: [100.64.0.3, fd77:6569:7200::3] > [100.64.0.4, fd77:6569:7200::4]:0-65535
    4: [100.64.0.3, fd77:6569:7200::3] > [100.64.0.4, fd77:6569:7200::4]:0-21
    4: [100.64.0.3, fd77:6569:7200::3] > [100.64.0.4, fd77:6569:7200::4]:23-65535
    5: [100.64.0.1-100.64.0.2, fd77:6569:7200::1-fd77:6569:7200::2] > [10.20.0.16-10.20.0.255]:0-65535
    5: [100.64.0.3, fd77:6569:7200::3] > [10.20.0.16-10.20.0.255]:0-65535
    5: [100.64.0.3, fd77:6569:7200::3] > [10.20.0.16-10.20.0.255]:0-65535
    ");
    // The parts of a rule have ids of their own.
    let filter = denied(&format!("{no_login},{all}")).filter(SERVER);
    let ids: BTreeSet<_> = filter.iter().map(|grant| grant.id).collect();
    assert_eq!(ids.len(), filter.len());
    // What comes before is not touched, and what is denied wholly is no way to anywhere.
    let first = denied(&format!("{all},{no_lab}"));
    assert_eq!(filters(&first), filters(&denied(all)));
    let nothing = denied(&format!(
        r#"{{"action": "deny", "src": ["bob@example.com"], "dst": ["*:*"]}},{all}"#
    ));
    assert!(peers(&nothing, BOB).is_empty());
    assert!(!nothing.may_send_into(BOB, &"10.20.0.0/24".parse().unwrap()));
    assert!(nothing.may_send_into(LAPTOP, &"10.20.0.0/24".parse().unwrap()));
}

#[test]
fn nodes_lose_their_ipv4_address() {
    let without = compiled(
        r#""acls": [], "nodeAttrs": [{"target": ["tag:relay", "bob@example.com"], "attr": ["disable-ipv4"]}]"#,
    );
    let lost: Vec<u64> = (1..=7)
        .filter(|id| without.is_without_ipv4(NodeId(*id)))
        .collect();
    assert_eq!(lost, [3, 5, 6]);
    let everyone = compiled(r#""acls": [], "disableIPv4": true"#);
    assert!((1..=7).all(|id| everyone.is_without_ipv4(NodeId(id))));
}

/// What `verify` says of a test beside one rule.
fn failures(rule: &str, test: &str) -> Vec<String> {
    let policy = policy(&format!(
        r#""postures": {{"posture:desk": ["node:os == 'linux'"]}}, "acls": [{rule}], "tests": [{test}]"#
    ));
    let found = policy.verify(&directory()).err().unwrap_or_default();
    assert!(found.iter().all(|one| one.message == "test(s) failed"));
    found.into_iter().filter_map(|one| one.help).collect()
}

#[test]
fn tests_say_what_fails_and_why() {
    let web = r#"{"action": "accept", "src": ["group:staff"], "dst": ["tag:server:443"], "proto": "tcp"}"#;
    let good = r#"{"src": "alice@example.com", "accept": ["tag:server:443"], "deny": ["tag:server:22", "office:443"]}"#;
    // A prefix is no destination of a test.
    assert_eq!(
        failures(web, good),
        [r#""office:443": office is more than one address"#]
    );
    assert_eq!(
        failures(web, &good.replace("office", "10.20.0.7")),
        Vec::<String>::new()
    );
    for (test, why) in [
        (
            r#"{"src": "tag:exit", "accept": ["tag:server:443"]}"#,
            r#""tag:server:443" must be allowed, but nothing allows it from "tag:exit" (100.64.0.7)"#,
        ),
        (
            r#"{"src": "bob@example.com", "deny": ["tag:server:443"]}"#,
            r#""tag:server:443" must not be allowed, but acls[0], line 5 allows it from "bob@example.com" (100.64.0.3)"#,
        ),
        (
            r#"{"src": "bob@example.com", "proto": "udp", "accept": ["tag:server:443"]}"#,
            r#""tag:server:443" must be allowed, but nothing allows it from "bob@example.com" (100.64.0.3)"#,
        ),
        (
            r#"{"src": "10.9.8.7", "accept": ["tag:server:443"]}"#,
            r#""tag:server:443" must be allowed, but nothing allows it from "10.9.8.7""#,
        ),
        (
            r#"{"src": "carol@example.com", "accept": ["tag:server:443"]}"#,
            "no node is meant by this src",
        ),
        (
            r#"{"src": "bob@example.com"}"#,
            "the test has neither accept nor deny",
        ),
    ] {
        assert_eq!(failures(web, test), [why], "{test}");
    }
}

#[test]
fn a_test_says_what_its_device_reports() {
    let rule = r#"{"action": "accept", "src": ["bob@example.com"], "dst": ["tag:server:22"], "srcPosture": ["posture:desk"]}"#;
    let test = |attributes: &str| {
        format!(
            r#"{{"src": "bob@example.com", "accept": ["tag:server:22"], "srcPostureAttrs": {{{attributes}}}}}"#
        )
    };
    assert!(failures(rule, &test(r#""node:os": "linux""#)).is_empty());
    assert_eq!(failures(rule, &test(r#""node:os": "beos""#)).len(), 1);
    assert_eq!(failures(rule, &test("")).len(), 1);
}

#[test]
fn logins_are_tested_by_device_and_user() {
    let failed = |rule: &str, test: &str| {
        let policy = policy(&format!(
            r#""acls": [], "ssh": [{rule}], "sshTests": [{test}]"#
        ));
        policy.verify(&directory()).is_err()
    };
    let own = r#"{"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot", "localpart:*@example.com"]}"#;
    for (test, fails) in [
        (
            r#"{"src": "alice@example.com", "dst": ["alice@example.com"], "check": ["alice"], "deny": ["root"]}"#,
            false,
        ),
        (
            r#"{"src": "alice@example.com", "dst": ["autogroup:self"], "accept": ["alice"]}"#,
            false,
        ),
        (
            r#"{"src": "alice@example.com", "dst": ["bob@example.com"], "accept": ["alice"]}"#,
            true,
        ),
        (
            r#"{"src": "tag:server", "dst": ["bob@example.com"], "deny": ["bob"]}"#,
            false,
        ),
        (r#"{"src": "tag:server", "dst": ["bob@example.com"]}"#, true),
    ] {
        assert_eq!(failed(own, test), fails, "{test}");
    }
}

/// Sections of a policy, each alone and in its own words.
const SECTIONS: [&str; 8] = [
    r#""acls": [{"action": "accept", "src": ["group:staff"], "dst": ["office:80,443", "*:22"]}]"#,
    r#""grants": [{"src": ["*"], "dst": ["8.8.8.8"], "ip": ["tcp:443"], "via": ["tag:east"]}]"#,
    r#""ipsets": {"ipset:a": ["office", "remove 10.20.0.1"]}"#,
    r#""postures": {"posture:a": ["node:os == 'linux'"]}"#,
    r#""autoApprovers": {"exitNode": ["tag:exit"]}"#,
    r#""tests": [{"src": "alice@example.com", "accept": ["10.20.0.7:80"]}]"#,
    r#""nodeAttrs": [{"target": ["tag:exit"], "attr": ["disable-ipv4"]}]"#,
    r#""weir": {"denyRules": true}"#,
];

/// All that a compiled policy answers about the test's network, but for lines of the text.
fn answers(policy: &Policy) -> String {
    let compiled = compile(policy, &directory());
    let ids: Vec<_> = compiled.grants().map(|(id, _)| id).collect();
    let nodes = || (1..=7).map(NodeId);
    let rows: Vec<_> = nodes().map(|node| compiled.rows(node)).collect();
    let peers: Vec<_> = nodes().map(|node| compiled.peers(node)).collect();
    let v6: Vec<_> = nodes().map(|node| compiled.is_without_ipv4(node)).collect();
    let verdict = policy.verify(&directory()).is_ok();
    format!(
        "{ids:?} {rows:?} {peers:?} {v6:?} {verdict} {}",
        filters(&compiled)
    )
}

proptest::proptest! {
    #[test]
    fn the_layout_of_a_policy_means_nothing(
        sections in proptest::sample::subsequence(SECTIONS.to_vec(), 1..=SECTIONS.len()),
        turned in proptest::prelude::any::<bool>(),
    ) {
        let plain = policy(&sections.join(",\n"));
        let mut sections = sections;
        if turned {
            sections.reverse();
        }
        let text = sections
            .iter()
            .map(|section| section.replace(", ", " /* and */ ,\n").replace(']', ",]").replace("[,]", "[]"))
            .collect::<Vec<_>>()
            .join(", // next\n");
        proptest::prop_assert_eq!(answers(&policy(&format!("{text},"))), answers(&plain));
    }
}
