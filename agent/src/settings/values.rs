//! The values that settings have, as they are written in flags, in the file and on the wire.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};
use weir_kernel_plan::{MAX_MTU, MIN_MTU};
use weir_overlay::{Tag, parse_prefix_list};

/// Text, or a list of texts: both ways of writing a list in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl TextOrList {
    fn joined(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::List(items) => items.join(","),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = impl fmt::Display>) -> fmt::Result {
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                TextOrList::deserialize(deserializer)?.joined().parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(Prefixes, Tags, Egress);

/// A list of prefixes; `8.8.8.8` is `8.8.8.8/32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefixes(pub(crate) BTreeSet<IpNet>);

impl FromStr for Prefixes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let prefixes = parse_prefix_list(text).map_err(|error| error.to_string())?;
        match prefixes.iter().find(|prefix| prefix.prefix_len() == 0) {
            Some(prefix) => Err(format!(
                "{prefix} is the whole internet: say so with --advertise-exit-node"
            )),
            None => Ok(Self(prefixes.into_iter().collect())),
        }
    }
}

impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0.iter())
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
}

/// A list of tags; `tag:` may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tags(pub(crate) BTreeSet<Tag>);

impl FromStr for Tags {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        items(text)
            .map(|item| {
                let tag = if item.contains(':') {
                    item.to_owned()
                } else {
                    format!("tag:{item}")
                };
                tag.parse::<Tag>().map_err(|error| error.to_string())
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, self.0.iter())
    }
}

/// Source addresses of relayed traffic: at most one of each family for all of it, and one for each
/// single route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Where no route says otherwise.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// What single routes say.
    pub(crate) routes: BTreeMap<IpNet, IpAddr>,
}

impl Egress {
    /// Every address that is named.
    pub(crate) fn all(&self) -> BTreeSet<IpAddr> {
        let of_routes = self.routes.values();
        self.addresses.iter().chain(of_routes).copied().collect()
    }
}

impl FromStr for Egress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut egress = Self::default();
        for item in items(text) {
            let (route, address) = match item.split_once('=') {
                Some((route, address)) => (Some(route), address),
                None => (None, item),
            };
            let address: IpAddr = address
                .parse()
                .map_err(|_| format!("\"{address}\" is not an address such as 203.0.113.7"))?;
            let Some(route) = route else {
                egress.addresses.insert(address);
                continue;
            };
            for prefix in parse_prefix_list(route).map_err(|error| error.to_string())? {
                if prefix.addr().is_ipv4() != address.is_ipv4() {
                    return Err(format!("{prefix} and {address} are not of one family"));
                }
                if egress.routes.insert(prefix, address).is_some() {
                    return Err(format!("{prefix} is given two addresses"));
                }
            }
        }
        let of_v4 = egress.addresses.iter().filter(|a| a.is_ipv4()).count();
        if of_v4 > 1 || egress.addresses.len() - of_v4 > 1 {
            return Err(
                "at most one IPv4 and one IPv6 address can be given for all routes; one for a \
                 route is written ROUTE=ADDRESS"
                    .to_owned(),
            );
        }
        Ok(egress)
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter();
        let routes = routes.map(|(route, address)| format!("{route}={address}"));
        let addresses = self.addresses.iter().map(ToString::to_string);
        join(f, addresses.chain(routes))
    }
}

/// A value, or none: an empty text takes the setting back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrNone<T>(pub(crate) Option<T>);

impl<T> Default for OrNone<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for OrNone<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        text.parse()
            .map(|value| Self(Some(value)))
            .map_err(|error: T::Err| error.to_string())
    }
}

impl<T: fmt::Display> fmt::Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => Ok(()),
        }
    }
}

impl<T: fmt::Display> Serialize for OrNone<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for OrNone<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// An MTU that the tunnel's link can have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mtu(pub(crate) u32);

impl FromStr for Mtu {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|bytes| (MIN_MTU..=MAX_MTU).contains(bytes))
            .map(Self)
            .ok_or_else(|| format!("\"{text}\" is not an MTU from {MIN_MTU} to {MAX_MTU}"))
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which WireGuard to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WireguardChoice {
    /// The kernel's, and a userspace process where the kernel has none.
    #[default]
    Auto,
    /// The kernel's only.
    Kernel,
    /// A userspace process, even where the kernel has WireGuard.
    Userspace,
}

impl FromStr for WireguardChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "userspace" => Ok(Self::Userspace),
            other => Err(format!("\"{other}\" is none of auto, kernel and userspace")),
        }
    }
}

impl fmt::Display for WireguardChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// Where the coordinator is: `https://HOST[:PORT]`, or `http://` on loopback, where nobody can
/// listen on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoordinatorUrl(reqwest::Url);

