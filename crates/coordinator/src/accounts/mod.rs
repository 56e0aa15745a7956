//! Who may ask the admin API for what: accounts with passwords, tokens, and what each may do.
//!
//! Everything here is for people and programs that come over the network. Whoever may open the
//! admin socket needs none of it.

mod password;
mod scope;
mod throttle;
mod token;

pub(crate) use password::{Password, PasswordError};
pub use scope::{Scope, ScopeError, Scopes};
pub(crate) use token::{AdminToken, SetupCode};

use crate::{
    clock,
    refusal::Refusal,
    store::{AccountRow, Actor, Store, StoreError},
};
use password::{hash, verify};
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use throttle::Throttle;
use tokio::{sync::Semaphore, time::timeout};
use weir_overlay::KeyId;

/// How many passwords are hashed at a time: each takes 19 MiB and a processor.
const AT_ONCE: usize = 2;
/// How many more may wait for that. Whoever comes then is told to come again.
const WAITING: usize = 16;
/// How long one waits.
const WAIT: Duration = Duration::from_secs(10);
/// After how many seconds somebody who was turned away for want of room may come again.
const COME_AGAIN: u64 = 5;
/// How old, in seconds, the time of a token's last use may be before it is written again.
const LAST_USED_STEP: i64 = 60;

/// Who asks, and what they may do.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// For the audit log.
    pub actor: Actor,
    /// What they may do.
    pub scopes: Scopes,
}

impl Caller {
    /// Whoever gave the password of this account, asking from this address. An account may do
    /// everything.
    pub(crate) fn of_account(account: &AccountRow, address: IpAddr) -> Self {
        Self {
            actor: Actor::Account {
                name: account.name.clone(),
                address,
            },
            scopes: Scopes::all(),
        }
    }
}

/// Checks passwords, a few at a time, and ever more slowly for who guesses.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    room: Arc<Semaphore>,
    throttle: Mutex<Throttle>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            room: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            throttle: Mutex::default(),
        }
    }
}

impl Passwords {
    /// The account of this name, when the password is right.
    ///
    /// An unknown name takes as long as a wrong password, and is answered alike.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] when name or password is wrong; [`Refusal::TooMany`] after
    /// several wrong ones, or when too many are being checked.
    pub(crate) async fn log_in(
        &self,
        store: &Store,
        name: &str,
        password: Password,
    ) -> Result<AccountRow, Refusal> {
        self.begin(name)?;
        let found = store.read().await?.account(name).await?;
        let stored = found.as_ref().map(|row| row.password_hash.clone());
        let right = self.in_turn(move || match stored {
            Some(stored) => verify(&password, &stored),
            // As much work as for an account that exists.
            None => hash(&password).map(|_| false),
        });
        if !right.await?? {
            return Err(wrong());
        }
        self.lock().succeeded(name);
        found.ok_or_else(wrong)
    }

    /// Hashes a new password, in its turn.
    ///
    /// # Errors
    /// [`Refusal::TooMany`] when too many are being hashed.
    pub(crate) async fn hash(&self, password: Password) -> Result<String, Refusal> {
        let hashed = self.in_turn(move || hash(&password)).await?;
        Ok(hashed?)
    }

    /// Counts an attempt before it is made, so that attempts at the same time count too.
    fn begin(&self, name: &str) -> Result<(), Refusal> {
        let allowed = self.lock().begin(name, clock::now());
        allowed.map_err(|seconds| Refusal::TooMany {
            detail: format!(
                "too many wrong passwords for {name}: try again in {seconds} seconds (tokens and \
                 the admin socket go on working)"
            ),
            retry_after: seconds,
        })
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = || Refusal::TooMany {
            detail: "the coordinator is checking many passwords: try again in a few seconds"
                .to_owned(),
            retry_after: COME_AGAIN,
        };
        let _room = self.room.try_acquire().map_err(|_| busy())?;
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = timeout(WAIT, turn).await.map_err(|_| busy())?;
        // The turn goes with the work: it lasts as long as the memory is in use, also when nobody
        // waits for the result any more.
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| busy())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Throttle> {
        // A panic elsewhere leaves it whole: every change of it is one call.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong() -> Refusal {
    Refusal::Unauthenticated {
        detail: "name or password is wrong: an admin on the coordinator's host can give a new \
                 password with coordinator users grant-admin NAME"
            .to_owned(),
    }
}

/// Who holds this token, asking from this address.
///
/// # Errors
/// [`Refusal::Unauthenticated`], when it is none, or one that is valid no more.
pub(crate) async fn authenticate(
    store: &Store,
    token: &str,
    address: IpAddr,
) -> Result<Caller, Refusal> {
    let no = |detail: &str| Refusal::Unauthenticated {
        detail: detail.to_owned(),
    };
    let unknown = "this is no token of this coordinator: make one with coordinator tokens create";
    let token: AdminToken = token.parse().map_err(|_| no(unknown))?;
    let now = clock::now();
    let found = store.read().await?.admin_token(token.id()).await?;
    let row = found
        .filter(|row| token.matches(&row.secret_hash))
        .ok_or_else(|| no(unknown))?;
    if row.revoked_at.is_some() {
        return Err(no("this token was revoked: make another one with \
                       coordinator tokens create"));
    }
    if now >= row.expires_at {
        return Err(no("this token has expired: make another one with \
                       coordinator tokens create"));
    }
    if row
        .last_used_at
        .is_none_or(|last| now - last >= LAST_USED_STEP)
    {
        // Reading must go on when nothing can be written, on a full disk for one.
        if let Err(error) = note_use(store, &row.id, now).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot note that a token was used"
            );
        }
    }
    Ok(Caller {
        actor: Actor::Token {
            id: row.id,
            name: row.name,
            account: row.account,
            address,
        },
        scopes: row.scopes,
    })
}

async fn note_use(store: &Store, id: &KeyId, now: i64) -> Result<(), StoreError> {
    let mut tx = store.note().await?;
    tx.use_admin_token(id, now).await?;
    tx.commit().await
}
