//! Time that passes, and what goes wrong meanwhile.

use super::{COORDINATORS, HOUR, World};
use crate::store::CommitFault;
use std::{sync::Arc, time::Duration};

const YEAR: i64 = 365 * 24 * HOUR;

impl World {
    pub(super) async fn time_passes(&mut self) {
        let seconds = self.random.pick(&[1, 5, 40, 40, 2_400]);
        let passed = Duration::from_secs(seconds);
        tokio::time::advance(passed).await;
        self.running += passed;
        self.now += i64::try_from(seconds).unwrap();
        let last = *self.expiries.last().unwrap();
        let nodes = self.versions.last().unwrap().state.nodes.values();
        let mut ends = nodes.filter_map(|node| node.key_life.end());
        if ends.any(|end| end > last && end <= self.now) {
            self.expiries.push(self.now);
            self.note("moments at which keys expired");
        }
        for number in self.alive() {
            // Its timers ring, unless it is at work.
            self.begin_to_publish(number);
        }
    }

    pub(super) fn heal(&mut self, number: usize) {
        if let Some(one) = &mut self.coordinators[number] {
            one.faults.heal();
            one.wrong_by = 0;
        }
    }

    pub(super) async fn fault(&mut self, number: usize) {
        let faults = Arc::clone(&self.coordinators[number].as_ref().unwrap().faults);
        match self.random.below(10) {
            0 | 1 => {
                self.note("losses of the database");
                faults.set_away(true);
            }
            2 => {
                self.note("full disks");
                faults.set_full(true);
            }
            3 => faults.fail_next_commit(CommitFault::Lost),
            4 => faults.fail_next_commit(CommitFault::AnswerLost),
            5 => {
                self.note("losses of the lead");
                faults.lose_lead();
            }
            6 => {
                self.note("clocks that jumped");
                let wrong = self.random.pick(&[YEAR, -YEAR, HOUR, -HOUR]);
                self.coordinators[number].as_mut().unwrap().wrong_by = wrong;
            }
            7 if self.alive().len() > 1 => {
                self.note("coordinators killed");
                self.kill(number);
            }
            _ => {
                let dead = (0..COORDINATORS).find(|one| self.coordinators[*one].is_none());
                match dead {
                    Some(dead) => self.start(dead).await,
                    None => self.heal(number),
                }
            }
        }
    }
}
