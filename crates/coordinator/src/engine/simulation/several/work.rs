//! What coordinators are at work on, one transaction at a time.

use crate::{cluster::Member, engine::Task, store::Faults};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

/// What a coordinator is at work on, one transaction at a time.
pub(super) enum Work<T> {
    Idle(T),
    Busy(Pin<Box<dyn Future<Output = (T, bool)>>>),
    Gone,
}

impl<T: 'static> Work<T> {
    /// Begins, unless it is at work already.
    pub(super) fn begin<F>(&mut self, job: impl FnOnce(T) -> F)
    where
        F: Future<Output = (T, bool)> + 'static,
    {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Idle(worker) => Self::Busy(Box::pin(job(worker))),
            busy @ (Self::Busy(_) | Self::Gone) => busy,
        };
    }

    /// Goes on until before the next transaction. Says whether the work was done, once it ended.
    pub(super) async fn go_on(&mut self, faults: &Faults) -> Option<bool> {
        let Self::Busy(job) = self else {
            return None;
        };
        faults.set_stepwise(true);
        let ended = poll_fn(|context| match job.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if faults.take_at_gate() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let ended = ended.await;
        faults.set_stepwise(false);
        let (worker, worked) = ended?;
        *self = Self::Idle(worker);
        Some(worked)
    }
}

pub(super) async fn publish(mut task: Task) -> (Task, bool) {
    task.keys_expired();
    let worked = task.publish().await.is_ok();
    (task, worked)
}

pub(super) async fn keep_house(mut task: Task) -> (Task, bool) {
    task.keep_house().await;
    publish(task).await
}

pub(super) async fn beat(mut member: Member) -> (Member, bool) {
    let worked = member.beat().await.is_ok();
    (member, worked)
}
