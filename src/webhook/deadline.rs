//! The time limit of a request.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::error::{SendError, SendErrorKind};

/// The instant at which a request is given up, over all of its steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Waits for a step until the deadline. The step is named in the error: `while resolving …`.
    pub(super) async fn hold<T>(
        &self,
        step: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, SendError> {
        let held = timeout_at(self.at, future).await;
        held.map_err(|_| {
            let detail = format!("the time limit of {:?} was over while {step}", self.limit);
            SendError::new(SendErrorKind::TimeLimit, detail)
        })
    }

    /// Returns the deadline of the next of several equal steps, so that it leaves time for the
    /// others.
    pub(super) fn share(&self, steps: usize) -> Self {
        let now = Instant::now();
        let steps = u32::try_from(steps.max(1)).unwrap_or(u32::MAX);
        let left = self.at.saturating_duration_since(now);
        Self {
            at: now + left / steps,
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_steps_end_at_one_instant() {
        let start = Instant::now();
        let deadline = Deadline::after(Duration::from_secs(20));
        let nap = tokio::time::sleep(Duration::from_secs(15));
        deadline.hold("napping", nap).await.unwrap();
        let error = deadline.hold("waiting", pending::<()>()).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::TimeLimit);
        assert_eq!(
            error.to_string(),
            "the time limit of 20s was over while waiting"
        );
        assert_eq!(start.elapsed(), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn equal_steps_share_the_time_that_is_left() {
        let start = Instant::now();
        let deadline = Deadline::after(Duration::from_secs(20));
        for (left, end) in [(4, 5), (3, 10), (2, 15), (1, 20)] {
            let share = deadline.share(left);
            assert!(share.hold("waiting", pending::<()>()).await.is_err());
            assert_eq!(start.elapsed(), Duration::from_secs(end));
        }
    }
}
