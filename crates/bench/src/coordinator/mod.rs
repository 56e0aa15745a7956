//! Measures a coordinator: the real program, in a process of its own, with agents over TLS that
//! sign their requests.

mod agent;
mod network;
mod server;
mod world;

use crate::report::{self, Figure, Report, milliseconds};
use anyhow::{Context as _, Result, bail};
use clap::{Args, value_parser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use world::{Spent, World};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Numbers of agents, the greatest last; aims are for 10,000
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000],
          value_parser = value_parser!(u32).range(100..=12_000))]
    agents: Vec<u32>,
    /// Let the agents speak HTTP/1.1: a connection for the stream, and others for requests beside it
    #[arg(long)]
    http1: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How often each small change is measured: the slowest of so many is the 99th percentile, or
/// worse.
const CHANGES: usize = 20;
/// How often a change that touches all is.
const LARGE_CHANGES: usize = 2;

/// What was measured at one size.
#[derive(Debug)]
struct Measured {
    agents: usize,
    join_each: Duration,
    full_bytes: usize,
    memory_kib: f64,
    endpoint: Vec<Spent>,
    join: Vec<Spent>,
    policy_few: Vec<Spent>,
    policy_all: Vec<Spent>,
    hub: Vec<Spent>,
    storm: Spent,
    full_storm: Spent,
    tried_again: usize,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    raise_limit_of_files(options.agents.iter().copied().max().unwrap_or_default())?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
    let mut figures = Vec::new();
    let mut all = Vec::new();
    for agents in &options.agents {
        let measured = runtime.block_on(measure(usize::try_from(*agents)?, !options.http1))?;
        figures.extend(measured.figures());
        all.push(measured);
    }
    if let [first, .., last] = all.as_slice() {
        figures.extend(growth(first, last));
    }
    let report = Report {
        name: "coordinator",
        machine: report::machine(),
        figures,
    };
    report.print(options.json)
}

