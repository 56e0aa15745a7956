//! The policy of the story, before and after its change.

/// alice's name, as the policy uses it.
pub const ALICE: &str = "alice@example.com";
/// bob's name, as the policy uses it.
pub const BOB: &str = "bob@example.com";

/// The policy with this person, and nobody else, in the group that may use the bank.
#[must_use]
pub fn policy(finance: &str) -> String {
    format!(
        r#"{{
    "groups": {{
        // Who may use the bank's API, which admits our relay only.
        "group:finance": ["{finance}"],
        "group:staff": ["{ALICE}", "{BOB}"],
    }},
    "tagOwners": {{"tag:relay": [], "tag:office": [], "tag:build": []}},
    "hosts": {{
        "bank": "8.8.8.8/32",
        "bank-backup": "8.8.4.4/32",
        "office": "10.20.0.0/24",
    }},
    "acls": [
        {{"action": "accept", "src": ["group:finance"], "dst": ["bank:443,53", "bank-backup:443,53"]}},
        {{"action": "accept", "src": ["tag:build"], "proto": "udp", "dst": ["bank:53", "bank-backup:53"]}},
        {{"action": "accept", "src": ["group:staff"], "dst": ["office:*"]}},
        // Everybody may ping the relays.
        {{"action": "accept", "src": ["group:staff", "tag:build"], "proto": "icmp", "dst": ["tag:relay:*", "tag:office:*"]}},
    ],
}}
"#
    )
}
