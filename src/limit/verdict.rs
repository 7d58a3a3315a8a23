//! What a limiter answers: how each budget stands, and whether the request may pass.

use std::cmp::Reverse;
use std::time::Duration;

use crate::limit::MAX_CHARGES;
use crate::limit::state::Look;

/// How one budget stands after a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many units are admissible now.
    pub remaining: u64,
    /// In what time the budget is whole again if nothing more is used.
    pub whole_in: Duration,
    /// In what time the charge is admissible: zero if it is now, `None` if it is above the whole
    /// quota and never will be.
    pub wait: Option<Duration>,
}

impl Standing {
    pub(crate) const NONE: Self = Self {
        remaining: 0,
        whole_in: Duration::ZERO,
        wait: Some(Duration::ZERO),
    };

    pub(crate) fn of(look: Look) -> Self {
        Self {
            remaining: look.remaining,
            whole_in: Duration::from_nanos(look.whole_in),
            wait: look.wait.map(Duration::from_nanos),
        }
    }

    pub(crate) const fn is_admissible(&self) -> bool {
        matches!(self.wait, Some(Duration::ZERO))
    }
}

/// The answer to a check: all charges were taken, or none.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    standings: [Standing; MAX_CHARGES],
    count: usize,
}

impl Verdict {
    /// The verdict that these standings make, one for each charge, in order. If each is admissible,
    /// they stand as after the charges were taken, and the request is allowed.
    ///
    /// # Panics
    /// If there are more than 16.
    pub fn new(standings: &[Standing]) -> Self {
        let mut all = [Standing::NONE; MAX_CHARGES];
        all[..standings.len()].copy_from_slice(standings);
        Self {
            standings: all,
            count: standings.len(),
        }
    }

    /// How the budgets stand, one for each charge, in order.
    pub fn standings(&self) -> &[Standing] {
        &self.standings[..self.count]
    }

    /// Whether all charges were taken. If not, none was.
    pub fn is_allowed(&self) -> bool {
        self.standings().iter().all(Standing::is_admissible)
    }

    /// In what time the request is admitted if nothing else draws on its budgets; `None` if it is
    /// admitted, or never will be.
    pub fn retry_after(&self) -> Option<Duration> {
        let mut longest = Duration::ZERO;
        for standing in self.standings() {
            longest = longest.max(standing.wait?);
        }
        (longest > Duration::ZERO).then_some(longest)
    }

    /// The index of the charge that tells the caller most: what can never be admitted, then the
    /// denial that lasts longest, then the budget with the least left, then the one that takes
    /// longest to be whole. `None` if there was no charge.
    pub fn tightest(&self) -> Option<usize> {
        let rank = |at: &usize| {
            let Standing {
                remaining,
                whole_in,
                wait,
            } = self.standings[*at];
            (wait.unwrap_or(Duration::MAX), Reverse(remaining), whole_in)
        };
        (0..self.count).max_by_key(rank)
    }
}
