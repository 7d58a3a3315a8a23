//! What a limiter answers: how each budget stands, and whether the request may pass.

use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

use crate::limit::charge::MAX_CHARGES;
use crate::limit::instant::Left;
use crate::limit::ledger::Ledger;

/// How one budget stands after a check.
#[derive(Clone, Copy)]
pub struct BudgetStatus {
    spare: u64,
    unit: u64,
    /// In nanoseconds, as are all times here: a verdict is copied often, so it is small.
    whole_in: u64,
    wait: u64,
    is_report_only: bool,
    ledger: Ledger,
}

/// The wait for what will never be admitted.
const NEVER: u64 = u64::MAX;

impl BudgetStatus {
    /// A budget of which so much remains, which is whole in a time if nothing is used, and whose
    /// charge is admissible in a time: zero if it is now, `None` if it is above the whole quota.
    pub fn new(remaining: u64, whole_in: Duration, wait: Option<Duration>) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1);
        Self {
            spare: remaining,
            unit: 1,
            whole_in: nanoseconds(whole_in),
            wait: wait.map_or(NEVER, nanoseconds),
            is_report_only: false,
            ledger: Ledger::default(),
        }
    }

    /// Returns the same standing with another wait, for a limiter that passes on what another one
    /// says. A refund then still goes to the budget that the charge was counted in.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Duration>) -> Self {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1);
        self.wait = wait.map_or(NEVER, nanoseconds);
        self
    }

    /// Marks the standing as that of a charge that [only reports](crate::limit::Charge::report_only): it
    /// makes no verdict a denial.
    #[must_use]
    pub const fn of_report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// Notes where the charge was counted.
    #[inline]
    pub(crate) const fn with_ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = ledger;
        self
    }

    pub(crate) const fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Returns whether the charge only reports.
    pub const fn is_report_only(&self) -> bool {
        self.is_report_only
    }

    #[inline]
    pub(crate) fn of(left: Left, wait: Option<u64>) -> Self {
        Self {
            spare: left.spare,
            unit: left.unit,
            whole_in: left.whole_in,
            wait: wait.unwrap_or(NEVER),
            is_report_only: false,
            ledger: Ledger::default(),
        }
    }

    /// How many units are admissible now.
    pub const fn remaining(&self) -> u64 {
        self.spare / self.unit
    }

    /// In what time the budget is whole again if nothing more is used.
    pub const fn whole_in(&self) -> Duration {
        Duration::from_nanos(self.whole_in)
    }

    /// In what time the charge is admissible: zero if it is now, `None` if it is above the whole
    /// quota and never will be.
    pub fn wait(&self) -> Option<Duration> {
        (self.wait != NEVER).then(|| Duration::from_nanos(self.wait))
    }

    /// As [`whole_in`](Self::whole_in), in nanoseconds.
    #[inline]
    pub(crate) const fn whole_in_nanoseconds(&self) -> u64 {
        self.whole_in
    }

    /// Returns whether the charge is within its quota now.
    pub const fn is_admissible(&self) -> bool {
        self.wait == 0
    }

    /// Returns whether the charge denies its request.
    const fn denies(&self) -> bool {
        self.wait != 0 && !self.is_report_only
    }
}

impl PartialEq for BudgetStatus {
    fn eq(&self, other: &Self) -> bool {
        let told = |it: &Self| (it.remaining(), it.whole_in, it.wait, it.is_report_only);
        told(self) == told(other)
    }
}

impl Eq for BudgetStatus {}

impl fmt::Debug for BudgetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BudgetStatus")
            .field("remaining", &self.remaining())
            .field("whole_in", &self.whole_in())
            .field("wait", &self.wait())
            .finish()
    }
}

/// The answer to a check: all charges were taken, or none.
#[derive(Debug, Clone)]
pub struct Verdict(Standings);

/// Most requests have one limit, and few have many.
#[derive(Debug, Clone)]
enum Standings {
    One([BudgetStatus; 1]),
    Several(SmallVec<[BudgetStatus; 2]>),
}

impl Verdict {
    /// The verdict that these standings make, one for each charge, in order; no more than 16. If
    /// each is admissible, they stand as after the charges were taken, and the request is allowed.
    pub fn new(standings: &[BudgetStatus]) -> Self {
        match standings {
            [standing] => Self::of_one(*standing),
            several => several.iter().copied().collect(),
        }
    }

    #[inline]
    pub(crate) const fn of_one(standing: BudgetStatus) -> Self {
        Self(Standings::One([standing]))
    }

    /// How the budgets stand, one for each charge, in order.
    pub fn standings(&self) -> &[BudgetStatus] {
        match &self.0 {
            Standings::One(one) => one,
            Standings::Several(several) => several,
        }
    }

    /// Whether all charges were taken. If not, none was.
    #[inline]
    pub fn is_allowed(&self) -> bool {
        !self.standings().iter().any(BudgetStatus::denies)
    }

    /// In what time the request is admitted if nothing else draws on its budgets; `None` if it is
    /// admitted, or never will be.
    pub fn retry_after(&self) -> Option<Duration> {
        let denials = self.standings().iter().filter(|it| it.denies());
        let longest = denials.map(|standing| standing.wait).max()?;
        (longest > 0 && longest != NEVER).then(|| Duration::from_nanos(longest))
    }

    /// The index of the charge that tells the caller most: what can never be admitted, then the
    /// denial that lasts longest, then the budget with the least left, then the one that takes
    /// longest to be whole. `None` if there was no charge but such as only report.
    pub fn tightest(&self) -> Option<usize> {
        if let Standings::One([standing]) = &self.0 {
            return (!standing.is_report_only).then_some(0);
        }
        self.tightest_of(|_| true)
    }

    /// As [`tightest`](Self::tightest), among some of the charges.
    pub(crate) fn tightest_of(&self, is_one: impl Fn(usize) -> bool) -> Option<usize> {
        let rank = |at: &usize| {
            let standing = &self.standings()[*at];
            (
                standing.wait,
                Reverse(standing.remaining()),
                standing.whole_in,
            )
        };
        let told = (0..self.standings().len())
            .filter(|at| is_one(*at) && !self.standings()[*at].is_report_only);
        told.max_by_key(rank)
    }
}

/// Of more than 16 standings, the first 16.
impl FromIterator<BudgetStatus> for Verdict {
    fn from_iter<I: IntoIterator<Item = BudgetStatus>>(standings: I) -> Self {
        let several = standings.into_iter().take(MAX_CHARGES).collect();
        Self(Standings::Several(several))
    }
}
