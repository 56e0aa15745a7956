//! What is said about policies that are wrong.

use weir_policy::{Diagnostic, Directory, Policy, Severity, User, render};

fn refused(text: &str) -> Vec<Diagnostic> {
    match Policy::parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(found) => found,
    }
}

/// The sections around one entry of `acls`.
fn with_entry(entry: &str) -> String {
    format!(
        r#"{{
    "groups": {{"group:staff": ["alice@example.com"]}},
    "tagOwners": {{"tag:server": ["group:staff"]}},
    "hosts": {{"office": "10.20.0.0/24"}},
    "acls": [{entry}],
}}"#
    )
}

fn message_for(entry: &str) -> String {
    match refused(&with_entry(entry)).as_slice() {
        [only] => only.message.clone(),
        several => panic!("{several:?}"),
    }
}

fn rule(src: &str, dst: &str) -> String {
    format!(r#"{{"action": "accept", "src": ["{src}"], "dst": ["{dst}"]}}"#)
}

#[test]
fn messages_of_the_language() {
    for (src, dst, message) in [
        ("tag:x", "*:*", r#"src=tag not found: "tag:x""#),
        ("*", "tag:x:22", r#"dst="tag:x": tag not found: "tag:x""#),
        (
            "autogroup:self",
            "*:*",
            r#""autogroup:self" not valid on the src side of a rule"#,
        ),
        (
            "autogroup:internet",
            "*:*",
            r#""autogroup:internet" not valid on the src side of a rule"#,
        ),
        (
            "*",
            "autogroup:danger-all:*",
            "cannot use autogroup:danger-all as a dst",
        ),
        (
            "*",
            "tag:server:ssh",
            r#"dst="tag:server:ssh": port range "ssh": invalid first integer"#,
        ),
        (
            "*",
            "autogroup:self",
            r#"dst="autogroup:self": port range "self": invalid first integer"#,
        ),
        (
            "*",
            "office:0",
            r#"dst="office:0": port range "0": first port must be >0, or use '*' for wildcard"#,
        ),
        ("group:x", "*:*", r#"src=group not found: "group:x""#),
        ("*", "ofice:22", r#"dst="ofice": host not found: "ofice""#),
        (
            "10.20.0.5/24",
            "*:*",
            "src=10.20.0.5/24 has host bits set; the prefix is 10.20.0.0/24",
        ),
        (
            "autogroup:admin",
            "*:*",
            r#"src="autogroup:admin" is not supported by this version"#,
        ),
        (
            "tag:server",
            "autogroup:self:22",
            "autogroup:self can only be used with users, groups, or supported autogroups",
        ),
        (
            "user:alice@example.com",
            "*:*",
            r#"src="user:alice@example.com" is not a selector"#,
        ),
        (
            "autogroup:membrs",
            "*:*",
            r#"src=autogroup not found: "autogroup:membrs""#,
        ),
        ("*", "*", r#"dst="*": there is no host before the ports"#),
        (
            "*",
            "office",
            r#"dst="office": port range "office": invalid first integer"#,
        ),
    ] {
        assert_eq!(message_for(&rule(src, dst)), message);
    }
    assert_eq!(
        message_for(r#"{"action": "deny", "src": ["*"], "dst": ["*:*"]}"#),
        r#"action="deny" is not supported"#
    );
    assert_eq!(
        message_for(r#"{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "tpc"}"#),
        r#"proto="tpc" is not a protocol"#
    );
}

/// Entries of sections other than `acls`, each with what the language says of it.
#[test]
fn messages_about_other_sections() {
    for (section, message) in [
        (
            r#""grants": [{"src": ["*"], "dst": ["*"]}]"#,
            "ip and app can not both be empty",
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["udp"]}]"#,
            r#"port range "udp": invalid first integer"#,
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "via": ["alice@"]}]"#,
            "via can only be a tag",
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "via": ["tag:sever"]}]"#,
            r#"tag "tag:sever" not found"#,
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}]"#,
            "autogroup:self can only be used with users, groups, or supported autogroups",
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["::/0"], "ip": ["*"]}]"#,
            r#"dst "::/0": to allow all IP addresses, use "*" or "autogroup:internet""#,
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["autogroup:internet"], "app": {"example.com/a": []}}]"#,
            "cannot use app grants with autogroup:internet",
        ),
        (
            r#""grants": [{"src": ["*"], "dst": ["*"], "app": {"https://example.com/a": []}}]"#,
            "capability name must have the form {domain}/{path}",
        ),
        (
            r#""ipsets": {"ipset:a": ["ipset:b"], "ipset:b": ["ipset:a"]}"#,
            r#"ipsets["ipset:b"]: "ipset:a" is made of "ipset:b" itself"#,
        ),
        (
            r#""postures": {"posture:a": ["node:os"]}"#,
            r#"postures["posture:a"]: "node:os": there is no operator"#,
        ),
        (
            r#""autoApprovers": {"routes": {"10.0.0.0/8": ["tag:sever"]}}"#,
            r#"autoApprovers: tag not found: "tag:sever""#,
        ),
        (
            r#""ssh": [{"action": "Accept", "users": ["root"]}]"#,
            r#""Accept" is not a valid action"#,
        ),
        (
            r#""ssh": [{"action": "check", "users": ["root"], "checkPeriod": "169h"}]"#,
            "checkPeriod 169h0m0s is above the max (168h)",
        ),
        (
            r#""ssh": [{"action": "check", "users": ["root"], "checkPeriod": "-250ms"}]"#,
            "checkPeriod -250ms must be a positive duration",
        ),
        (
            r#""nodeAttrs": [{"target": ["nobody"], "attr": ["x"]}]"#,
            r#""nobody": invalid address"#,
        ),
        (
            r#""derpMap": {"Regions": {"900": {"RegionID": 901}}}"#,
            r#"derpMap.Regions["900"].RegionID is another region"#,
        ),
        (
            r#""weir": {"denyRule": true}"#,
            r#"unknown field "denyRule" in weir"#,
        ),
    ] {
        let text = format!(
            r#"{{"acls": [], "tagOwners": {{"tag:server": []}},
               {section}}}"#
        );
        let found = refused(&text);
        let errors: Vec<_> = found
            .iter()
            .filter(|one| one.severity == Severity::Error)
            .collect();
        assert_eq!(errors[0].message, message);
        assert_eq!((errors.len(), errors[0].line), (1, 2), "{errors:?}");
    }
}

