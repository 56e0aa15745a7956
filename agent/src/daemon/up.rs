//! `up` and `set`: everything is checked before anything is changed.

mod joining;

use anyhow::{Context, Result, anyhow, bail};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};
use tokio::{net::lookup_host, time::Instant};
use tracing::{info, warn};
use weir_kernel_plan::{
    Effects, HostFacts, PortFact, PreflightRequest, Refusal, WireguardChoice as PlanChoice,
    preflight,
};
use weir_protocol::{AuthKey, ItemFailure, NetworkMap, Pin, UpdateRequest};
use weir_reconcile::Goal;

use self::joining::{Registered, is_enrolled_at};
use super::{
    agent::Agent,
    approval::{Asked, Asking},
    host::{Host, host_info},
    saved::{Applied, Enrolment, HostChoice, Saved},
    session::Session,
};
use crate::{
    auth_key::read_auth_key,
    control::{NodeState, Response, UpReport, UpRequest},
    coordinator::{Client, now},
    route_checks,
    settings::{
        CoordinatorUrls, FileSettings, SettingCommand, Settings, WireguardChoice, explicit_after,
        parse_file,
    },
};

/// How long `up` may take when nobody says.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the first pass over the kernel may take before `up` answers without its end: a small
/// host takes most of a minute for its first ruleset after a boot.
const PASS_DEADLINE: Duration = Duration::from_secs(90);
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// What is to come into force, checked as far as this host goes.
struct Checked {
    settings: Settings,
    facts: HostFacts,
    effects: Effects,
    urls: CoordinatorUrls,
    /// Its addresses.
    coordinator: BTreeSet<IpAddr>,
    auth_key: Option<AuthKey>,
    /// The coordinator's pin, as the command or else the file says.
    pin: Option<Pin>,
    /// Whether that was named in the command.
    pin_is_given: bool,
    /// Whether the key was named in the command, and not only in the file.
    key_is_given: bool,
    /// Whether the machine is to be let in again, though it is in.
    reauthenticate: bool,
}

/// What is done where the coordinator does not know this machine, and there is no auth key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strangers {
    /// An admin is asked.
    Ask,
    /// It is an error.
    StayOut,
}

/// What became of joining.
enum Joined {
    /// The node is up.
    Up(Box<UpReport>),
    /// An admin is to decide.
    Asked(Box<Asked>),
}

impl<H: Host> Agent<H> {
    /// Carries out `up` or `set`. An error changed nothing on the host, unless it says so.
    ///
    /// # Errors
    /// A sentence for each thing that is wrong, and what to do.
    pub(crate) async fn change(
        self: &Arc<Self>,
        command: SettingCommand,
        request: UpRequest,
    ) -> Result<Response> {
        let _only_one = self.one_command.lock().await;
        let before = self.state().waiting.task();
        let result = self.change_now(command, request, Strangers::Ask).await;
        if let (Ok(Response::Up(_) | Response::Waiting(_)), Some(before)) = (&result, before) {
            before.abort();
        }
        result
    }

