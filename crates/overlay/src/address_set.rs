//! Ranges of addresses and normalised sets of them.

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

/// Why a text is not a range of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not an address, a prefix or a range FIRST-LAST of one family")]
pub struct AddressRangeError(String);

/// A contiguous range of addresses of one family, both ends included. Written as an address, a
/// prefix or `first-last`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

const fn highest(like: IpAddr) -> u128 {
    match like {
        IpAddr::V4(_) => u32::MAX as u128,
        IpAddr::V6(_) => u128::MAX,
    }
}

impl AddressRange {
    /// The range from `first` to `last`; `None` when they are of two families or out of order.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// All addresses of both families.
    #[must_use]
    pub const fn everything() -> [Self; 2] {
        [
            Self {
                first: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                last: IpAddr::V4(Ipv4Addr::BROADCAST),
            },
            Self {
                first: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                last: IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
            },
        ]
    }

    /// The lowest address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether this is an IPv4 range.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// The one address of this range, when it is only one.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.first <= address && address <= self.last
    }

    /// The addresses in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.is_ipv4() != other.is_ipv4() {
            return None;
        }
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }

    /// What is left below and above the addresses of `cut`. A range that shares none of them is
    /// left whole, below or above.
    fn without(self, cut: Self) -> [Option<Self>; 2] {
        let Some(shared) = self.intersection(&cut) else {
            return match self.first < cut.first {
                true => [Some(self), None],
                false => [None, Some(self)],
            };
        };
        let below = (self.first < shared.first).then(|| Self {
            first: self.first,
            last: address(self.first, number(shared.first) - 1),
        });
        let above = (shared.last < self.last).then(|| Self {
            first: address(self.first, number(shared.last) + 1),
            last: self.last,
        });
        [below, above]
    }

    /// The fewest prefixes that make up the range.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
        }
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(prefix: IpNet) -> Self {
        Self {
            first: prefix.network(),
            last: prefix.broadcast(),
        }
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;
    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let wrong = || AddressRangeError(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Ok(prefix) = text.parse::<IpNet>() {
            return Ok(prefix.into());
        }
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first = first.trim().parse().map_err(|_| wrong())?;
        let last = last.trim().parse().map_err(|_| wrong())?;
        Self::new(first, last).ok_or_else(wrong)
    }
}

impl TryFrom<String> for AddressRange {
    type Error = AddressRangeError;
    fn try_from(text: String) -> Result<Self, AddressRangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        match self.prefixes().as_slice() {
            [prefix] => prefix.fmt(f),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of addresses of both families, kept as sorted ranges that neither touch nor overlap, so
/// that equal sets are equal values. A clone shares the ranges, so it costs nothing: many grants
/// have one set.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<AddressRange>", into = "Vec<AddressRange>")]
pub struct AddressSet(
    /// None when there are no ranges, never an empty list.
    Option<Arc<[AddressRange]>>,
);

impl AddressSet {
    /// The set without addresses.
    #[must_use]
    pub const fn empty() -> Self {
        Self(None)
    }

    /// All addresses of both families.
    #[must_use]
    pub fn everything() -> Self {
        Self::of_sorted(&AddressRange::everything())
    }

    /// Ranges that are sorted and neither touch nor overlap.
    fn of_sorted(ranges: &[AddressRange]) -> Self {
        Self((!ranges.is_empty()).then(|| Arc::from(ranges)))
    }

    /// The ranges, sorted, IPv4 first.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether no address is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the address is in the set.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.at_or_before(address)
            .is_some_and(|range| range.contains(address))
    }

    /// The last range that starts at or before the address, found in logarithmic time.
    fn at_or_before(&self, address: IpAddr) -> Option<&AddressRange> {
        let ranges = self.ranges();
        let after = ranges.partition_point(|range| range.first <= address);
        ranges.get(after.checked_sub(1)?)
    }

    /// Whether every address of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: &AddressRange) -> bool {
        self.at_or_before(range.first)
            .is_some_and(|own| own.contains(range.first) && own.contains(range.last))
    }