#[test]
fn an_entry_denies_only_where_the_file_asks_for_it() {
    let text = |weir: &str, dst: &str| {
        format!(
            r#"{{{weir} "acls": [{{"action": "deny", "src": ["autogroup:member"], "dst": ["{dst}"]}}]}}"#
        )
    };
    let found = refused(&text("", "*:*"));
    assert_eq!(found[0].message, r#"action="deny" is not supported"#);
    assert!(found[0].help.as_ref().unwrap().contains("denyRules"));
    let asked = r#""weir": {"denyRules": true},"#;
    assert!(Policy::parse(&text(asked, "*:*")).is_ok());
    assert!(
        refused(&text(asked, "autogroup:self:*"))[0]
            .message
            .starts_with("an entry that denies")
    );
}

#[test]
fn messages_about_names() {
    for (text, message) in [
        (
            r#"{"acls": [], "groups": {"group:a": [], "group:b": ["group:a"]}}"#,
            r#"groups["group:b"]: "group:a": group members cannot be recursive"#,
        ),
        (
            r#"{"acls": [], "groups": {"staff": []}}"#,
            r#"groups["staff"]: group names must start with "group:""#,
        ),
        (
            r#"{"acls": [], "groups": {"group:a": ["alice"]}}"#,
            r#"groups["group:a"]: "alice": group members must be users"#,
        ),
        (
            r#"{"acls": [], "tagOwners": {"tag:1a": []}}"#,
            r#"tagOwners["tag:1a"]: tag names must start with a letter, after 'tag:'"#,
        ),
        (
            r#"{"acls": [], "tagOwners": {"tag:a_b": []}}"#,
            r#"tagOwners["tag:a_b"]: tag names can only contain numbers, letters, or dashes"#,
        ),
        (
            r#"{"acls": [], "tagOwners": {"tag:": []}}"#,
            r#"tagOwners["tag:"]: tag names must not be empty"#,
        ),
        (
            r#"{"acls": [], "tagOwners": {"server": []}}"#,
            r#"tagOwners["server"]: tags must start with 'tag:'"#,
        ),
        (
            r#"{"acls": [], "tagOwners": {"tag:a": ["tag:b"]}}"#,
            r#"tagOwners["tag:a"]: tag not found: "tag:b""#,
        ),
        (
            r#"{"acls": [], "hosts": {"office": "10.20.0.5/24"}}"#,
            r#"hosts["office"]: 10.20.0.5/24 has host bits set; the prefix is 10.20.0.0/24"#,
        ),
        (r#"{"acls": null}"#, "acls must be a list, not null"),
        (
            r#"{"acls": [], "ACLs": []}"#,
            r#""ACLs" is "acls", which is here already"#,
        ),
        (
            r#"{"acls": [{"action": "accept", "src": [], "users": [], "dst": []}]}"#,
            r#""users" is "src", which is here already"#,
        ),
        (
            r#"{"acls": [], "hosts": {"a:b": "10.20.0.5"}}"#,
            r#"hosts["a:b"]: not a name"#,
        ),
    ] {
        let mut found = refused(text);
        found.retain(|one| one.severity == Severity::Error);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].message, message);
    }
}

