//! Machines without an auth key: they ask, and wait for an admin.
//!
//! Asking lets nobody in. A request is one row with a code that nobody can guess, and what the
//! admin sees under a code never changes: a machine that asks for something else gets another one.

use super::{Sender, host::check_host, machine_revoked};
use crate::{
    Coordinator,
    clock::{self, hexadecimal, random},
    refusal::Refusal,
    store::{Tx, WaitingRow},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use weir_protocol::{ApprovalAnswer, ApprovalRequest, ErrorCode};

/// How long a request waits for an admin, in seconds; and how long a machine that was denied waits
/// until it may ask again.
pub(crate) const WAIT_SECONDS: i64 = 15 * 60;
/// How many machines wait at a time.
const MAX_WAITING: u64 = 256;
/// How many of them from one source: what is behind one address, or one IPv6 network.
const MAX_OF_SOURCE: u64 = 16;
/// How many tags may be asked for.
const MAX_TAGS: usize = 64;
/// The longest that an answer is held back while nobody has decided.
const MAX_HOLD: Duration = Duration::from_secs(20);
/// How many answers are held back at a time. Who comes then is answered at once, and asks again.
const MAX_HELD: usize = 256;
/// How often it is looked whether another coordinator was told the decision.
const LOOK: Duration = Duration::from_secs(2);
/// When it is worth asking again while too many wait, in seconds.
const COME_AGAIN: u64 = 60;

/// What those who wait share.
#[derive(Debug)]
pub(crate) struct Approvals {
    decided: watch::Sender<()>,
    held: Arc<Semaphore>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            decided: watch::Sender::new(()),
            held: Arc::new(Semaphore::new(MAX_HELD)),
        }
    }
}

impl Approvals {
    /// Has all who wait look at once.
    pub(crate) fn look(&self) {
        self.decided.send_replace(());
    }
}

/// Where an admin decides about the request of this code.
#[must_use]
pub(crate) fn page_url(coordinator: &Coordinator, code: &str) -> String {
    let url = coordinator.identity.url.trim_end_matches('/');
    format!("{url}/register/{code}")
}

/// Lets a machine wait for an admin, or tells how its request stands.
///
/// # Errors
/// [`Refusal`]; then nothing was stored.
pub(crate) async fn ask(
    coordinator: &Coordinator,
    request: ApprovalRequest,
    sender: Sender,
) -> Result<ApprovalAnswer, Refusal> {
    let Some(code) = request.code.as_deref() else {
        return begin(coordinator, request, sender).await;
    };
    // Before the first look, so that no decision falls between the two.
    let mut decided = coordinator.approvals.decided.subscribe();
    let hold = Duration::from_secs(request.wait_seconds).min(MAX_HOLD);
    let until = Instant::now() + hold;
    let held = coordinator.approvals.held.try_acquire();
    loop {
        let mut tx = coordinator.store.read().await?;
        let answer = standing(coordinator, &mut tx, code, sender).await?;
        drop(tx);
        let is_over = Instant::now() >= until || coordinator.is_stopping();
        if held.is_err() || is_over || !matches!(answer, ApprovalAnswer::Pending { .. }) {
            return Ok(answer);
        }
        let look = LOOK.min(until.saturating_duration_since(Instant::now()));
        // An error is the end of that time.
        timeout(look, decided.changed()).await.ok();
    }
}

/// How the request of this machine stands that has this code.
async fn standing(
    coordinator: &Coordinator,
    tx: &mut Tx,
    code: &str,
    sender: Sender,
) -> Result<ApprovalAnswer, Refusal> {
    if tx.node_by_machine(&sender.machine).await?.is_some() {
        return Ok(ApprovalAnswer::Approved);
    }
    if tx.is_revoked(&sender.machine).await? {
        return Err(machine_revoked());
    }
    let now = clock::now();
    // By the machine, not by the code: nobody asks about the request of another one.
    let row = tx.waiting_of(&sender.machine, now).await?;
    let row = row.filter(|row| row.code == code);
    Ok(row.map_or(ApprovalAnswer::Expired, |row| told(coordinator, row, now)))
}

