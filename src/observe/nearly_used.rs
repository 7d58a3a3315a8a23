//! Limits that are nearly used up, to be told to the owners of keys.

use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::{Calendar, QuotaKind};
use crate::limit::charge::{Charge, Subject};
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::store::kinds::LIMIT_NEARLY_USED;
use crate::store::{Event, Once};
use crate::usage::UsagePeriod;
use crate::util::timestamp::{civil_date, unix_seconds};

/// The budgets whose events wait to be stored. Further ones are found again by the next request.
const MOST_WAITING: usize = 1_000;

/// The budgets that are remembered as told. If there are more, all are forgotten: the store knows.
const MOST_TOLD: usize = 10_000;

/// The budgets that have come near their end.
#[derive(Debug, Default)]
pub(crate) struct NearlyUsed {
    keys: RandomState,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Hashes of a budget and its period.
    told: HashSet<u64>,
    waiting: VecDeque<(Event, Once)>,
}

impl NearlyUsed {
    /// Looks whether a budget is near its end. A request that was denied may be the first to show
    /// it, since units are also charged after the work.
    #[cold]
    pub(crate) fn look(
        &self,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        presented: Option<KeyId>,
        now: SystemTime,
    ) {
        for (charge, status) in charges.iter().zip(verdict.statuses()) {
            if is_near(charge, status) {
                self.add(charge, status, presented, now);
            }
        }
    }

    fn add(
        &self,
        charge: &Charge<'_>,
        status: &BudgetStatus,
        presented: Option<KeyId>,
        now: SystemTime,
    ) {
        let Some(owner) = Owner::of(charge) else {
            return; // a budget of nobody in particular
        };
        let period = period(charge, status, now);
        // With the quota: after a change of the plan, the new one is told of, too.
        let quota = (charge.quota(), charge.tell_at());
        let hash = self
            .keys
            .hash_one((&owner, charge.name().as_str(), quota, period));
        let mut found = self.found();
        if found.told.contains(&hash) || found.waiting.len() >= MOST_WAITING {
            return;
        }
        if found.told.len() >= MOST_TOLD {
            found.told.clear();
        }
        found.told.insert(hash);
        let once = Once::of([
            LIMIT_NEARLY_USED,
            &owner.to_text(),
            charge.name().as_str(),
            &format!("{} {}", charge.quota(), charge.tell_at()),
            &period.to_string(),
        ]);
        let event = event(charge, status, &owner, presented, now);
        found.waiting.push_back((event, once));
    }

    /// Returns the first events, at most so many. They wait until they are [stored](Self::stored).
    pub(crate) fn waiting(&self, most: usize) -> Vec<(Event, Once)> {
        self.found().waiting.iter().take(most).cloned().collect()
    }

    /// Forgets events that were stored.
    pub(crate) fn stored(&self, events: &[(Event, Once)]) {
        let stored: HashSet<Once> = events.iter().map(|(_, once)| *once).collect();
        let mut found = self.found();
        found.waiting.retain(|(_, once)| !stored.contains(once));
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner of a budget.
#[derive(Debug, Hash)]
struct Owner<'a> {
    account: Option<&'a str>,
    key: Option<KeyId>,
    environment: Option<&'a str>,
}

impl<'a> Owner<'a> {
    fn of(charge: &Charge<'a>) -> Option<Self> {
        let account = charge.home();
        let (key, environment) = match charge.subject() {
            Subject::Key(key) => (Some(key), None),
            Subject::Account(_) => (None, None),
            Subject::AccountIn(_, environment) => (None, Some(environment)),
            _ => return None,
        };
        Some(Self {
            account,
            key,
            environment: environment.map(Environment::as_str),
        })
    }

    fn to_text(&self) -> String {
        let key = self.key.map(|key| key.to_string());
        let parts = [self.account, key.as_deref(), self.environment];
        json!(parts).to_string()
    }
}

/// Returns whether the share of the quota that a limit tells of is used.
fn is_near(charge: &Charge<'_>, status: &BudgetStatus) -> bool {
    let percent = u128::from(charge.tell_at());
    let (limit, remaining) = (charge.quota().limit(), status.remaining());
    percent > 0 && u128::from(remaining) * 100 <= u128::from(limit) * (100 - percent.min(100))
}

/// Returns the number of the period in which an event about a budget is told once: the month of a
/// quota by month, and the day of all others.
///
/// The period of a calendar quota is the one that the limiter has looked at, whose end it tells. By
/// the clock here, the next one may have begun: during the call, or because the clocks differ.
fn period(charge: &Charge<'_>, status: &BudgetStatus, now: SystemTime) -> u64 {
    let QuotaKind::Calendar(calendar) = charge.quota().kind() else {
        return UsagePeriod::at(now, false).day().into();
    };
    // A time in the middle of the period, about, so that clocks may differ by hours.
    let before_end = match calendar {
        Calendar::Day => Duration::from_secs(12 * 3_600),
        Calendar::Month => Duration::from_secs(14 * 86_400),
    };
    let middle = now
        .checked_add(status.full_in())
        .and_then(|end| end.checked_sub(before_end))
        .unwrap_or(now);
    if calendar == Calendar::Month {
        let (year, month, _) = civil_date(unix_seconds(middle) / 86_400);
        return year * 12 + month;
    }
    UsagePeriod::at(middle, false).day().into()
}

fn event(
    charge: &Charge<'_>,
    status: &BudgetStatus,
    owner: &Owner<'_>,
    presented: Option<KeyId>,
    now: SystemTime,
) -> Event {
    let mut data = json!({
        "account": owner.account,
        "limit": charge.name().as_str(),
        "unit": charge.unit(),
        "quota": charge.quota().to_string(),
        "remaining": status.remaining(),
        "percent": charge.tell_at(),
    });
    // All keys of a chain of rotations share a budget: the one in use is told, not the first one.
    let key = owner.key.and(presented.or(owner.key));
    if let Some(key) = key {
        data["key_id"] = key.to_string().into();
    }
    if let Some(environment) = owner.environment {
        data["environment"] = Value::from(environment);
    }
    Event::new(LIMIT_NEARLY_USED, now.max(UNIX_EPOCH))
        .with_key(key)
        .with_account(owner.account.map(str::to_owned))
        .with_data(data.to_string())
}