#[test]
fn a_policy_without_rules_allows_everything_and_says_so() {
    for text in ["{}", r#"{"groups": {}}"#] {
        let policy = Policy::parse(text).unwrap();
        let warnings = policy.warnings(&Directory::default());
        assert!(warnings[0].message.ends_with("so everything is allowed"));
    }
    assert!(refused("[]")[0].message.contains("must be an object"));
    for text in [r#"{"acls": []}"#, r#"{"grants": []}"#] {
        assert!(
            Policy::parse(text)
                .unwrap()
                .warnings(&Directory::default())
                .is_empty()
        );
    }
}

#[test]
fn several_problems_are_drawn_at_once() {
    let text = r#"{
    "gruops": {"group:finance": ["alice@example.com"]},
    "hosts": {"office": "10.20.0.0/24"},
    // who may do what
    "acls": [
        {"action": "accept", "src": ["group:finance"], "dst": ["offise:443", "8.8.8.8"]},
        {"action": "accept", "source": ["*"], "dst": ["*:*"]},
    ],
}"#;
    insta::assert_snapshot!(render(&refused(text), text, "policy.hujson"), @r#"
    error: unknown section "gruops"
     --> policy.hujson:2:5
      |
    2 |     "gruops": {"group:finance": ["alice@example.com"]},
      |     ^^^^^^^^
      |
      = help: did you mean "groups"?

    error: src=group not found: "group:finance"
     --> policy.hujson:6:38
      |
    6 |         {"action": "accept", "src": ["group:finance"], "dst": ["offise:443", "8.8.8.8"]},
      |                                      ^^^^^^^^^^^^^^^
      |
      = help: add "group:finance" to groups

    error: dst="offise": host not found: "offise"
     --> policy.hujson:6:64
      |
    6 |         {"action": "accept", "src": ["group:finance"], "dst": ["offise:443", "8.8.8.8"]},
      |                                                                ^^^^^^^^^^^^
      |
      = help: did you mean "office"?

    error: dst="8.8.8.8": port range "8.8.8.8": invalid first integer
     --> policy.hujson:6:78
      |
    6 |         {"action": "accept", "src": ["group:finance"], "dst": ["offise:443", "8.8.8.8"]},
      |                                                                              ^^^^^^^^^
      |
      = help: write "8.8.8.8:443" for a port, "8.8.8.8:*" for all of them

    warning: acls[1] has no "src": it allows nothing
     --> policy.hujson:7:9
      |
    7 |         {"action": "accept", "source": ["*"], "dst": ["*:*"]},
      |         ^

    error: unknown field "source" in acls[1]
     --> policy.hujson:7:30
      |
    7 |         {"action": "accept", "source": ["*"], "dst": ["*:*"]},
      |                              ^^^^^^^^
      |
      = help: write "src"
    "#);
}

