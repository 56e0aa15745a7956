//! Long lists, a page at a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of a list. Whatever is added or removed meanwhile, following `next` to the end gives
/// everything that was there all the time exactly once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// The `cursor` of the next request; null when this was the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same page of other things.
    ///
    /// # Errors
    /// What `change` says.
    pub fn try_map<U, E>(self, change: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        Ok(Page {
            items: self
                .items
                .into_iter()
                .map(change)
                .collect::<Result<_, _>>()?,
            next: self.next,
        })
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// The `next` of the page before; none for the first.
    #[serde(default)]
    pub cursor: Option<String>,
    /// How many at most, from 1 to 1000; 100 when not given.
    #[serde(default)]
    pub limit: Option<u32>,
}
