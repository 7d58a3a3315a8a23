//! What was seen in schedules, to know that they try something.

use std::time::Duration;

use super::ledger::{Call, End, What};
use super::server::Outcome;

#[derive(Debug, Default, Clone)]
pub struct Figures {
    schedules: u64,
    calls: u64,
    refunds: u64,
    allowed: u64,
    denied: u64,
    /// Denials that were told without a question.
    remembered: u64,
    failed: u64,
    failed_at_once: u64,
    /// Calls that failed, but had been carried out.
    charged_in_doubt: u64,
    refused_as_late: u64,
    /// Budgets that were used up, and those of which more was admitted, as the bounds allow.
    pub used_up: u64,
    pub beyond: u64,
    pub slowest_call: Duration,
    /// With a time limit of a quarter of a second, or less.
    pub slowest_recovery: Duration,
    /// After a deadline, if no clock was set back.
    pub latest_charge: Duration,
    /// In a second.
    pub most_probes: usize,
}

impl Figures {
    /// Returns the figures of a schedule in which nothing was seen yet.
    pub fn of_one() -> Self {
        Self {
            schedules: 1,
            ..Self::default()
        }
    }

    pub fn add_call(&mut self, call: &Call, end: &End) {
        self.calls += 1;
        self.refunds += u64::from(matches!(call.what, What::Refund { .. }));
        let executions = call.executions.iter();
        let late = executions.filter(|it| it.outcome == Outcome::Late).count();
        self.refused_as_late += late as u64;
        match end {
            End::Allowed => self.allowed += 1,
            End::Denied(_) => {
                self.denied += 1;
                self.remembered += u64::from(call.messages.is_empty());
            }
            End::Failed(_) | End::Cancelled => {
                self.failed += 1;
                self.failed_at_once += u64::from(call.took().is_zero());
                self.charged_in_doubt += u64::from(call.done().count() > 0);
            }
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.calls += other.calls;
        self.refunds += other.refunds;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.remembered += other.remembered;
        self.failed += other.failed;
        self.failed_at_once += other.failed_at_once;
        self.charged_in_doubt += other.charged_in_doubt;
        self.refused_as_late += other.refused_as_late;
        self.used_up += other.used_up;
        self.beyond += other.beyond;
        self.slowest_call = self.slowest_call.max(other.slowest_call);
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
        self.latest_charge = self.latest_charge.max(other.latest_charge);
        self.most_probes = self.most_probes.max(other.most_probes);
    }
}