    /// As [`Self::change`], for who has the turn.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn change_now(
        self: &Arc<Self>,
        command: SettingCommand,
        request: UpRequest,
        strangers: Strangers,
    ) -> Result<Response> {
        let file = self.read_config()?;
        let saved = self.state().saved.clone();
        let below = Settings::default().with(&file.change);
        let explicit = explicit_after(command, &saved.explicit, &request.change, &below).map_err(
            |left_out| {
                anyhow!(
                    "this would take back settings that are in force ({}). Nothing was changed. \
                     To keep them, run:\n\n    {}\n\nTo let them go back to their defaults, add \
                     --reset; to change single settings, use `agent set`.",
                    left_out
                        .names
                        .iter()
                        .map(|name| format!("--{name}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                    left_out.command
                )
            },
        )?;
        let settings = below.with(&explicit);
        let refused = route_checks::never_routable(&settings);
        if !refused.is_empty() {
            bail!("{}", refused.join("\n"));
        }
        let next = Saved {
            explicit,
            ..saved.clone()
        };
        if command == SettingCommand::Set && saved.state != NodeState::Up {
            next.write(&self.directory)?;
            self.state().saved = next;
            return Ok(Response::Saved);
        }
        let deadline = Instant::now()
            + request
                .timeout
                .map(Duration::from_secs)
                .or(file.timeout)
                .unwrap_or(DEFAULT_TIMEOUT);
        let checked = self.check(settings, &saved, &request, &file).await?;
        let result = self
            .join_and_apply(checked, next, &saved, (request.force, strangers), deadline)
            .await;
        // Whatever became of it: a node that is up talks to its coordinator.
        self.resume_session();
        match result? {
            Joined::Up(report) => Ok(Response::Up(report)),
            Joined::Asked(asked) => {
                let seconds = i64::try_from(asked.seconds).unwrap_or(0);
                let asking = Asking {
                    request,
                    is_set: command == SettingCommand::Set,
                    until: now().saturating_add(seconds),
                };
                let report = self.wait_for_admin(*asked, &asking)?;
                Ok(Response::Waiting(report))
            }
        }
    }

    fn read_config(&self) -> Result<FileSettings> {
        let path = self.config.display();
        let text = match std::fs::read_to_string(&self.config) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        parse_file(&text).map_err(|error| anyhow!("{path}: {error}"))
    }

    /// All that can be checked without the coordinator.
    async fn check(
        &self,
        settings: Settings,
        saved: &Saved,
        request: &UpRequest,
        file: &FileSettings,
    ) -> Result<Checked> {
        let urls = settings.coordinator.0.clone().context(
            "no coordinator is configured: pass --coordinator https://HOST:8443, or set \
             `coordinator` in /etc/weir/agent.toml",
        )?;
        let key_is_given = request.auth_key.is_some();
        let auth_key = request
            .auth_key
            .as_ref()
            .or(file.auth_key.as_ref())
            .map(read_auth_key)
            .transpose()?;
        let pin_is_given = request.pin.is_some();
        let pin = request.pin.or(file.pin);
        if let (Some(pin), Some(key)) = (pin, auth_key.as_ref().map(AuthKey::pin))
            && pin != key
            && (pin_is_given || key_is_given)
        {
            bail!(
                "the auth key is of another coordinator than --pin: it says {key}; leave --pin out, \
                 or take a key of the coordinator that is meant"
            );
        }
        if settings.exit_node_allow_lan_access && settings.exit_node.0.is_none() {
            bail!("--exit-node-allow-lan-access has no meaning without --exit-node: add it");
        }
        if settings.exit_node.0.is_some() && settings.advertise_exit_node {
            bail!(
                "a node cannot use an exit node and be one: leave out one of --exit-node and --advertise-exit-node"
            );
        }
        let advertised = route_checks::advertised(&settings, true);
        if let Some(route) = settings
            .egress_ip
            .routes
            .keys()
            .find(|route| !advertised.contains(*route))
        {
            bail!(
                "--egress-ip names {route}, which this host does not advertise: add it to \
                 --advertise-routes, or leave it out"
            );
        }
        let before = saved
            .applied
            .as_ref()
            .filter(|_| saved.state != NodeState::Down);
        if before.is_some_and(|before| before.settings.interface != settings.interface) {
            bail!("the interface cannot change while the node is up: run `agent down` first");
        }
        let facts = self
            .host
            .facts(&settings.interface.0, settings.listen_port)
            .await
            .context("cannot look at this host")?;
        let effects = preflight(
            &preflight_request(&settings, &facts, before, request.force),
            &facts,
        )?;
        if before.is_some() && facts.port == PortFact::Taken {
            bail!("{}", Refusal::PortTaken(settings.listen_port));
        }
        let coordinator = resolve(&urls).await;
        if !request.force && !settings.advertise_routes.0.is_empty() {
            let refused = route_checks::cut_off_coordinator(&settings, &coordinator);
            if !refused.is_empty() {
                bail!("{}", refused.join("\n"));
            }
        }
        Ok(Checked {
            settings,
            facts,
            effects,
            urls,
            coordinator,
            auth_key,
            pin,
            pin_is_given,
            key_is_given,
            reauthenticate: request.reauthenticate,
        })
    }

    /// Joins, learns the map, and only then changes files and kernel.
    async fn join_and_apply(
        self: &Arc<Self>,
        checked: Checked,
        mut next: Saved,
        saved: &Saved,
        (force, strangers): (bool, Strangers),
        deadline: Instant,
    ) -> Result<Joined> {
        let (client, enrolment) = self.client(&checked, saved)?;
        let registered = self.register(&client, &checked, saved, strangers, deadline);
        let registered = match registered.await? {
            Registered::In(registered) => registered,
            Registered::Asked(asked) => return Ok(Joined::Asked(asked)),
        };
        if saved.state == NodeState::Down {
            // Whatever comes next: a one-off key is used up now, and this machine is known.
            let mut state = self.state();
            state.saved.enrolment = Some(enrolment.clone());
            state.saved.write(&self.directory)?;
        }
        // Only one stream a machine: the old one makes room.
        self.state().session = None;
        let (map, stream) = self.first_map(&client, deadline).await?;
        let in_force = saved
            .applied
            .as_ref()
            .filter(|_| saved.state == NodeState::Up);
        let exit_in_force = in_force
            .is_some_and(|applied| applied.settings.exit_node == checked.settings.exit_node);
        if let Err(error) = check_map(&checked.settings, &map, exit_in_force, force) {
            self.take_back_routes(&client, &checked, saved).await;
            return Err(error);
        }

        let is_first = saved.state != NodeState::Up;
        let applied = Applied {
            host: HostChoice::new(&checked.effects, &checked.facts, checked.coordinator),
            settings: checked.settings,
        };
        // A node that was down has no map in force: it takes what the coordinator has now, also
        // one that went back in time.
        let begins_anew =
            is_first || is_elsewhere(saved.enrolment.as_ref(), &enrolment) || registered.enrolled;
        next.state = NodeState::Up;
        next.enrolment = Some(enrolment);
        next.applied = Some(applied.clone());
        next.asking = None;
        self.save(next, map.clone(), begins_anew)?;

        let (_, goal) = self
            .pursue()
            .context("the map that was just saved is gone")?;
        let pass = self.reconciler.passed(goal, PASS_DEADLINE).await;
        let failures = pass.map_or_else(
            || {
                vec![ItemFailure {
                    item: "make the kernel what the network map says".to_owned(),
                    reason: format!("it takes longer than {} s", PASS_DEADLINE.as_secs()),
                }]
            },
            |status| status.failures,
        );
        if is_first && !failures.is_empty() {
            return Err(self.take_back(saved, &applied, &failures).await);
        }
        let coordinator = client.url().to_string();
        self.state().session = Some(Session::start(self, client, stream));
        info!(name = %registered.name, "up");
        Ok(Joined::Up(Box::new(UpReport {
            name: map.node.name,
            addresses: map.node.addresses,
            coordinator,
            enrolled: registered.enrolled,
            wireguard: applied.wireguard(self.keys().node.public()),
            host: checked.effects.notes,
            routes: map.node.routes,
            notices: map.notices,
            failures,
        })))
    }

    /// Settings and map on disk; from here on, a restart goes on with them.
    fn save(&self, next: Saved, map: NetworkMap, begins_anew: bool) -> Result<()> {
        let mut state = self.state();
        // An error of either leaves the other as it was: a newer map alone does no harm.
        if begins_anew {
            state.ledger.forget()?;
        }
        state
            .ledger
            .commit(map)
            .context("the network map cannot be taken")?;
        state.ledger_problem = None;
        next.write(&self.directory)?;
        state.saved = next;
        // Whoever waited for it sees the node up, and nothing that is still to be decided.
        state.waiting.report = None;
        Ok(())
    }

    /// A node that did not come up for the first time leaves nothing behind.
    async fn take_back(
        &self,
        saved: &Saved,
        applied: &Applied,
        failures: &[ItemFailure],
    ) -> anyhow::Error {
        let goal = self
            .reconciler
            .pursue(Goal::Down(applied.settings.interface.0.clone()));
        let down = self.reconciler.passed(goal, PASS_DEADLINE).await;
        let clean = down.is_some_and(|status| status.failures.is_empty());
        let mut back = saved.clone();
        {
            let mut state = self.state();
            state.going_down = (!clean).then_some(goal);
            back.enrolment.clone_from(&state.saved.enrolment);
            back.state = if clean {
                NodeState::Down
            } else {
                back.applied = Some(applied.clone());
                NodeState::GoingDown
            };
            if let Err(error) = back.write(&self.directory) {
                warn!("the settings cannot be put back on disk: {error}");
            }
            state.saved = back;
        }
        let what: Vec<_> = failures
            .iter()
            .map(|failure| format!("cannot {}: {}", failure.item, failure.reason))
            .collect();
        anyhow!(
            "{}\n{}",
            what.join("\n"),
            if clean {
                "The host is as it was before."
            } else {
                "Not everything could be taken back; `agent down` tries again, `agent status` \
                 shows what is left."
            }
        )
    }

    /// The coordinator forgets routes that were refused after it had heard of them.
    async fn take_back_routes(&self, client: &Client, checked: &Checked, saved: &Saved) {
        let before = saved.applied.as_ref().map_or_else(
            || Settings {
                advertise_routes: crate::settings::Prefixes::default(),
                advertise_exit_node: false,
                ..checked.settings.clone()
            },
            |applied| applied.settings.clone(),
        );
        let host = host_info(
            &before,
            checked.effects.ipv6,
            checked.facts.addresses.clone(),
        );
        if let Err(error) = client
            .update(&UpdateRequest { host }, Duration::from_secs(5))
            .await
        {
            warn!(%error, "the coordinator still knows routes that were refused here");
        }
    }
}

fn preflight_request(
    settings: &Settings,
    facts: &HostFacts,
    before: Option<&Applied>,
    force: bool,
) -> PreflightRequest {
    PreflightRequest {
        interface: settings.interface.0.clone(),
        listen_port: settings.listen_port,
        wireguard: match settings.wireguard {
            WireguardChoice::Auto => PlanChoice::Auto,
            WireguardChoice::Kernel => PlanChoice::Kernel,
            WireguardChoice::Userspace => PlanChoice::Userspace,
        },
        advertised: route_checks::advertised(settings, facts.ipv6),
        egress: settings.egress_ip.all(),
        already_up: before.is_some(),
        force,
    }
}

/// What the map says against the settings. An exit that is in force and gone does not keep other
/// settings from changing: its traffic is refused already.
fn check_map(
    settings: &Settings,
    map: &NetworkMap,
    exit_in_force: bool,
    force: bool,
) -> Result<()> {
    if let Some(refusal) = route_checks::unknown_exit(settings, map).filter(|_| !exit_in_force) {
        bail!("{refusal}");
    }
    let refused = route_checks::cut_off_peers(settings, map);
    if !force && !refused.is_empty() {
        bail!("{}", refused.join("\n"));
    }
    Ok(())
}

/// Whether what was enrolled before belongs to another network.
fn is_elsewhere(before: Option<&Enrolment>, now: &Enrolment) -> bool {
    before.is_none_or(|before| {
        let urls = now.coordinator.0.as_ref();
        before.pin != now.pin || !urls.is_some_and(|urls| is_enrolled_at(before, urls))
    })
}

/// The coordinators' addresses; none of one whose name is not known, which registering will say.
async fn resolve(urls: &CoordinatorUrls) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for url in urls.iter() {
        let lookup = lookup_host((url.host(), url.port()));
        if let Ok(Ok(found)) = tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
            addresses.extend(found.map(|address| address.ip()));
        }
    }
    addresses
}