    /// Whether the sets share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (few, many) = self.by_length(other);
        // Of the ranges that start before the end of `range`, only the last can reach into it.
        few.ranges().iter().any(|range| {
            many.at_or_before(range.last)
                .is_some_and(|last| last.intersection(range).is_some())
        })
    }

    fn by_length<'a>(&'a self, other: &'a Self) -> (&'a Self, &'a Self) {
        if self.ranges().len() <= other.ranges().len() {
            (self, other)
        } else {
            (other, self)
        }
    }

    /// Those of the ranges that share an address with `range`.
    fn around(&self, range: AddressRange) -> impl Iterator<Item = &AddressRange> {
        let ranges = self.ranges();
        let start = ranges.partition_point(|other| other.last < range.first);
        let from_there = ranges.get(start..).unwrap_or_default().iter();
        from_there.take_while(move |other| other.first <= range.last)
    }

    /// Adds one address. Costs a copy of the ranges, however many clones share them.
    pub fn insert(&mut self, address: IpAddr) {
        if self.contains(address) {
            return;
        }
        let ranges = self.ranges();
        let at = ranges.partition_point(|range| range.first <= address);
        let (before, after) = ranges.split_at_checked(at).unwrap_or((ranges, &[]));
        let mut grown = AddressRange::from(address);
        let mut before = before;
        let mut after = after;
        if let Some((last, rest)) = before.split_last()
            && next(last.last) == Some(address)
        {
            (grown.first, before) = (last.first, rest);
        }
        if let Some((first, rest)) = after.split_first()
            && next(address) == Some(first.first)
        {
            (grown.last, after) = (first.last, rest);
        }
        *self = Self::of_sorted(&[before, &[grown], after].concat());
    }

    /// Takes one address out. Costs a copy of the ranges, however many clones share them.
    pub fn remove(&mut self, address: IpAddr) {
        let ranges = self.ranges();
        let after = ranges.partition_point(|range| range.first <= address);
        let Some((before, after)) = ranges.split_at_checked(after) else {
            return;
        };
        if let Some((around, before)) = before.split_last()
            && around.contains(address)
        {
            let left = around.without(AddressRange::from(address));
            let left: Vec<AddressRange> = left.into_iter().flatten().collect();
            *self = Self::of_sorted(&[before, left.as_slice(), after].concat());
        }
    }

    /// The addresses in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self.clone(),
            (true, _) => other.clone(),
            (false, false) => self
                .ranges()
                .iter()
                .chain(other.ranges())
                .copied()
                .collect(),
        }
    }

    /// The addresses in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (few, many) = self.by_length(other);
        // Both are sorted and without neighbours, and so is what they share.
        let shared = few.ranges().iter().flat_map(|range| {
            many.around(*range)
                .filter_map(|other| range.intersection(other))
        });
        let shared: Vec<AddressRange> = shared.collect();
        if shared == few.ranges() {
            return few.clone();
        }
        Self::of_sorted(&shared)
    }

    /// The addresses in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.ranges().len());
        for range in self.ranges() {
            let mut rest = Some(*range);
            for cut in other.around(*range) {
                let [below, above] = rest.map(|rest| rest.without(*cut)).unwrap_or_default();
                left.extend(below);
                rest = above;
            }
            left.extend(rest);
        }
        Self::of_sorted(&left)
    }

    /// The fewest prefixes that make up the set.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        self.ranges()
            .iter()
            .flat_map(AddressRange::prefixes)
            .collect()
    }
}

/// The address after this one, if it is not the last of its family.
fn next(of: IpAddr) -> Option<IpAddr> {
    (number(of) < highest(of)).then(|| address(of, number(of) + 1))
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AddressSet").field(&self.ranges()).finish()
    }
}

