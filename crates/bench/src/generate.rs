//! A network and a policy for it, of any size, the same for the same sizes.

use crate::random::Random;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use weir_overlay::{NodeId, UserId};
use weir_policy::{Directory, PolicyNode, User};

/// How large a network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) users: usize,
    pub(crate) groups: usize,
    pub(crate) tags: usize,
    pub(crate) routes: usize,
    pub(crate) rules: usize,
}

/// Who sends, or is sent to.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    Any,
    Members,
    User(usize),
    Group(usize),
    Tag(usize),
    Prefix(IpNet),
    OwnDevices,
    Internet,
}

/// A rule as it was meant, for whoever compiles it without reading the policy.
#[derive(Clone, Debug)]
pub(crate) struct Meant {
    pub(crate) sources: Vec<Who>,
    pub(crate) target: Who,
    pub(crate) port: u16,
    pub(crate) via: Option<usize>,
}

/// A generated network.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) directory: Directory,
    /// The members of each group, by number of the user.
    pub(crate) groups: Vec<BTreeSet<usize>>,
    /// In the order in which the policy applies them: grants, then ACLs.
    pub(crate) rules: Vec<Meant>,
    tags: usize,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Members => f.write_str("autogroup:member"),
            Self::User(user) => write!(f, "user{user}@example.com"),
            Self::Group(group) => write!(f, "group:g{group}"),
            Self::Tag(tag) => write!(f, "tag:t{tag}"),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::OwnDevices => f.write_str("autogroup:self"),
            Self::Internet => f.write_str("autogroup:internet"),
        }
    }
}

/// The `number`th route: /24 networks, and every fourth a single public address.
fn route(number: usize) -> IpNet {
    let bits = u32::try_from(number).unwrap_or_default();
    let (address, length) = match number % 4 {
        3 => (0xcb00_0000 + bits, 32),
        _ => (0x0a00_0000 + (bits << 8), 24),
    };
    Ipv4Net::new_assert(Ipv4Addr::from_bits(address), length).into()
}

/// The overlay addresses of the `number`th node.
pub(crate) fn addresses(number: usize) -> BTreeSet<IpAddr> {
    let v4 = 0x6440_0000 + u32::try_from(number).unwrap_or_default() + 1;
    let v6 = Ipv6Addr::new(0xfd77, 0x6569, 0x7200, 0, 0, 0, 0, 1);
    let v6 = v6.to_bits() + u128::try_from(number).unwrap_or_default();
    [
        IpAddr::V4(Ipv4Addr::from_bits(v4)),
        IpAddr::V6(Ipv6Addr::from_bits(v6)),
    ]
    .into()
}

/// A user's device.
pub(crate) fn device(number: usize, user: usize) -> PolicyNode {
    PolicyNode {
        user: Some(user_id(user)),
        addresses: addresses(number),
        ..PolicyNode::default()
    }
}