fn told(coordinator: &Coordinator, row: WaitingRow, now: i64) -> ApprovalAnswer {
    let left = u64::try_from(row.expires_at - now).unwrap_or(0);
    if row.denied_at.is_some() {
        return ApprovalAnswer::Denied {
            again_in_seconds: left,
        };
    }
    ApprovalAnswer::Pending {
        url: page_url(coordinator, &row.code),
        code: row.code,
        expires_in_seconds: left,
    }
}

/// What a machine asks for now that waits or was denied already; else a new request.
async fn begin(
    coordinator: &Coordinator,
    request: ApprovalRequest,
    sender: Sender,
) -> Result<ApprovalAnswer, Refusal> {
    check_host(&request.host)?;
    if request.tags.len() > MAX_TAGS {
        return Err(Refusal::new(
            ErrorCode::BadRequest,
            format!("a machine asks for at most {MAX_TAGS} tags"),
        ));
    }
    let source = source(sender.address);
    // Strangers cost reads; only what is to be stored waits for its turn to write.
    let mut tx = coordinator.store.read().await?;
    if let Some(known) = known(coordinator, &mut tx, &request, &source, sender).await? {
        return Ok(known);
    }
    drop(tx);
    let row = WaitingRow {
        machine_key: sender.machine,
        code: hexadecimal(&random::<16>()?),
        node_key: request.node_key,
        tags: request.tags.clone(),
        host: request.host.clone(),
        address: sender.address,
        source,
        asked_at: sender.now,
        expires_at: sender.now.saturating_add(WAIT_SECONDS),
        denied_at: None,
    };
    let mut tx = coordinator.store.write().await?;
    if let Some(known) = known(coordinator, &mut tx, &request, &row.source, sender).await? {
        return Ok(known);
    }
    tx.prune_waiting(sender.now).await?;
    tx.insert_waiting(&row).await?;
    tx.commit().await?;
    tracing::info!(
        machine = %sender.machine,
        address = %sender.address,
        hostname = row.host.hostname,
        "a machine asks to be let in: see coordinator nodes pending"
    );
    Ok(told(coordinator, row, sender.now))
}

/// What is to be answered without a new request.
async fn known(
    coordinator: &Coordinator,
    tx: &mut Tx,
    request: &ApprovalRequest,
    source: &str,
    sender: Sender,
) -> Result<Option<ApprovalAnswer>, Refusal> {
    if tx.node_by_machine(&sender.machine).await?.is_some() {
        return Ok(Some(ApprovalAnswer::Approved));
    }
    if tx.is_revoked(&sender.machine).await? {
        return Err(machine_revoked());
    }
    if let Some(row) = tx.waiting_of(&sender.machine, sender.now).await? {
        let is_same = row.node_key == request.node_key
            && row.tags == request.tags
            && row.host.hostname == request.host.hostname
            && row.host.advertised_routes == request.host.advertised_routes;
        if is_same || row.denied_at.is_some() {
            return Ok(Some(told(coordinator, row, sender.now)));
        }
        // The new one takes its place, so that there are no more than before.
        return Ok(None);
    }
    let (all, own) = tx.count_waiting(source, sender.now).await?;
    let too_many = |who: &str| Refusal::TooMany {
        detail: format!(
            "too many machines {who} wait for approval: try again in a few minutes, or join with an \
             auth key (coordinator keys create), for which nobody waits"
        ),
        retry_after: COME_AGAIN,
    };
    if own >= MAX_OF_SOURCE {
        return Err(too_many(&format!("from {source}")));
    }
    if all >= MAX_WAITING {
        return Err(too_many("already"));
    }
    Ok(None)
}

/// What is counted together: an address, or the IPv6 network that is given to one customer at least
/// (RFC 6177, section 2).
fn source(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_count_together() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2::9"), "2001:db8:1:2::/64");
    }
}
