//! Joining: who this machine is to the coordinator, whether it is let in, and the first map.

use anyhow::{Result, anyhow, bail};
use std::time::Duration;
use tokio::time::Instant;
use weir_protocol::{
    ApprovalAnswer, ApprovalRequest, AuthKey, ErrorCode, HostInfo, MapRequest, NetworkMap,
    RegisterRequest, RegisterResponse, StreamMessage,
};

use super::{
    super::{
        agent::Agent,
        approval::{Asked, Denied},
        host::{Host, host_info},
        saved::{Enrolment, Saved},
    },
    Checked, Strangers,
};
use crate::{
    coordinator::{Client, ClientError, MapStream},
    settings::{CoordinatorUrls, OrNone},
};

/// What the coordinator said to who registers.
pub(super) enum Registered {
    /// The machine is in.
    In(RegisterResponse),
    /// An admin is to decide.
    Asked(Box<Asked>),
}

impl<H: Host> Agent<H> {
    /// The client for a coordinator: its pin comes with an auth key or by itself, and is kept from
    /// then on. Without one, its certificate must be one that this host trusts.
    pub(super) fn client(&self, checked: &Checked, saved: &Saved) -> Result<(Client, Enrolment)> {
        let urls = &checked.urls;
        let known = saved
            .enrolment
            .as_ref()
            .filter(|enrolment| is_enrolled_at(enrolment, urls));
        let from_key = checked.auth_key.as_ref().map(AuthKey::pin);
        let pin = if checked.key_is_given {
            from_key
        } else if checked.pin_is_given {
            checked.pin
        } else {
            let known = known.and_then(|known| known.pin);
            known.or(checked.pin).or(from_key)
        };
        let client = Client::new(urls.clone(), pin, self.keys().machine)?;
        let enrolment = Enrolment {
            coordinator: OrNone(Some(urls.clone())),
            pin,
        };
        Ok((client, enrolment))
    }

    pub(super) async fn register(
        &self,
        client: &Client,
        checked: &Checked,
        saved: &Saved,
        strangers: Strangers,
        deadline: Instant,
    ) -> Result<Registered> {
        let host = host_info(
            &checked.settings,
            checked.effects.ipv6,
            checked.facts.addresses.clone(),
        );
        let request = |key: Option<&AuthKey>| RegisterRequest {
            auth_key: key.map(AuthKey::reveal),
            node_key: self.keys().newest().public(),
            tags: checked.settings.advertise_tags.0.clone(),
            host: host.clone(),
            reauthenticate: checked.reauthenticate,
        };
        let enrolled_here = saved
            .enrolment
            .as_ref()
            .is_some_and(|known| is_enrolled_at(known, &checked.urls));
        let key = checked.auth_key.as_ref();
        // A key in the file was for the first time; one in the command is meant.
        let is_meant = checked.key_is_given || checked.reauthenticate || !enrolled_here;
        let first_key = key.filter(|_| is_meant);
        match client.register(&request(first_key), left(deadline)).await {
            Err(error) if error.needs_auth_key() && first_key.is_none() && key.is_some() => {
                let request = request(key);
                let registered = client.register(&request, left(deadline)).await?;
                Ok(Registered::In(registered))
            }
            Err(error) if error.is_unknown() && key.is_none() && strangers == Strangers::Ask => {
                match self
                    .ask_admin(client, checked, host.clone(), deadline)
                    .await?
                {
                    Some(asked) => Ok(Registered::Asked(Box::new(asked))),
                    // An admin was faster.
                    None => {
                        let request = request(None);
                        let registered = client.register(&request, left(deadline)).await?;
                        Ok(Registered::In(registered))
                    }
                }
            }
            result => Ok(Registered::In(result?)),
        }
    }

    /// Asks to be let in without an auth key; none when this machine is in already.
    async fn ask_admin(
        &self,
        client: &Client,
        checked: &Checked,
        host: HostInfo,
        deadline: Instant,
    ) -> Result<Option<Asked>> {
        let url = client.url().to_string();
        let mut request = ApprovalRequest {
            node_key: self.keys().newest().public(),
            tags: checked.settings.advertise_tags.0.clone(),
            host,
            code: None,
            wait_seconds: 0,
        };
        match client.approval(&request, left(deadline)).await {
            Ok(ApprovalAnswer::Approved) => Ok(None),
            Ok(ApprovalAnswer::Pending {
                code,
                url,
                expires_in_seconds,
            }) => {
                request.code = Some(code);
                Ok(Some(Asked {
                    client: client.clone(),
                    request,
                    url,
                    seconds: expires_in_seconds,
                }))
            }
            Ok(ApprovalAnswer::Denied { again_in_seconds }) => {
                Err(Denied::for_seconds(again_in_seconds).into())
            }
            Ok(ApprovalAnswer::Expired) => bail!("the coordinator at {url} takes no requests"),
            Err(ClientError::Refused(problem)) if problem.code == ErrorCode::NotFound => bail!(
                "this machine is not enrolled at {url}, and this coordinator is of a version that \
                 lets nobody in without an auth key: pass --auth-key KEY; `coordinator keys \
                 create`, on the coordinator's host, makes one"
            ),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn first_map(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<(NetworkMap, MapStream)> {
        let mut stream = client.map(&MapRequest::default(), left(deadline)).await?;
        let wait = async {
            loop {
                match stream.next_message().await? {
                    StreamMessage::Full { map } => return Ok(*map),
                    StreamMessage::Delta { .. }
                    | StreamMessage::Heartbeat { .. }
                    | StreamMessage::Closing { .. } => {}
                }
            }
        };
        let map = tokio::time::timeout_at(deadline, wait).await.unwrap_or_else(|_| {
            Err(anyhow!(
                "the coordinator sent no network map in time: try again, or give it longer with \
                 --timeout"
            ))
        })?;
        Ok((map, stream))
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Whether one of these coordinators knows this machine already.
pub(super) fn is_enrolled_at(enrolment: &Enrolment, urls: &CoordinatorUrls) -> bool {
    let known = enrolment.coordinator.0.as_ref();
    known.is_some_and(|known| known.meet(urls))
}
