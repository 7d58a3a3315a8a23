//! Verdicts of a limiter: the status of each budget, and whether the request is admitted.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::charge::MAX_CHARGES;
use crate::limit::instant::Remaining;
use crate::limit::refund_note::RefundNote;

/// The status of one budget after a check.
#[derive(Clone, Copy)]
pub struct BudgetStatus {
    remaining: u64,
    /// The time until the budget is full. All times here are in nanoseconds: a verdict is copied
    /// often, so it is small.
    full_in: u64,
    wait: u64,
    is_report_only: bool,
    refund_note: RefundNote,
}

/// The wait of a charge that is never admitted.
const NEVER: u64 = u64::MAX;

impl BudgetStatus {
    /// Creates the status of a budget.
    ///
    /// `full_in` is the time until the budget is full if nothing is used. `wait` is the time until
    /// the charge is admissible: zero if it is admissible now, `None` if it exceeds the quota.
    pub fn new(remaining: u64, full_in: Duration, wait: Option<Duration>) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1);
        Self {
            remaining,
            full_in: nanoseconds(full_in),
            wait: wait.map_or(NEVER, nanoseconds),
            is_report_only: false,
            refund_note: RefundNote::default(),
        }
    }

    /// Sets another wait, for a limiter that passes on the status of another limiter. A refund
    /// still goes to the budget in which the charge was counted.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Duration>) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1);
        self.wait = wait.map_or(NEVER, nanoseconds);
        self
    }

    /// Marks the status as that of a [report-only](crate::limit::Charge::report_only) charge: it
    /// makes no verdict a denial.
    #[must_use]
    pub const fn of_report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// Sets the note that a later refund of the charge needs.
    #[inline]
    pub(crate) const fn with_refund_note(mut self, refund_note: RefundNote) -> Self {
        self.refund_note = refund_note;
        self
    }

    pub(crate) const fn refund_note(&self) -> RefundNote {
        self.refund_note
    }

    /// Returns whether the charge is report-only.
    pub const fn is_report_only(&self) -> bool {
        self.is_report_only
    }

    #[inline]
    pub(crate) fn of(remaining: Remaining, wait: Option<u64>) -> Self {
        Self {
            remaining: remaining.units,
            full_in: remaining.full_in,
            wait: wait.unwrap_or(NEVER),
            is_report_only: false,
            refund_note: RefundNote::default(),
        }
    }

    /// Returns the number of units that are admissible now.
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the time until the budget is full again if nothing more is used.
    pub const fn full_in(&self) -> Duration {
        Duration::from_nanos(self.full_in)
    }

    /// Returns the time until the charge is admissible: zero if it is admissible now, `None` if it
    /// exceeds the quota and never will be.
    pub fn wait(&self) -> Option<Duration> {
        (self.wait != NEVER).then(|| Duration::from_nanos(self.wait))
    }

    /// Returns [`full_in`](Self::full_in) in nanoseconds.
    #[inline]
    pub(crate) const fn full_in_nanoseconds(&self) -> u64 {
        self.full_in
    }

    /// Returns whether the charge is within its quota now.
    pub const fn is_admissible(&self) -> bool {
        self.wait == 0
    }

    /// Returns whether the charge denies its request.
    pub(crate) const fn denies(&self) -> bool {
        self.wait != 0 && !self.is_report_only
    }
}

impl PartialEq for BudgetStatus {
    fn eq(&self, other: &Self) -> bool {
        // Notes for refunds are not compared.
        let public = |it: &Self| (it.remaining(), it.full_in, it.wait, it.is_report_only);
        public(self) == public(other)
    }
}

impl Eq for BudgetStatus {}

impl fmt::Debug for BudgetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetStatus")
            .field("remaining", &self.remaining())
            .field("full_in", &self.full_in())
            .field("wait", &self.wait())
            .finish()
    }
}

/// The result of a check: all charges were taken, or none.
#[derive(Debug, Clone)]
pub struct Verdict(Statuses);

/// The statuses of a verdict. Most requests have one limit, and few have many.
#[derive(Debug, Clone)]
enum Statuses {
    One([BudgetStatus; 1]),
    Several(SmallVec<[BudgetStatus; 2]>),
}

impl Verdict {
    /// Creates a verdict from the statuses of the charges, in the same order, at most 16. If all
    /// are admissible or report-only, the request is allowed, and the statuses are those after the
    /// charges were taken.
    pub fn new(statuses: &[BudgetStatus]) -> Self {
        match statuses {
            [status] => Self::of_one(*status),
            several => several.iter().copied().collect(),
        }
    }

    #[inline]
    pub(crate) const fn of_one(status: BudgetStatus) -> Self {
        Self(Statuses::One([status]))
    }

    /// Returns the status of the budget of each charge, in the order of the charges.
    pub fn statuses(&self) -> &[BudgetStatus] {
        match &self.0 {
            Statuses::One(one) => one,
            Statuses::Several(several) => several,
        }
    }

    /// Returns whether all charges were taken. Otherwise none was taken.
    #[inline]
    pub fn is_allowed(&self) -> bool {
        !self.statuses().iter().any(BudgetStatus::denies)
    }

    /// Returns the time until the request is admitted if nothing else uses its budgets: `None` if
    /// it is admitted, or never will be.
    pub fn retry_after(&self) -> Option<Duration> {
        let denials = self.statuses().iter().filter(|it| it.denies());
        let longest = denials.map(|status| status.wait).max()?;
        (longest > 0 && longest != NEVER).then(|| Duration::from_nanos(longest))
    }

    /// Returns the index of the charge that restricts the caller most: a charge that can never be
    /// admitted, then the longest denial, then the budget with the fewest remaining units, then the
    /// budget that takes longest until it is full. Report-only charges are skipped; `None` if there
    /// is no other.
    pub fn tightest(&self) -> Option<usize> {
        if let Statuses::One([status]) = &self.0 {
            return (!status.is_report_only).then_some(0);
        }
        self.tightest_of(|_| true)
    }

    /// Returns the [tightest](Self::tightest) of the charges whose index meets a condition.
    pub(crate) fn tightest_of(&self, is_candidate: impl Fn(usize) -> bool) -> Option<usize> {
        let rank = |at: &usize| {
            let status = &self.statuses()[*at];
            (status.wait, Reverse(status.remaining()), status.full_in)
        };
        let candidates = (0..self.statuses().len())
            .filter(|at| is_candidate(*at) && !self.statuses()[*at].is_report_only);
        candidates.max_by_key(rank)
    }
}

/// Creates a verdict from the first 16 statuses. Further ones are dropped.
impl FromIterator<BudgetStatus> for Verdict {
    fn from_iter<I: IntoIterator<Item = BudgetStatus>>(statuses: I) -> Self {
        let several = statuses.into_iter().take(MAX_CHARGES).collect();
        Self(Statuses::Several(several))
    }
}
