use crate::Policy;

/// One of everything that a text can say.
const TEXT: &str = r#"{
    "weir": {"denyRules": true},
    "groups": {"group:ops": ["bob@", "alice@example.com"], "group:\u0007": []},
    "tagOwners": {"tag:web": ["group:ops", "autogroup:admin"], "tag:relay": ["tag:web", "autogroup:member"]},
    "hosts": {"office": "10.20.0.0/24", "all": "::/0", "six": "fd00::7"},
    "ipsets": {"ipset:lab": ["10.1.0.0/16", "remove 10.1.2.0/24"], "ipset:none": []},
    "postures": {"posture:new": ["node:os in [linux, \"mac os\"]", "node:osVersion>=6.1"]},
    "defaultSrcPosture": ["posture:new"],
    "grants": [
        {"src": ["ipset:lab", "alice@example.com"], "dst": ["tag:web", "all", "fd00::1-fd00::5"],
         "ip": ["22", "tcp:80,443", "ip-in-ip:*", "200:*"], "app": {"example.com/a": [{"x": 1}], "example.com/b": null}},
        {"src": ["*"], "dst": ["8.8.8.8"], "ip": ["443"], "via": ["tag:relay", "tag:web"]},
        {"src": ["autogroup:member"], "dst": ["autogroup:self", "autogroup:internet"], "ip": ["*"]},
    ],
    "acls": [
        {"action": "deny", "src": ["user:*@example.com"], "dst": ["tag:web:22", "ipset:none:*"]},
        {"action": "accept", "src": ["autogroup:danger-all"], "dst": ["[fd00::]/64:1-80", "six:22", "office:*"], "proto": "udp"},
        {"action": "accept", "src": ["group:ops"], "dst": ["office:22"]},
        {"action": "accept", "src": ["group:ops"], "dst": ["office:23", "*:*"]},
    ],
    "autoApprovers": {"routes": {"10.0.0.1": ["tag:relay"], "10.0.0.1/32": ["bob@"]}, "exitNode": ["group:ops"]},
    "nodeAttrs": [{"target": ["tag:web", "office"], "attr": ["disable-ipv4", "funnel"]}],
    "tests": [
        {"src": "bob@", "proto": "tcp", "srcPostureAttrs": {"node:os": "linux", "node:tsVersion": "1"},
         "accept": ["six:22", "tag:web:443"], "deny": ["10.20.0.1:80"]},
        {"src": "nobody", "accept": ["tag:web:1"]},
    ],
    "ssh": [{"action": "check", "checkPeriod": "1h", "src": ["group:ops"], "dst": ["autogroup:self", "tag:web"], "users": ["root"]}],
    "sshTests": [{"src": "bob@", "dst": ["tag:web", "office", "six", "10.0.0.1"], "check": ["root"], "deny": ["\\\"x"]}],
}"#;

#[test]
fn the_canonical_text_says_everything_that_has_a_meaning() {
    let text = Policy::parse(TEXT).unwrap().to_hujson();
    insta::assert_snapshot!(text);
}

#[test]
fn the_policy_that_nobody_set_becomes_one_that_grants_nothing() {
    let text = Policy::empty().to_hujson();
    assert_eq!(text, "{\n    \"acls\": [],\n}\n");
    assert!(Policy::parse(&text).unwrap().rules.is_empty());
}

/// All that has a meaning, as a text; where it was written is not part of it.
fn meaning(policy: &Policy) -> String {
    let rules: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| crate::policy::Rule {
            origin: String::new(),
            ..rule.clone()
        })
        .collect();
    let tests: Vec<_> = policy
        .tests
        .iter()
        .map(|test| {
            let probes = test.probes.iter();
            let probes = probes.map(|probe| (probe.accept, &probe.target, probe.port));
            let probes = probes.collect::<Vec<_>>();
            let said = (&test.source, test.protocol, &test.posture, probes);
            test.problem.is_none().then_some(said)
        })
        .collect();
    let ssh_tests: Vec<_> = policy
        .ssh_tests
        .iter()
        .map(|test| {
            let said = (
                &test.source,
                &test.targets,
                &test.accept,
                &test.deny,
                &test.check,
            );
            test.problem.is_none().then_some(said)
        })
        .collect();
    format!(
        "{rules:#?} {tests:#?} {ssh_tests:#?} {:#?} {:#?} {:#?} {:#?}",
        policy.groups, policy.postures, policy.without_ipv4, policy.ssh
    )
}

#[test]
fn nothing_that_has_a_meaning_is_lost() {
    let policy = Policy::parse(TEXT).unwrap();
    let text = policy.to_hujson();
    let again = Policy::parse(&text).unwrap();
    assert_eq!(meaning(&again), meaning(&policy));
    assert_eq!(again.to_hujson(), text);
}