pub(crate) fn id(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

pub(crate) fn user_id(user: usize) -> UserId {
    UserId(id(user))
}

fn directory(size: Size, random: &mut Random) -> anyhow::Result<Directory> {
    let users = (0..size.users).map(|user| User {
        id: user_id(user),
        name: format!("user{user}"),
        email: Some(format!("user{user}@example.com")),
    });
    // Four of five nodes are users' devices. Of the others some serve routes and a few are exits.
    let devices = size.nodes - size.nodes / 5;
    let mut nodes = BTreeMap::new();
    for number in 0..size.nodes {
        let mut node = device(number, number % size.users.max(1));
        if number >= devices {
            node.user = None;
            for _ in 0..=random.below(2) {
                node.tags
                    .insert(format!("tag:t{}", random.below(size.tags)).parse()?);
            }
            if (number - devices).is_multiple_of(100) {
                node.approved_routes.insert(Ipv4Net::default().into());
                node.approved_routes.insert(Ipv6Net::default().into());
            }
        }
        nodes.insert(NodeId(id(number)), node);
    }
    // Every third route is served by two.
    for number in 0..size.routes {
        for _ in 0..=usize::from(number.is_multiple_of(3)) {
            let relay = NodeId(id(devices + random.below((size.nodes - devices) / 4)));
            if let Some(node) = nodes.get_mut(&relay) {
                node.approved_routes.insert(route(number));
            }
        }
    }
    Ok(Directory {
        users: users.collect(),
        nodes,
        ..Directory::default()
    })
}

/// Of a thousand rules: 400 from a group and 100 from users to a tag, 150 from a group into a
/// route, 50 of these with `via`, 100 between tags, 50 between groups, 100 from a user to a user,
/// 60 from or to a literal prefix of the overlay, 10 each from all members and from everybody to a
/// tag, 10 to the internet, 20 to the sender's own devices.
fn rule(size: Size, random: &mut Random) -> Meant {
    let user = |random: &mut Random| Who::User(random.below(size.users));
    let group = |random: &mut Random| Who::Group(random.below(size.groups));
    let tag = |random: &mut Random| Who::Tag(random.below(size.tags));
    let prefix = |random: &mut Random| {
        let number = u32::try_from(random.below(size.nodes)).unwrap_or_default();
        let first = Ipv4Addr::from_bits(0x6440_0000 + (number & !7));
        Who::Prefix(Ipv4Net::new_assert(first, 29).into())
    };
    let mut via = None;
    let (sources, target) = match random.below(1000) {
        0..400 => (vec![group(random)], tag(random)),
        400..500 => (vec![user(random), user(random), user(random)], tag(random)),
        500..650 => {
            via = (random.below(3) == 0).then(|| random.below(size.tags));
            let to = Who::Prefix(route(random.below(size.routes)));
            (vec![group(random)], to)
        }
        650..750 => (vec![tag(random)], tag(random)),
        750..800 => (vec![group(random)], group(random)),
        800..900 => (vec![user(random)], user(random)),
        900..930 => (vec![prefix(random)], tag(random)),
        930..960 => (vec![group(random)], prefix(random)),
        960..970 => (vec![Who::Members], tag(random)),
        970..980 => (vec![Who::Any], tag(random)),
        980..990 => (vec![group(random)], Who::Internet),
        _ => (vec![group(random)], Who::OwnDevices),
    };
    Meant {
        sources,
        target,
        port: u16::try_from(1 + random.below(9000)).unwrap_or(1),
        via,
    }
}

/// Generates a network and the rules of its policy.
pub(crate) fn sample(size: Size) -> anyhow::Result<Sample> {
    let mut random = Random::from_seed(3);
    let directory = directory(size, &mut random)?;
    let members = |random: &mut Random| {
        let count = 5 + random.below(30);
        (0..count).map(|_| random.below(size.users)).collect()
    };
    let groups = (0..size.groups).map(|_| members(&mut random)).collect();
    let mut rules: Vec<Meant> = (0..size.rules).map(|_| rule(size, &mut random)).collect();
    rules.sort_by_key(|rule| rule.via.is_none());
    Ok(Sample {
        directory,
        groups,
        rules,
        tags: size.tags,
    })
}

impl Sample {
    /// The same network with other rules.
    pub(crate) fn with_rules(&self, rules: Vec<Meant>) -> Self {
        Self {
            directory: self.directory.clone(),
            groups: self.groups.clone(),
            rules,
            tags: self.tags,
        }
    }

    /// The policy as an administrator writes it, a rule a line.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = "{\n\"groups\": {\n".to_owned();
        for (number, members) in self.groups.iter().enumerate() {
            let members = members.iter().map(|user| Who::User(*user));
            writeln!(text, "\"group:g{number}\": [{}],", quoted(members))?;
        }
        text.push_str("},\n\"tagOwners\": {\n");
        for tag in 0..self.tags {
            writeln!(text, "\"tag:t{tag}\": [\"group:g0\"],")?;
        }
        text.push_str("},\n\"grants\": [\n");
        let from = |rule: &Meant| quoted(rule.sources.iter().cloned());
        for rule in &self.rules {
            if let Some(via) = rule.via {
                writeln!(
                    text,
                    r#"{{"src": [{}], "dst": ["{}"], "ip": ["tcp:{}"], "via": ["tag:t{via}"]}},"#,
                    from(rule),
                    rule.target,
                    rule.port
                )?;
            }
        }
        text.push_str("],\n\"acls\": [\n");
        for rule in self.rules.iter().filter(|rule| rule.via.is_none()) {
            writeln!(
                text,
                r#"{{"action": "accept", "src": [{}], "proto": "tcp", "dst": ["{}:{}"]}},"#,
                from(rule),
                rule.target,
                rule.port
            )?;
        }
        text.push_str("],\n}\n");
        Ok(text)
    }
}

fn quoted(names: impl Iterator<Item = Who>) -> String {
    let names: Vec<String> = names.map(|who| format!("\"{who}\"")).collect();
    names.join(", ")
}
