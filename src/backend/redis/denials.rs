//! Denials that need not be asked for again.
//!
//! A request that was just denied is denied again until its wait is over, and with it the same
//! request of the same caller. That cannot be wrong, unless units are refunded or a quota is
//! raised: a refund by this process forgets all denials, one by another process is noticed when the
//! denial is forgotten, and another quota is another request.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::request::{Budgets, PACKED};
use crate::limit::verdict::{BudgetStatus, Verdict};

/// The most denials that are remembered. Beyond it, all that are over are dropped, or all.
const MOST: usize = 4_096;

#[derive(Debug)]
pub(super) struct Denials {
    /// The longest time that a denial is remembered; zero for none.
    longest: Duration,
    hasher: RandomState,
    known: Mutex<HashMap<u64, Denial>>,
    /// The refunds so far. A denial from before one is not remembered after it.
    refunds: AtomicU64,
}

#[derive(Debug)]
struct Denial {
    /// Whole, since a hash of two requests may be the same.
    request: Written,
    verdict: Verdict,
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
        if now >= denial.until || denial.request != written(budgets) {
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
        let denial = Denial {
            request: written(budgets),
            verdict: verdict.clone(),
            at: sent,
            until,
        };
        let mut denials = self.lock();
        if self.refunds() != refunds {
            return;
        }
        if denials.len() >= MOST {
            denials.retain(|_, denial| denial.until > sent);
            if denials.len() >= MOST {
                denials.clear();
            }
        }
        denials.insert(self.hash(budgets), denial);
    }

    /// Forgets all denials: units were refunded.
    pub(super) fn forget(&self) {
        let mut denials = self.lock();
        self.refunds.fetch_add(1, Ordering::AcqRel);
        denials.clear();
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
