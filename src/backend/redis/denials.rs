//! Denials that need not be asked for again.
//!
//! A request that was just denied is denied again until its wait is over, and with it the same
//! request of the same caller. That cannot be wrong, unless units are refunded or a quota is
//! raised: a refund by this process forgets the denials by its budgets, one by another process is
//! noticed when the denial is forgotten, and another quota is another request.
//!
//! What was taken from other budgets for a denied request, and is refunded, does not touch its
//! denial: none of them denied it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use super::request::{Budgets, PACKED};
use crate::limit::verdict::{BudgetStatus, Verdict};

/// The most denials that are remembered. Beyond it, all that are over are dropped, or all.
const MOST: usize = 4_096;

/// The budgets that are told apart, by their hashes, when one is refunded.
const TOLD_APART: usize = 1_024;

#[derive(Debug)]
pub(super) struct Denials {
    /// The longest time that a denial is remembered; zero for none.
    longest: Duration,
    hasher: RandomState,
    known: Mutex<HashMap<u64, Denial>>,
    /// The refunds so far.
    refunds: AtomicU64,
    /// The number of the last refund of a budget, by its place. A denial from before it is void, if
    /// the budget denied.
    last_refunds: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct Denial {
    /// Whole, since a hash of two requests may be the same.
    request: Written,
    verdict: Verdict,
    /// The places of the budgets that denied, and the refunds before it was asked for.
    denied_by: SmallVec<[usize; 2]>,
    refunds: u64,
    /// When it was asked for, and when it is forgotten.
    at: Duration,
    until: Duration,
}

impl Denials {
    pub(super) fn new(longest: Duration) -> Self {
        Self {
            longest,
            hasher: RandomState::new(),
            known: Mutex::default(),
            refunds: AtomicU64::new(0),
            last_refunds: (0..TOLD_APART).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns the verdict about the same request, if it was just denied. Times are shorter by what
    /// has passed.
    pub(super) fn find(&self, budgets: &Budgets, now: Duration) -> Option<Verdict> {
        if self.longest.is_zero() {
            return None;
        }
        let denials = self.lock();
        if denials.is_empty() {
            return None;
        }
        let denial = denials.get(&self.hash(budgets))?;
        let is_void = now >= denial.until || self.was_refunded(denial);
        if is_void || denial.request != written(budgets) {
            return None;
        }
        let passed = now.saturating_sub(denial.at);
        let statuses = denial.verdict.statuses().iter().map(|status| {
            let full_in = status.full_in().saturating_sub(passed);
            let wait = status.wait().map(|wait| wait.saturating_sub(passed));
            let now = BudgetStatus::new(status.remaining(), full_in, wait);
            if status.is_report_only() {
                return now.of_report_only();
            }
            now
        });
        Some(statuses.collect())
    }

    /// Returns the number of refunds so far, for [`add`](Self::add).
    pub(super) fn refunds(&self) -> u64 {
        self.refunds.load(Ordering::Acquire)
    }

    /// Remembers a denial of a request that was sent at a time, after so many refunds.
    pub(super) fn add(&self, budgets: &Budgets, verdict: &Verdict, sent: Duration, refunds: u64) {
        let wait = verdict.retry_after().unwrap_or(self.longest);
        let until = sent + wait.min(self.longest);
        if self.longest.is_zero() {
            return;
        }
        let statuses = budgets.of_charges.iter().zip(verdict.statuses());
        let denying = statuses.filter(|(_, status)| status.denies());
        let denying = denying.map(|((at, _), _)| self.place(&budgets.budgets[*at].key));
        let denial = Denial {
            request: written(budgets),
            verdict: verdict.clone(),
            denied_by: denying.collect(),
            refunds,
            at: sent,
            until,
        };
        if self.was_refunded(&denial) {
            return;
        }
        let mut denials = self.lock();
        if denials.len() >= MOST {
            denials.retain(|_, denial| denial.until > sent);
            if denials.len() >= MOST {
                denials.clear();
            }
        }
        denials.insert(self.hash(budgets), denial);
    }

    /// Forgets all denials by some budgets: units of these were refunded.
    pub(super) fn forget<'k>(&self, budgets: impl Iterator<Item = &'k str>) {
        let number = self.refunds.fetch_add(1, Ordering::AcqRel) + 1;
        for budget in budgets {
            self.last_refunds[self.place(budget)].fetch_max(number, Ordering::AcqRel);
        }
    }

    /// Returns whether a budget that denied was refunded since the denial was asked for.
    fn was_refunded(&self, denial: &Denial) -> bool {
        let last = |at: &usize| self.last_refunds[*at].load(Ordering::Acquire);
        denial.denied_by.iter().any(|at| last(at) > denial.refunds)
    }

    /// Returns the place of a budget among the last refunds.
    fn place(&self, key: &str) -> usize {
        let hash = self.hasher.hash_one(key) % (TOLD_APART as u64);
        usize::try_from(hash).unwrap_or_default()
    }

    fn hash(&self, budgets: &Budgets) -> u64 {
        let keys: Vec<&str> = budgets.budgets.iter().map(|it| it.key.as_str()).collect();
        self.hasher.hash_one(keys)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Denial>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in writing: its budgets, and the budget of each charge with whether it only reports.
type Written = (Vec<(String, [u8; PACKED])>, Vec<(usize, bool)>);

fn written(budgets: &Budgets) -> Written {
    let all = budgets.budgets.iter();
    let all = all.map(|it| (it.key.clone(), it.pack())).collect();
    (all, budgets.of_charges.to_vec())
}