impl FromIterator<AddressRange> for AddressSet {
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort();
        let mut merged: Vec<AddressRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(open)
                    if open.is_ipv4() == range.is_ipv4()
                        && (number(open.last) == highest(open.last)
                            || number(range.first) <= number(open.last) + 1) =>
                {
                    open.last = open.last.max(range.last);
                }
                Some(_) | None => merged.push(range),
            }
        }
        Self::of_sorted(&merged)
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        prefixes.into_iter().map(AddressRange::from).collect()
    }
}

impl From<Vec<AddressRange>> for AddressSet {
    fn from(ranges: Vec<AddressRange>) -> Self {
        ranges.into_iter().collect()
    }
}

impl From<AddressSet> for Vec<AddressRange> {
    fn from(set: AddressSet) -> Self {
        set.ranges().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> AddressSet {
        text.split_whitespace()
            .map(|item| item.parse::<AddressRange>().unwrap())
            .collect()
    }

    #[test]
    fn ranges_print_as_they_are_best_read() {
        for text in [
            "8.8.8.8",
            "10.0.0.0/8",
            "10.0.0.1-10.0.0.6",
            "::/0",
            "fd77::1",
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap().to_string(), text);
        }
        assert!("10.0.0.9-10.0.0.1".parse::<AddressRange>().is_err());
        assert!("10.0.0.1-::1".parse::<AddressRange>().is_err());
    }

    #[test]
    fn touching_ranges_join_and_families_do_not() {
        assert_eq!(
            set("10.0.0.0/25 10.0.0.128/25").ranges(),
            set("10.0.0.0/24").ranges()
        );
        assert_eq!(set("255.255.255.255 ::").ranges().len(), 2);
        assert_eq!(set("0.0.0.0/0 ::/0"), AddressSet::everything());
    }

    #[test]
    fn difference_leaves_both_ends() {
        let left = set("10.0.0.0/24").difference(&set("10.0.0.5"));
        assert_eq!(left, set("10.0.0.0-10.0.0.4 10.0.0.6-10.0.0.255"));
        assert_eq!(set("::/0").difference(&set("::/0")), AddressSet::empty());
    }

    #[test]
    fn the_ends_of_a_family_have_no_neighbours() {
        let mut all = set("0.0.0.0-255.255.255.254 ::1");
        all.insert("255.255.255.255".parse().unwrap());
        all.insert("::".parse().unwrap());
        assert_eq!(all, set("0.0.0.0/0 ::-::1"));
        all.remove("0.0.0.0".parse().unwrap());
        all.remove("255.255.255.255".parse().unwrap());
        assert_eq!(all, set("0.0.0.1-255.255.255.254 ::-::1"));
    }

    fn small_set() -> impl Strategy<Value = AddressSet> {
        proptest::collection::vec((0u8..40, 0u8..8), 0..6).prop_map(|items| {
            items
                .into_iter()
                .filter_map(|(start, length)| {
                    let at = |n: u8| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
                    AddressRange::new(at(start), at(start + length))
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in small_set(), b in small_set(), n in 0u8..60) {
            let x = IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
            prop_assert_eq!(a.union(&b).contains(x), a.contains(x) || b.contains(x));
            prop_assert_eq!(a.intersection(&b).contains(x), a.contains(x) && b.contains(x));
            prop_assert_eq!(a.difference(&b).contains(x), a.contains(x) && !b.contains(x));
            prop_assert_eq!(a.overlaps(&b), !a.intersection(&b).is_empty());
        }

        #[test]
        fn one_address_is_added_and_taken_out_like_a_set_of_one(a in small_set(), n in 0u8..60) {
            let x = IpAddr::V4(Ipv4Addr::new(10, 0, 0, n));
            let one: AddressSet = [AddressRange::from(x)].into_iter().collect();
            let (mut more, mut less) = (a.clone(), a.clone());
            more.insert(x);
            less.remove(x);
            prop_assert_eq!(more, a.union(&one));
            prop_assert_eq!(less, a.difference(&one));
        }
    }
}