/// Each process holds an end of each agent's connection, and for a while of two.
fn raise_limit_of_files(agents: u32) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of files")?;
    let wanted = u64::from(agents) + u64::from(agents) / 2 + 200;
    if most < wanted {
        bail!(
            "{agents} agents need {wanted} open files, and this shell allows {most} (ulimit -Hn): \
             raise it, or measure fewer with --agents"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of files")
}

async fn measure(agents: usize, http2: bool) -> Result<Measured> {
    let (mut world, join_each) = World::start(agents, http2).await?;
    let empty = world.server.memory_kib()?;
    let first = world.connect_all().await?;
    let memory_kib = (world.server.memory_kib()? - empty) / precise(agents);
    let (mut endpoint, mut join, mut policy_few, mut policy_all) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut hub = Vec::new();
    for number in 0..CHANGES {
        endpoint.push(world.change_endpoint(number).await?);
    }
    for number in 0..CHANGES / 4 {
        join.push(world.join_one(number).await?);
    }
    for number in 0..CHANGES / 4 {
        policy_few.push(world.change_policy_of_a_team(number).await?);
    }
    for number in 0..LARGE_CHANGES {
        let monitored = number.is_multiple_of(2);
        policy_all.push(world.change_policy_of_all(monitored).await?);
        if monitored {
            for number in CHANGES..2 * CHANGES {
                hub.push(world.change_endpoint(number).await?);
            }
        }
    }
    world.disconnect_all().await;
    let storm = world.connect_all().await?;
    world.disconnect_all().await;
    world.forget_maps();
    let full_storm = world.connect_all().await?;
    Ok(Measured {
        agents,
        join_each,
        full_bytes: first.bytes,
        memory_kib,
        endpoint,
        join,
        policy_few,
        policy_all,
        hub,
        storm,
        full_storm,
        tried_again: world.tried_again(),
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of agents and bytes are far below 2^52"
)]
const fn precise(number: usize) -> f64 {
    number as f64
}

fn slowest(spent: &[Spent]) -> f64 {
    spent
        .iter()
        .map(|one| milliseconds(one.time))
        .fold(0.0, f64::max)
}

fn mean(spent: &[Spent], of: impl Fn(&Spent) -> f64) -> f64 {
    spent.iter().map(of).sum::<f64>() / precise(spent.len().max(1))
}

impl Measured {
    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        let at = |what: &str| format!("{} agents: {what}", self.agents);
        let few = [
            (&self.endpoint, "one node's endpoint, told to 10"),
            (&self.join, "one node joining, told to 11"),
            (&self.policy_few, "a line of the policy that touches 10"),
            (
                &self.hub,
                "one node's endpoint, told to 11 of whom one has all as its peers",
            ),
        ];
        for (spent, what) in few {
            let time = slowest(spent);
            figures.push(
                Figure::new(
                    at(&format!(
                        "{what}: from sending the request to the last one's receipt, slowest of {}",
                        spent.len()
                    )),
                    time,
                    "ms",
                )
                .below(100.0),
            );
            let cpu = mean(spent, |one| one.cpu_ms);
            figures.push(
                Figure::new(
                    at("the coordinator's CPU for that, with the reports"),
                    cpu,
                    "ms",
                )
                .below(20.0),
            );
            let bytes = mean(spent, |one| precise(one.bytes));
            let what = at("bytes sent for that; the yardstick is each agent's full map");
            figures.push(Figure::new(what, bytes, "B").against(precise(self.full_bytes), 10.0));
        }
        let all = &self.policy_all;
        figures.push(
            Figure::new(
                at("a line of the policy that touches all, to the last one's receipt"),
                slowest(all),
                "ms",
            )
            .below(5_000.0),
        );
        let reported = all.iter().map(|one| milliseconds(one.reported));
        let what = at("the same, to the last one's report that it is in force");
        figures.push(Figure::new(what, reported.fold(0.0, f64::max), "ms"));
        let cpu = mean(all, |one| one.cpu_ms);
        figures.push(Figure::new(
            at("the coordinator's CPU for that, with the reports"),
            cpu,
            "ms",
        ));
        let bytes = mean(all, |one| precise(one.bytes));
        let what = at("bytes sent for that; the yardstick is each agent's full map");
        figures.push(Figure::new(what, bytes, "B").against(precise(self.full_bytes), 1.0));
        figures.push(
            Figure::new(
                at("memory of the coordinator for each connected agent"),
                self.memory_kib,
                "KiB",
            )
            .below(64.0),
        );
        let storm = milliseconds(self.storm.time);
        figures.push(
            Figure::new(
                at(
                    "all reconnect at once, to the last one's first message; the yardstick is \
                    sending each its full map",
                ),
                storm,
                "ms",
            )
            .below(30_000.0),
        );
        if let Some(storm) = figures.last_mut() {
            let full = milliseconds(self.full_storm.time);
            storm.yardstick = Some(full);
            storm.ratio = Some(full / storm.value);
        }
        figures.push(Figure::time(
            at("the same, to the last one's report"),
            self.storm.reported,
        ));
        let cpu = self.storm.cpu_ms / precise(self.agents);
        figures.push(Figure::new(
            at("the coordinator's CPU for each of them"),
            cpu,
            "ms",
        ));
        let bytes = precise(self.storm.bytes);
        let what = at("bytes of maps sent for that; the yardstick is each agent's full map");
        figures.push(Figure::new(what, bytes, "B").against(precise(self.full_storm.bytes), 10.0));
        let again = at("times that agents were sent away or cut off in all of this");
        figures.push(Figure::new(again, precise(self.tried_again), "times"));
        figures.push(Figure::time(
            at("enrolling one after the other in 16 lanes, for each"),
            self.join_each,
        ));
        figures
    }
}

/// How much more the last size takes than the first.
fn growth(first: &Measured, last: &Measured) -> Vec<Figure> {
    let of = |what: &str, small: f64, large: f64| {
        let (from, to) = (first.agents, last.agents);
        let what = format!("growth from {from} to {to} agents: {what}");
        Figure::new(what, large / small, "times")
    };
    let cpu = |spent: &[Spent]| mean(spent, |one| one.cpu_ms);
    vec![
        of(
            "one node's endpoint, time",
            slowest(&first.endpoint),
            slowest(&last.endpoint),
        ),
        of(
            "one node's endpoint, CPU",
            cpu(&first.endpoint),
            cpu(&last.endpoint),
        ),
        of(
            "one node's endpoint where one has all as its peers, CPU",
            cpu(&first.hub),
            cpu(&last.hub),
        ),
        of(
            "one node joining, time",
            slowest(&first.join),
            slowest(&last.join),
        ),
        of(
            "a line that touches 10, time",
            slowest(&first.policy_few),
            slowest(&last.policy_few),
        ),
        of(
            "a line that touches all, time",
            slowest(&first.policy_all),
            slowest(&last.policy_all),
        ),
        of("memory for each agent", first.memory_kib, last.memory_kib),
        of(
            "all reconnect at once",
            milliseconds(first.storm.time),
            milliseconds(last.storm.time),
        ),
    ]
}
