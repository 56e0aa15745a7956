//! Which of a network's coordinators is spoken to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::settings::{CoordinatorUrl, CoordinatorUrls};

/// The coordinators, and the one that is spoken to now. Clones share which one that is.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    urls: CoordinatorUrls,
    turn: Arc<AtomicUsize>,
}

impl Choice {
    /// The first one is spoken to first.
    pub(super) fn new(urls: CoordinatorUrls) -> Self {
        Self {
            urls,
            turn: Arc::default(),
        }
    }

    /// The one that is spoken to.
    pub(super) fn url(&self) -> &CoordinatorUrl {
        self.urls.at(self.turn.load(Ordering::Relaxed))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.urls.iter().count()
    }

    /// Whether any is spoken to in TLS.
    pub(super) fn any_is_https(&self) -> bool {
        self.urls.iter().any(CoordinatorUrl::is_https)
    }

    /// From now on, the next one is spoken to, and after the last the first again.
    pub(super) fn move_on(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        if self.count() > 1 {
            tracing::info!(coordinator = %self.url(), "trying the next coordinator");
        }
    }
}
