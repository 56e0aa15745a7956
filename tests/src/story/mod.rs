//! The story of Weir: a private network reaches a service that admits one address.
//!
//! [`Story::begin`] builds the network, starts the coordinator and the agents' daemons and looks
//! at every host; [`Story::play`] then goes through the nine steps, each a file of its own here:
//!
//! | step | file | what happens |
//! |---|---|---|
//! | 1 | `alone` | without Weir, alice is refused by the service |
//! | 2 | `advertised` | the relay offers two addresses; nobody approved them, so nothing changes |
//! | 3 | `approved` | an admin approves; within a second alice is served, as the relay |
//! | 4 | `filtered` | bob and the build server get what the policy grants, and no more |
//! | 5 | `no_open_proxy` | even a hand-made route leads nowhere else |
//! | 6 | `office` | a second relay, and a forged packet |
//! | 7 | `policy_change` | a running download stops with the policy that allowed it |
//! | 8 | `outage` | the coordinator dies, the agents restart, the packets go on |
//! | 9 | `goodbye` | everybody leaves, and the hosts are as they were |

mod advertised;
mod alone;
mod approved;
mod check;
mod filtered;
mod forced;
mod goodbye;
mod narrator;
mod no_open_proxy;
mod office;
mod outage;
mod policies;
mod policy_change;
mod world;

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

pub use check::{Check, CheckFailed, Figure, StepReport, Teller};
pub use narrator::{Heading, Narrator, Quiet};
pub use policies::{ALICE, BOB, policy};
pub use world::World;

type Step = fn(&World, &mut Teller<'_>) -> Result<()>;
type LastSteps = fn(&mut World, &mut Teller<'_>) -> Result<()>;

/// The steps that only use the network.
const STEPS: [(&str, Step); 7] = [
    (alone::TITLE, alone::tell),
    (advertised::TITLE, advertised::tell),
    (approved::TITLE, approved::tell),
    (filtered::TITLE, filtered::tell),
    (no_open_proxy::TITLE, no_open_proxy::tell),
    (office::TITLE, office::tell),
    (policy_change::TITLE, policy_change::tell),
];
/// The steps that end programs.
const LAST_STEPS: [(&str, LastSteps); 2] = [
    (outage::TITLE, outage::tell),
    (goodbye::TITLE, goodbye::tell),
];

/// How long a client waits before it calls a service unreachable. Where it matters, a counter
/// shows that the packets arrived and were dropped, so that slowness is not taken for refusal.
const REFUSAL_WAIT: Duration = Duration::from_millis(500);
/// How long a client waits for a service that must answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long a change may take where no promise names a time.
const CHANGE_DEADLINE: Duration = Duration::from_secs(5);
/// The promise: a change is in force within a second.
const PROMISE: Duration = Duration::from_secs(1);

/// The story, ready to be told.
#[derive(Debug)]
pub struct Story {
    world: World,
}

/// Why a story ended early, with everything that may explain it.
#[derive(Debug, thiserror::Error)]
#[error("step {step}, {title}: {reason:#}")]
pub struct Interrupted {
    /// The step.
    pub step: usize,
    /// Its title.
    pub title: &'static str,
    /// A [`CheckFailed`], or what could not be done.
    pub reason: Error,
    /// What was typed last, the state of every node, and the logs.
    pub context: String,
}

impl Story {
    /// Builds the network and starts what runs in it.
    ///
    /// # Errors
    /// A piece of it cannot be built or started.
    pub fn begin(narrator: &mut dyn Narrator) -> Result<Self> {
        narrator.begin(&Heading::prologue());
        Ok(Self {
            world: World::new(narrator)?,
        })
    }

    /// The network.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Tells all nine steps.
    ///
    /// # Errors
    /// [`Interrupted`] at the first check that fails.
    pub fn play(&mut self, narrator: &mut dyn Narrator) -> Result<Vec<StepReport>, Interrupted> {
        let mut reports = Vec::new();
        for (index, (title, tell)) in STEPS.into_iter().enumerate() {
            let world = &self.world;
            reports.push(
                step(index + 1, title, narrator, |teller| tell(world, teller))
                    .map_err(|interrupted| interrupted.explained(&self.world))?,
            );
        }
        for (index, (title, tell)) in LAST_STEPS.into_iter().enumerate() {
            let number = STEPS.len() + index + 1;
            let world = &mut self.world;
            reports.push(
                step(number, title, narrator, |teller| tell(world, teller))
                    .map_err(|interrupted| interrupted.explained(&self.world))?,
            );
        }
        Ok(reports)
    }

    /// Brings the network back after the last step, for somebody who wants to look around: the
    /// coordinator and every agent, with the settings they had.
    ///
    /// # Errors
    /// A program does not start.
    pub fn revive(&mut self) -> Result<()> {
        self.world.coordinator.serve()?;
        for agent in self.world.agents() {
            agent.up("")?;
        }
        for agent in self.world.agents() {
            agent.settled()?;
        }
        Ok(())
    }

    /// Fails when a program logged an error.
    ///
    /// # Errors
    /// There is such a line.
    pub fn finish(&self) -> Result<()> {
        self.world.network.lab.finish()
    }
}

fn step(
    number: usize,
    title: &'static str,
    narrator: &mut dyn Narrator,
    tell: impl FnOnce(&mut Teller<'_>) -> Result<()>,
) -> Result<StepReport, Interrupted> {
    narrator.begin(&Heading { number, title });
    let started = Instant::now();
    let mut teller = Teller::new(narrator);
    match tell(&mut teller) {
        Ok(()) => Ok(teller.report(number, title, started.elapsed())),
        Err(reason) => Err(Interrupted {
            step: number,
            title,
            reason,
            context: String::new(),
        }),
    }
}

impl Interrupted {
    fn explained(mut self, world: &World) -> Self {
        self.context = world.explain();
        self
    }
}