#[test]
fn each_misspelling_has_its_nearest_name() {
    for (what, entry, meant) in [
        ("section", r#""autoAprovers": {}"#, "autoApprovers"),
        (
            "field of acls",
            r#""acls": [{"action": "accept", "scr": [], "dst": []}]"#,
            "src",
        ),
        (
            "field of grants",
            r#""grants": [{"src": [], "dst": [], "ip": ["*"], "vai": []}]"#,
            "via",
        ),
        (
            "field of tests",
            r#""tests": [{"src": "alice@", "acept": []}]"#,
            "accept",
        ),
        (
            "field of ssh",
            r#""ssh": [{"action": "accept", "users": ["root"], "acceptEnvs": []}]"#,
            "acceptEnv",
        ),
        (
            "field of approvers",
            r#""autoApprovers": {"exitNodes": []}"#,
            "exitNode",
        ),
        (
            "field of weir",
            r#""weir": {"denyRule": true}"#,
            "denyRules",
        ),
        (
            "autogroup",
            r#""grants": [{"src": ["autogroup:membr"], "dst": ["*"], "ip": ["*"]}]"#,
            "autogroup:member",
        ),
        (
            "group",
            r#""grants": [{"src": ["group:stuff"], "dst": ["*"], "ip": ["*"]}]"#,
            "group:staff",
        ),
        (
            "tag",
            r#""grants": [{"src": ["*"], "dst": ["tag:sever"], "ip": ["*"]}]"#,
            "tag:server",
        ),
        (
            "host",
            r#""grants": [{"src": ["*"], "dst": ["ofice"], "ip": ["*"]}]"#,
            "office",
        ),
        (
            "set",
            r#""grants": [{"src": ["*"], "dst": ["ipset:labs"], "ip": ["*"]}]"#,
            "ipset:lab",
        ),
        (
            "posture",
            r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], "srcPosture": ["posture:nwe"]}]"#,
            "posture:new",
        ),
        (
            "protocol",
            r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["tpc:443"]}]"#,
            "tcp",
        ),
        (
            "tag of a route",
            r#""autoApprovers": {"routes": {"10.0.0.0/8": ["tag:sever"]}}"#,
            "tag:server",
        ),
    ] {
        let text = format!(
            r#"{{"groups": {{"group:staff": []}}, "tagOwners": {{"tag:server": []}},
                "hosts": {{"office": "10.20.0.0/24"}}, "ipsets": {{"ipset:lab": []}},
                "postures": {{"posture:new": ["node:os == 'linux'"]}},
                {entry}}}"#
        );
        let found = refused(&text);
        let errors = found.iter().filter(|one| one.severity == Severity::Error);
        let help: Vec<_> = errors.filter_map(|one| one.help.as_deref()).collect();
        assert_eq!(help, [format!("did you mean {meant:?}?")], "{what}");
    }
}

/// What the language has and Weir has not is said with what to write instead, or with what it
/// does not do.
#[test]
fn what_a_file_from_elsewhere_has_is_answered() {
    for (src, help) in [
        (
            "autogroup:admin",
            "users have no roles here: name them in a group",
        ),
        (
            "autogroup:shared",
            "no machines are shared with this network: leave it out",
        ),
        (
            "svc:web",
            "there are no services here: name a tag, a host or an address",
        ),
    ] {
        let found = refused(&with_entry(&rule(src, "*:*")));
        assert_eq!(found[0].help.as_deref(), Some(help));
    }
    let text = r#"{
        "acls": [],
        "attrConfig": {"custom:tier": {"type": "string"}},
        "OneCGNATRoute": "",
        "randomizeClientPort": true,
        "tagOwners": {"tag:web": ["autogroup:admin"]},
        "autoApprovers": {"services": {"svc:web": ["tag:web"]}, "exitNode": ["autogroup:owner"]},
    }"#;
    let policy = Policy::parse(text).unwrap();
    let said: Vec<_> = policy
        .own_warnings()
        .iter()
        .map(|one| &one.message)
        .collect();
    assert_eq!(
        said,
        [
            "\"attrConfig\": not enforced by Weir",
            "\"OneCGNATRoute\": not enforced by Weir",
            "\"randomizeClientPort\": not enforced by Weir",
            "\"autogroup:admin\" is nobody here: Weir's users have no roles",
            "\"autoApprovers.services\": not enforced by Weir",
            "\"autogroup:owner\" is nobody here: Weir's users have no roles",
        ]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = with_entry(
        r#"{"action": "accept", "src": ["alcie@example.com", "bob@"], "dst": ["office:22"], "proto": "gre"}"#,
    );
    let policy = Policy::parse(&text).unwrap();
    let directory = Directory {
        users: vec![
            User {
                id: weir_overlay::UserId(1),
                name: "alice".to_owned(),
                email: Some("alice@example.com".to_owned()),
            },
            User {
                id: weir_overlay::UserId(2),
                name: "bob".to_owned(),
                email: None,
            },
        ],
        ..Directory::default()
    };
    let warnings = policy.warnings(&directory);
    assert!(
        warnings
            .iter()
            .all(|found| found.severity == Severity::Warning)
    );
    let said: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "line 5, column 43: the network has no user \"alcie@example.com\" \
             (did you mean \"alice@example.com\"?)",
            "line 5, column 81: this allows nothing: the protocol has no ports \
             (write \"*\" for the ports)",
        ]
    );
}

#[test]
fn bytes_that_are_no_text_are_pointed_at() {
    let found = Policy::parse_bytes(b"{\n\"acls\": \xff}").unwrap_err();
    assert_eq!((found[0].line, found[0].column), (2, 9));
}

#[test]
fn deep_nesting_is_refused() {
    let text = "[".repeat(100_000);
    assert_eq!(refused(&text)[0].message, "maximum nesting depth exceeded");
}
