//! Cutting lists into pages.
//!
//! A cursor is the key of the last thing on a page, and the next page begins behind it. So nothing
//! is said twice or left out because something else came or went, as with numbered pages.

use crate::{
    api::{Page, PageQuery},
    refusal::Refusal,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use weir_protocol::ErrorCode;

/// How many there are on a page when nobody says how many.
const DEFAULT_LIMIT: u32 = 100;
/// The most.
const MAX_LIMIT: u32 = 1000;

/// Which page of a list is wanted: what comes behind this key, and how many.
#[derive(Debug)]
pub(super) struct Wanted<K> {
    list: &'static str,
    /// Behind which key it begins.
    pub(super) after: Option<K>,
    /// How many at most.
    pub(super) limit: u32,
}

impl<K: Ord + Serialize + DeserializeOwned> Wanted<K> {
    /// Reads a request for a page of this list, whose name keeps cursors of different lists apart.
    ///
    /// # Errors
    /// [`Refusal`], when the cursor is none of this list, or the limit out of range.
    pub(super) fn new(list: &'static str, query: &PageQuery) -> Result<Self, Refusal> {
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                format!("limit is from 1 to {MAX_LIMIT}, and not {limit}"),
            ));
        }
        let read = |text: &String| {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (of, key): (String, K) = serde_json::from_slice(&bytes).ok()?;
            (of == list).then_some(key)
        };
        let after = match &query.cursor {
            Some(text) => Some(read(text).ok_or_else(not_ours)?),
            None => None,
        };
        Ok(Self { list, after, limit })
    }

    /// The page, of all rows in the order of their keys.
    pub(super) fn of<T>(&self, rows: Vec<T>, key: impl Fn(&T) -> K) -> Page<T> {
        let behind = |row: &T| self.after.as_ref().is_none_or(|after| key(row) > *after);
        let rows = rows.into_iter().filter(behind);
        let room = usize::try_from(self.limit).unwrap_or(usize::MAX);
        self.cut(rows.take(room.saturating_add(1)).collect(), key)
    }

    /// The page, of rows behind the key, one more than there is room for when there are more.
    pub(super) fn cut<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> K) -> Page<T> {
        let room = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > room;
        rows.truncate(room);
        let last = rows.last().filter(|_| more);
        let next = last.and_then(|row| {
            let key = serde_json::to_vec(&(self.list, key(row))).ok()?;
            Some(URL_SAFE_NO_PAD.encode(key))
        });
        Page { items: rows, next }
    }
}

fn not_ours() -> Refusal {
    Refusal::new(
        ErrorCode::BadRequest,
        "cursor is not the next of a page of this list: leave it out to begin at the first page",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cmp::Reverse, collections::BTreeSet};

    fn asking(cursor: Option<String>, limit: u32) -> PageQuery {
        PageQuery {
            cursor,
            limit: Some(limit),
        }
    }

    #[test]
    fn pages_hold_everything_once_while_things_come_and_go() {
        let mut numbers: BTreeSet<u64> = (0..50).map(|number| number * 10).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        let always = numbers.clone();
        for page in 0.. {
            let wanted: Wanted<u64> = Wanted::new("numbers", &asking(cursor, 7)).unwrap();
            let cut = wanted.of(numbers.iter().copied().collect(), |number| *number);
            seen.extend(cut.items);
            // Before, within and behind what was seen.
            numbers.extend([page, 70 * page + 1, 1_000 + page]);
            cursor = cut.next;
            if cursor.is_none() || page > 60 {
                break;
            }
        }
        let found: Vec<_> = seen
            .iter()
            .filter(|number| always.contains(number))
            .collect();
        assert_eq!(found, always.iter().collect::<Vec<_>>());
        assert!(seen.is_sorted_by(|one, other| one < other), "{seen:?}");
    }

    #[test]
    fn a_list_may_begin_at_its_end() {
        let wanted: Wanted<Reverse<u64>> = Wanted::new("numbers", &asking(None, 2)).unwrap();
        let page = wanted.of(vec![3, 2, 1], |number| Reverse(*number));
        assert_eq!(page.items, [3, 2]);
        let wanted = Wanted::new("numbers", &asking(page.next, 2)).unwrap();
        let page = wanted.of(vec![3, 2, 1], |number: &u64| Reverse(*number));
        assert_eq!((page.items, page.next), (vec![1], None));
    }

    #[test]
    fn what_is_no_cursor_of_the_list_is_refused() {
        let wanted: Wanted<u64> = Wanted::new("numbers", &asking(None, 1)).unwrap();
        let good = wanted.of(vec![1, 2], |number| *number).next;
        assert!(Wanted::<u64>::new("numbers", &asking(good.clone(), 1)).is_ok());
        assert!(Wanted::<u64>::new("others", &asking(good.clone(), 1)).is_err());
        assert!(Wanted::<String>::new("numbers", &asking(good, 1)).is_err());
        for bad in ["", "x", "AAAA", "\u{e9}"] {
            assert!(Wanted::<u64>::new("numbers", &asking(Some(bad.to_owned()), 1)).is_err());
        }
        for limit in [0, 1001] {
            assert!(Wanted::<u64>::new("numbers", &asking(None, limit)).is_err());
        }
    }
}