impl CoordinatorUrl {
    /// The URL of a path on it.
    pub(crate) fn with_path(&self, path: &str) -> reqwest::Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }

    /// The host's name or address, without brackets.
    pub(crate) fn host(&self) -> &str {
        self.0
            .host_str()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// Whether it is spoken to in TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl FromStr for CoordinatorUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let example = "the coordinator is given as https://HOST:PORT";
        let url: reqwest::Url = text
            .parse()
            .map_err(|_| format!("\"{text}\" is not a URL: {example}"))?;
        if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
            return Err(format!("\"{text}\" has no https:// in front: {example}"));
        }
        if !matches!(url.path(), "" | "/")
            || url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err(format!(
                "\"{text}\" has more than a host and a port: {example}"
            ));
        }
        let url = Self(url);
        let loopback = url.host() == "localhost"
            || url
                .host()
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        if !url.is_https() && !loopback {
            return Err(format!(
                "{text} would be spoken to in the clear: use https://; http:// is for loopback only"
            ));
        }
        Ok(url)
    }
}

impl fmt::Display for CoordinatorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// The coordinators of one network: the first, and those to move on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoordinatorUrls {
    first: CoordinatorUrl,
    others: Vec<CoordinatorUrl>,
}

impl From<CoordinatorUrl> for CoordinatorUrls {
    fn from(first: CoordinatorUrl) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

impl CoordinatorUrls {
    /// All of them, in the order they were given in.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CoordinatorUrl> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The one whose turn it is, going round.
    pub(crate) fn at(&self, turn: usize) -> &CoordinatorUrl {
        let number = turn % (self.others.len() + 1);
        self.iter().nth(number).unwrap_or(&self.first)
    }

    /// Whether both lists have a coordinator in common, and so are of one network.
    pub(crate) fn meet(&self, other: &Self) -> bool {
        self.iter().any(|url| other.iter().any(|own| own == url))
    }
}

impl FromStr for CoordinatorUrls {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut urls = text.split(',').map(|url| url.trim().parse());
        let first = urls.next().unwrap_or_else(|| text.parse())?;
        let mut others = Vec::new();
        for url in urls {
            let url = url?;
            if url == first || others.contains(&url) {
                return Err(format!("{url} is given twice"));
            }
            others.push(url);
        }
        Ok(Self { first, others })
    }
}

impl fmt::Display for CoordinatorUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.others.iter().try_for_each(|url| write!(f, ",{url}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinator_urls() {
        for (text, shown) in [
            ("https://c.example:8443/", "https://c.example:8443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost:1", "http://localhost:1"),
        ] {
            assert_eq!(text.parse::<CoordinatorUrl>().unwrap().to_string(), shown);
        }
        for (text, part) in [
            ("c.example", "not a URL"),
            ("c.example:8443", "no https://"),
            ("http://c.example", "in the clear"),
            ("https://c.example/path", "more than a host"),
            ("https://user@c.example", "more than a host"),
            ("ftp://c.example", "no https://"),
        ] {
            let error = text.parse::<CoordinatorUrl>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn several_coordinators_are_one_setting() {
        let text = "https://a:1, https://b:2";
        let urls: CoordinatorUrls = text.parse().unwrap();
        assert_eq!(urls.to_string(), "https://a:1,https://b:2");
        let turns: Vec<_> = (0..3).map(|turn| urls.at(turn).to_string()).collect();
        assert_eq!(turns, ["https://a:1", "https://b:2", "https://a:1"]);
        let meets = |text: &str| urls.meet(&text.parse().unwrap());
        assert!(meets("https://b:2") && meets("https://c:3,https://a:1"));
        assert!(!meets("https://b:3"));
        for bad in ["https://a:1,", "https://a:1,b", "https://a:1,https://a:1/"] {
            assert!(bad.parse::<CoordinatorUrls>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_read_back_and_say_what_is_wrong() {
        let routes: Prefixes = "8.8.8.8, 8.8.4.4".parse().unwrap();
        assert_eq!(routes.to_string(), "8.8.4.4/32,8.8.8.8/32");
        assert_eq!(routes.to_string().parse::<Prefixes>().unwrap(), routes);
        assert!(
            "0.0.0.0/0"
                .parse::<Prefixes>()
                .unwrap_err()
                .contains("--advertise-exit-node")
        );
        assert_eq!(
            "build,tag:ci".parse::<Tags>().unwrap().to_string(),
            "tag:build,tag:ci"
        );
        assert!("203.0.113.7,203.0.113.8".parse::<Egress>().is_err());
        assert!("203.0.113.7,2001:db8::7".parse::<Egress>().is_ok());
        let egress: Egress = "8.8.8.8=203.0.113.8, 203.0.113.7,0.0.0.0/0=203.0.113.9"
            .parse()
            .unwrap();
        let shown = "203.0.113.7,0.0.0.0/0=203.0.113.9,8.8.8.8/32=203.0.113.8";
        assert_eq!(egress.to_string(), shown);
        assert_eq!(shown.parse::<Egress>().unwrap(), egress);
        assert_eq!(egress.all().len(), 3);
        for bad in [
            "8.8.8.8=2001:db8::7",
            "8.8.8.8=203.0.113.7,8.8.8.8/32=203.0.113.8",
            "8.8.8.8=",
            "8.8.8.9/24=203.0.113.7",
        ] {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
        assert_eq!("".parse::<OrNone<u16>>().unwrap(), OrNone(None));
        assert_eq!("1300".parse::<Mtu>(), Ok(Mtu(1300)));
        for bad in ["1279", "65456", "auto"] {
            assert!(
                bad.parse::<Mtu>()
                    .unwrap_err()
                    .contains("from 1280 to 65455")
            );
        }
    }
}
