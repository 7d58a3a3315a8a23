//! The conformance suites: our backends pass them, and a broken promise is named.
//!
//! `LIMITER_DECISIONS` sets how many decisions the random histories make; 100,000 unless set.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::block_on;
use tokio::task::yield_now;
use tower_api_key::clock::{Clock, Now};
use tower_api_key::conformance::Keeps;
use tower_api_key::limit::{
    BudgetStatus, Charge, LimitName, LimiterError, MemoryLimiter, QuotaShape, RateLimiter, Refund,
    Subject, Verdict,
};
use tower_api_key::store::{Change, Step, StoreError};
use tower_api_key::{KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore, Quota, conformance};

fn decisions() -> u64 {
    let asked = std::env::var("LIMITER_DECISIONS").ok();
    asked.map_or(100_000, |text| text.parse().unwrap())
}

#[tokio::test]
async fn invariant_6_limits_are_all_or_nothing_and_no_window_admits_more_than_its_quota() {
    let make = || MemoryLimiter::with_memory(0);
    conformance::rate_limiter::on_a_given_clock(make, decisions()).await;
}

#[tokio::test]
async fn the_memory_limiter_passes_the_conformance_suite() {
    let limiter = Arc::new(MemoryLimiter::new());
    conformance::rate_limiter::on_its_own_clock(&limiter).await;
    // A backend that is used before, and shared.
    conformance::rate_limiter::on_its_own_clock(&limiter).await;
    conformance::rate_limiter::on_a_given_clock(|| Arc::clone(&limiter), 3_000).await;
}

#[tokio::test]
async fn the_memory_store_passes_the_conformance_suite() {
    let store = MemoryStore::new();
    conformance::managed_key_store(&store).await;
    conformance::managed_key_store(&store).await;
    conformance::key_store(&MemoryStore::new(), &[]).await;
    conformance::change_feed(&store, &store).await;
}

/// A runtime that moves tasks between threads requires this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suites_can_be_spawned() {
    let limiter = tokio::spawn(async {
        conformance::rate_limiter::on_its_own_clock(&MemoryLimiter::new()).await;
        conformance::rate_limiter::on_a_given_clock(MemoryLimiter::new, 300).await;
    });
    let store = tokio::spawn(async {
        conformance::managed_key_store(&MemoryStore::new()).await;
    });
    limiter.await.unwrap();
    store.await.unwrap();
}

/// The promise that the suite says was broken.
fn broken(suite: impl Future<Output = ()>) -> String {
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(suite)));
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    let promise = message.strip_prefix("broken promise: ").unwrap();
    promise.split(": ").next().unwrap().to_owned()
}

type Decided = Result<Verdict, LimiterError>;
type Decide = fn(&FaultyLimiter, &[Charge<'_>], Now) -> Decided;
type GiveBack = fn(&FaultyLimiter, &[Refund<'_>], Now);

/// The limiter in memory with something wrong: how it decides, and how it gives back.
struct FaultyLimiter {
    decide: Decide,
    give_back: GiveBack,
    inner: Mutex<Arc<MemoryLimiter>>,
    count: AtomicU64,
    latest: Mutex<SystemTime>,
    quotas: Mutex<HashMap<String, Quota>>,
}

impl FaultyLimiter {
    fn new(decide: Decide, give_back: GiveBack) -> Self {
        Self {
            decide,
            give_back,
            inner: Mutex::default(),
            count: AtomicU64::new(0),
            latest: Mutex::new(UNIX_EPOCH),
            quotas: Mutex::default(),
        }
    }

    fn ask(&self, charges: &[Charge<'_>], now: Now) -> Decided {
        let inner = Arc::clone(&self.inner.lock().unwrap());
        inner.check_now(charges, now).unwrap()
    }

    fn refund(&self, refunds: &[Refund<'_>], now: Now) {
        let inner = Arc::clone(&self.inner.lock().unwrap());
        inner.refund_now(refunds, now).unwrap().unwrap();
    }

    /// The latest wall-clock time so far, and how far the clock is behind it.
    fn latest(&self, now: Now) -> (SystemTime, Duration) {
        let mut latest = self.latest.lock().unwrap();
        *latest = now.wall().max(*latest);
        (*latest, latest.duration_since(now.wall()).unwrap())
    }
}

impl RateLimiter for FaultyLimiter {
    async fn check(&self, charges: &[Charge<'_>], clock: &dyn Clock) -> Decided {
        (self.decide)(self, charges, clock.readings())
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        (self.give_back)(self, refunds, clock.readings());
        Ok(())
    }
}

/// The same charges, told otherwise.
fn told<'a>(
    charges: &[Charge<'a>],
    tell: impl FnMut(&Charge<'a>) -> Charge<'a>,
) -> Vec<Charge<'a>> {
    charges.iter().map(tell).collect()
}

fn costing<'a>(charge: &Charge<'a>, cost: u64) -> Charge<'a> {
    let costing = Charge::new(charge.name(), charge.subject(), charge.quota(), cost);
    asking_as(charge, costing)
}

/// Another charge, which needs as much as this one beyond its cost, and only reports if it does.
fn asking_as<'a>(charge: &Charge<'_>, other: Charge<'a>) -> Charge<'a> {
    let other = if charge.need() > charge.cost() {
        other.needing(charge.need())
    } else {
        other
    };
    if charge.is_report_only() {
        return other.report_only();
    }
    other
}

/// What comes of the same charges under other names.
fn renamed<T>(
    charges: &[Charge<'_>],
    rename: impl Fn(&Charge<'_>) -> String,
    then: impl FnOnce(&[Charge<'_>]) -> T,
) -> T {
    let names = charges.iter().map(|it| LimitName::new(rename(it)));
    let names: Vec<_> = names.collect();
    let under = |(it, name): (&Charge<'_>, _)| {
        let under = Charge::new(name, Subject::Global, it.quota(), it.cost());
        asking_as(it, under)
    };
    let charges: Vec<_> = charges.iter().zip(&names).map(under).collect();
    then(&charges)
}

fn take_partially(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let verdict = limiter.ask(charges, now)?;
    if !verdict.is_allowed() {
        for charge in charges {
            limiter.ask(&[*charge], now)?;
        }
    }
    Ok(verdict)
}

fn charge_denied(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let verdict = limiter.ask(charges, now)?;
    if let ([charge], false) = (charges, verdict.is_allowed()) {
        limiter.ask(&[costing(charge, verdict.statuses()[0].remaining())], now)?;
    }
    Ok(verdict)
}

fn take_doubles_once(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let first = |of: &Charge<'_>| {
        let is_same = |it: &Charge<'_>| it.name() == of.name() && it.subject() == of.subject();
        charges.iter().position(is_same).unwrap()
    };
    let once = (0..).zip(charges).map(|(at, it)| match first(it) {
        first if first == at => *it,
        _ => costing(it, 0),
    });
    limiter.ask(&once.collect::<Vec<_>>(), now)
}

fn charge_looks(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    limiter.ask(&told(charges, |it| costing(it, it.cost().max(1))), now)
}

fn clamp_costs(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let clamped = told(charges, |it| costing(it, it.cost().min(it.quota().limit())));
    limiter.ask(&clamped, now)
}

fn deny_by_reports(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let binding = told(charges, |it| {
        Charge::new(it.name(), it.subject(), it.quota(), it.cost()).needing(it.need())
    });
    limiter.ask(&binding, now)
}

fn forget_needs(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    limiter.ask(&told(charges, |it| it.needing(0)), now)
}

fn take_needs(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    limiter.ask(&told(charges, |it| costing(it, it.need())), now)
}

fn forget_reports(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let looks = told(charges, |it| {
        if it.is_report_only() {
            costing(it, 0)
        } else {
            *it
        }
    });
    limiter.ask(&looks, now)
}

fn answer_seventeen(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    limiter.ask(&charges[..charges.len().min(16)], now)
}

fn lose_standings(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let verdict = limiter.ask(charges, now)?;
    Ok(verdict.statuses().iter().take(1).copied().collect())
}

fn joined(charge: &Charge<'_>) -> String {
    match charge.subject() {
        Subject::Account(account) => format!("{}:{account}", charge.name()),
        Subject::Key(id) => format!("{}:{id}", charge.name()),
        Subject::Address(address) => format!("{}:{address}", charge.name()),
        _ => charge.name().to_string(),
    }
}

fn join_names(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    renamed(charges, joined, |charges| limiter.ask(charges, now))
}

fn refund_joined(limiter: &FaultyLimiter, refunds: &[Refund<'_>], now: Now) {
    refund_renamed(limiter, refunds, joined, now);
}

fn refund_renamed(
    limiter: &FaultyLimiter,
    refunds: &[Refund<'_>],
    rename: impl Fn(&Charge<'_>) -> String,
    now: Now,
) {
    let charges: Vec<_> = refunds.iter().map(Refund::charge).collect();
    renamed(&charges, rename, |renamed| {
        let renamed = refunds.iter().zip(renamed);
        let renamed: Vec<_> = renamed
            .map(|(refund, charge)| refund.with_charge(*charge))
            .collect();
        limiter.refund(&renamed, now);
    });
}

fn keep_first_quota(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let mut quotas = limiter.quotas.lock().unwrap();
    let first = told(charges, |it| {
        let first = quotas.entry(it.name().to_string());
        let quota = *first.or_insert(it.quota());
        let kept = Charge::new(it.name(), it.subject(), quota, it.cost());
        asking_as(it, kept)
    });
    limiter.ask(&first, now)
}

/// A name that is another one in each window.
fn fixed_window(now: Now) -> impl Fn(&Charge<'_>) -> String {
    let since = now.monotonic().as_nanos();
    move |it| {
        let window = since / it.quota().window().as_nanos();
        format!("{} {:?} {window}", it.name(), it.subject())
    }
}

fn fixed_windows(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let name = fixed_window(now);
    renamed(charges, name, |charges| limiter.ask(charges, now))
}

fn refund_fixed_windows(limiter: &FaultyLimiter, refunds: &[Refund<'_>], now: Now) {
    refund_renamed(limiter, refunds, fixed_window(now), now);
}

fn forget_on_steps_back(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    if !limiter.latest(now).1.is_zero() {
        *limiter.inner.lock().unwrap() = Arc::default();
        *limiter.latest.lock().unwrap() = now.wall();
    }
    limiter.ask(charges, now)
}

/// What is in the future stays there.
fn clamp_nothing(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let (latest, behind) = limiter.latest(now);
    let later = |time: Duration| if time.is_zero() { time } else { time + behind };
    let latest = Now::new(latest, now.monotonic());
    retold(limiter.ask(charges, latest), |it| {
        BudgetStatus::new(it.remaining(), later(it.full_in()), it.wait().map(later))
    })
}

/// Everything by the wall clock, rates and windows, too.
fn go_by_the_wall_clock(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let since = now.wall().duration_since(UNIX_EPOCH).unwrap();
    limiter.ask(charges, Now::new(now.wall(), since))
}

fn wait_in_whole_seconds(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let down = |wait: Duration| match wait.as_secs() {
        0 => wait,
        seconds => Duration::from_secs(seconds),
    };
    retold(limiter.ask(charges, now), |it| {
        it.with_wait(it.wait().map(down))
    })
}

fn wait_for_all_of_it(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    retold(limiter.ask(charges, now), |it| {
        let longer = |wait: Duration| if wait.is_zero() { wait } else { it.full_in() };
        it.with_wait(it.wait().map(longer))
    })
}

fn deny_now_and_then(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let asked = limiter.count.fetch_add(1, Ordering::SeqCst);
    let could_be = |it: &Charge<'_>| (1..=it.quota().limit()).contains(&it.cost());
    if asked < 500 || !charges.iter().all(could_be) {
        return limiter.ask(charges, now);
    }
    let second = Duration::from_secs(1);
    let denied = |it: &Charge<'_>| BudgetStatus::new(it.cost() - 1, second, Some(second));
    Ok(charges.iter().map(denied).collect())
}

/// Lets pass what was given back beyond what was used.
fn spend_credit(limiter: &FaultyLimiter, charges: &[Charge<'_>], now: Now) -> Decided {
    let verdict = limiter.ask(charges, now)?;
    let cost = charges.iter().map(Charge::cost).max().unwrap_or(0);
    if verdict.is_allowed() || limiter.count.load(Ordering::SeqCst) < cost {
        return Ok(verdict);
    }
    limiter.count.fetch_sub(cost, Ordering::SeqCst);
    retold(Ok(verdict), |it| {
        BudgetStatus::new(it.remaining(), it.full_in(), Some(Duration::ZERO))
    })
}

fn save_credit(limiter: &FaultyLimiter, refunds: &[Refund<'_>], now: Now) {
    for refund in refunds {
        let charge = refund.charge();
        let look = limiter.ask(&[costing(&charge, 0)], now).unwrap();
        let used = charge.quota().limit() - look.statuses()[0].remaining();
        let beyond = refund.units().saturating_sub(used).min(100);
        limiter.count.fetch_add(beyond, Ordering::SeqCst);
    }
    limiter.refund(refunds, now);
}

/// As if each charge still counted.
fn refund_whenever(limiter: &FaultyLimiter, refunds: &[Refund<'_>], now: Now) {
    for refund in refunds {
        let (charge, units) = (refund.charge(), refund.units());
        if !matches!(charge.quota().shape(), QuotaShape::Window { .. }) {
            limiter.refund(&[*refund], now);
            continue;
        }
        let period = charge.quota().window();
        let taken_at = now.monotonic() + Duration::from_nanos(1);
        let taken_at = Now::new(now.wall(), taken_at.saturating_sub(period));
        let standing = BudgetStatus::new(0, 2 * period, Some(Duration::ZERO));
        let refund = Refund::new(charge, units, taken_at, &standing);
        limiter.refund(&[refund], now);
    }
}

fn retold(verdict: Decided, tell: impl FnMut(&BudgetStatus) -> BudgetStatus) -> Decided {
    verdict.map(|verdict| verdict.statuses().iter().map(tell).collect())
}

#[test]
fn a_faulty_limiter_fails_with_the_broken_promise_on_its_own_clock() {
    let refund: GiveBack = FaultyLimiter::refund;
    let (right, no_refund): (Decide, GiveBack) = (FaultyLimiter::ask, |_, _, _| ());
    let faults: [(Decide, GiveBack, &str); 15] = [
        (
            forget_needs,
            refund,
            "a charge that needs more than it takes is denied where that is not left",
        ),
        (
            take_needs,
            refund,
            "a charge that needs more than it takes is denied where that is not left",
        ),
        (
            deny_by_reports,
            refund,
            "a verdict tells how each budget stands",
        ),
        (
            forget_reports,
            refund,
            "a charge that only reports denies nothing, and is taken with the others",
        ),
        (take_partially, refund, "all charges are taken, or none"),
        (charge_denied, refund, "a denied request costs nothing"),
        (
            take_doubles_once,
            refund,
            "charges against one budget count together",
        ),
        (charge_looks, refund, "a charge of 0 only looks"),
        (
            clamp_costs,
            refund,
            "a cost above the whole quota is never admitted",
        ),
        (
            answer_seventeen,
            refund,
            "more than 16 charges are an error",
        ),
        (
            lose_standings,
            refund,
            "a verdict tells how each budget stands",
        ),
        (
            join_names,
            refund_joined,
            "each subject has a budget of its own under each name",
        ),
        (keep_first_quota, refund, "a quota comes with each call"),
        (right, no_refund, "what is given back can be used"),
        (
            spend_credit,
            save_credit,
            "no budget becomes more than whole",
        ),
    ];
    for (decide, give_back, promise) in faults {
        let limiter = FaultyLimiter::new(decide, give_back);
        let suite = conformance::rate_limiter::on_its_own_clock(&limiter);
        assert_eq!(broken(suite), promise);
    }
    let limiter = FaultyLimiter::new(right, refund);
    block_on(conformance::rate_limiter::on_its_own_clock(&limiter));
}

#[test]
fn a_faulty_limiter_fails_with_the_broken_promise_on_a_given_clock() {
    let refund: GiveBack = FaultyLimiter::refund;
    let fixed_refund: GiveBack = refund_fixed_windows;
    let right: Decide = FaultyLimiter::ask;
    let faults: [(Decide, GiveBack, &str); 8] = [
        (
            right,
            refund_whenever,
            "no window admits more than its quota",
        ),
        (
            fixed_windows,
            fixed_refund,
            "no window admits more than its quota",
        ),
        (
            deny_now_and_then,
            refund,
            "nobody is denied what is due to them",
        ),
        (
            forget_on_steps_back,
            refund,
            "a step of the wall clock fills no budget",
        ),
        (
            go_by_the_wall_clock,
            refund,
            "a caller who waits as told is admitted",
        ),
        (
            clamp_nothing,
            refund,
            "nobody is locked out by a step of the clock",
        ),
        (
            wait_in_whole_seconds,
            refund,
            "a caller who waits as told is admitted",
        ),
        (
            wait_for_all_of_it,
            refund,
            "nobody is told to wait for longer than they must",
        ),
    ];
    for (decide, give_back, promise) in faults {
        let make = || FaultyLimiter::new(decide, give_back);
        let shared = Arc::new(make());
        let suite = conformance::rate_limiter::on_a_given_clock(|| Arc::clone(&shared), 10_000);
        assert_eq!(broken(suite), promise);
    }
    let make = || FaultyLimiter::new(FaultyLimiter::ask, refund);
    block_on(conformance::rate_limiter::on_a_given_clock(make, 10_000));
}

/// Counts on a clock that stands still: the least that passes where nothing comes back. It may wait
/// between its look and what it takes.
struct Counter {
    used: Mutex<HashMap<String, u64>>,
    waits: bool,
}

impl Counter {
    fn key(charge: &Charge<'_>) -> String {
        format!("{:?}", (charge.name().as_str(), charge.subject()))
    }

    fn standing(charge: &Charge<'_>, used: u64, asked: u64) -> BudgetStatus {
        let quota = charge.quota();
        let remaining = quota.limit().saturating_sub(used);
        let full_in = if used == 0 {
            Duration::ZERO
        } else {
            quota.window()
        };
        let wait = if asked <= remaining {
            Duration::ZERO
        } else {
            quota.window()
        };
        let wait = (asked <= quota.limit()).then_some(wait);
        let standing = BudgetStatus::new(remaining, full_in, wait);
        if charge.is_report_only() {
            return standing.of_report_only();
        }
        standing
    }
}

impl RateLimiter for Counter {
    async fn check(&self, charges: &[Charge<'_>], _: &dyn Clock) -> Decided {
        if charges.len() > 16 {
            return Err(LimiterError::unavailable("more than 16 charges"));
        }
        let mut seen = self.used.lock().unwrap().clone();
        if self.waits {
            yield_now().await;
        }
        let mut used = self.used.lock().unwrap();
        if !self.waits {
            seen.clone_from(&used);
        }
        let before = |charge| seen.get(&Self::key(charge)).copied().unwrap_or(0);
        let asked = |charge: &Charge<'_>| {
            let same = charges
                .iter()
                .filter(|it| Self::key(it) == Self::key(charge));
            same.map(Charge::cost).fold(0, u64::saturating_add)
        };
        let needed = |charge: &Charge<'_>| {
            let same = charges
                .iter()
                .filter(|it| Self::key(it) == Self::key(charge));
            same.map(Charge::need).fold(asked(charge), u64::max)
        };
        let look = |it| Self::standing(it, before(it), needed(it));
        let verdict: Verdict = charges.iter().map(look).collect();
        if !verdict.is_allowed() {
            return Ok(verdict);
        }
        let then = |it: &Charge<'_>| {
            let before = seen.get(&Self::key(it)).copied().unwrap_or(0);
            before.saturating_add(asked(it))
        };
        for charge in charges {
            used.insert(Self::key(charge), then(charge));
        }
        let after = |(it, was): (&Charge<'_>, &BudgetStatus)| {
            Self::standing(it, then(it), 0).with_wait(was.wait())
        };
        Ok(charges.iter().zip(verdict.statuses()).map(after).collect())
    }

    async fn refund(&self, refunds: &[Refund<'_>], _: &dyn Clock) -> Result<(), LimiterError> {
        let mut used = self.used.lock().unwrap();
        for refund in refunds {
            let used = used.entry(Self::key(&refund.charge())).or_default();
            *used = used.saturating_sub(refund.units());
        }
        Ok(())
    }
}

#[test]
fn a_limiter_with_a_check_then_take_race_is_detected() {
    let counter = |waits| Counter {
        used: Mutex::default(),
        waits,
    };
    block_on(conformance::rate_limiter::on_its_own_clock(&counter(false)));
    let racing = counter(true);
    let suite = conformance::rate_limiter::on_its_own_clock(&racing);
    assert_eq!(
        broken(suite),
        "callers at once are admitted exactly the quota"
    );
}

/// What can be wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreFault {
    Nothing,
    OverwritesOnCreate,
    IgnoresVersions,
    WritesHalf,
    NamesTwice,
    Merges,
    KeepsSeconds,
    LosesLimits,
    CutsIds,
    HidesRevoked,
    RacesCreates,
    RacesUpdates,
}

/// A store with something wrong.
struct FaultyStore {
    records: Mutex<HashMap<Vec<u8>, KeyRecord>>,
    fault: StoreFault,
}

impl FaultyStore {
    fn new(fault: StoreFault) -> Self {
        Self {
            records: Mutex::default(),
            fault,
        }
    }

    fn key(&self, id: &KeyId) -> Vec<u8> {
        let length = if self.fault == StoreFault::CutsIds {
            8
        } else {
            16
        };
        id.as_bytes()[..length].to_vec()
    }

    /// The versions of the records of a change, as they are now.
    fn look(&self, change: &Change) -> HashMap<Vec<u8>, u64> {
        let records = self.records.lock().unwrap();
        let named = change.records();
        let keys = named.map(|record| self.key(&record.id()));
        keys.filter_map(|key| Some((key.clone(), records.get(&key)?.version())))
            .collect()
    }

    fn kept(&self, record: &KeyRecord, before: Option<&KeyRecord>) -> KeyRecord {
        let mut kept = record.clone();
        if self.fault == StoreFault::KeepsSeconds {
            let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap().as_secs();
            let expires_at = record.expires_at().map(seconds);
            kept = kept.with_expires_at(expires_at.map(|at| UNIX_EPOCH + Duration::from_secs(at)));
        }
        if self.fault == StoreFault::Merges
            && let Some(suspended) = before.and_then(KeyRecord::suspended)
        {
            kept = kept.with_suspended(suspended.clone());
        }
        if self.fault == StoreFault::LosesLimits {
            let id = (record.id(), record.verifier().clone());
            let bare = KeyRecord::new(id.0, id.1, record.account());
            if !record.limits().is_empty() {
                kept = bare.with_version(record.version());
            }
        }
        kept
    }
}

impl KeyStore for FaultyStore {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.records.lock().unwrap().get(&self.key(id)).cloned();
        let hide = self.fault == StoreFault::HidesRevoked;
        Ok(found.filter(|record| !hide || record.revoked().is_none() || record.version() == 1))
    }
}

impl ManagedKeyStore for FaultyStore {
    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        let records = self.records.lock().unwrap();
        let of_chain = records.values().filter(|it| it.lineage() == *first);
        Ok(of_chain.cloned().collect())
    }

    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.find(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let mut versions = self.look(change);
        let mut steps = change.steps();
        let creates = steps.any(|step| matches!(step, Step::Create { .. }));
        match self.fault {
            StoreFault::RacesCreates if creates => yield_now().await,
            StoreFault::RacesUpdates if !creates => yield_now().await,
            _ => {}
        }
        let mut writes = Vec::new();
        let mut outcome = Ok(());
        for step in change.steps() {
            let (record, then) = match step {
                Step::Create { record, .. } => {
                    let exists = versions.contains_key(&self.key(&record.id()));
                    if exists && self.fault != StoreFault::OverwritesOnCreate {
                        outcome = Err(StoreError::already_exists());
                        break;
                    }
                    (record, 0)
                }
                Step::Update { record, .. } => {
                    let next = versions.get(&self.key(&record.id()));
                    let next = next.map(|version| version + 1);
                    let any = self.fault == StoreFault::IgnoresVersions && next.is_some();
                    if next != Some(record.version()) && !any {
                        outcome = Err(StoreError::conflict());
                        break;
                    }
                    (record, u64::MAX - 1)
                }
                Step::Event { .. } => continue,
                _ => return Err(StoreError::refused("it does no such thing")),
            };
            let key = self.key(&record.id());
            if self.fault != StoreFault::NamesTwice {
                versions.insert(key.clone(), then);
            }
            writes.push((key, record));
        }
        if outcome.is_ok() || self.fault == StoreFault::WritesHalf {
            let mut records = self.records.lock().unwrap();
            for (key, record) in writes {
                let kept = self.kept(record, records.get(&key));
                records.insert(key, kept);
            }
        }
        outcome
    }
}

#[test]
fn a_faulty_store_fails_with_the_broken_promise() {
    use StoreFault as Fault;
    let keeps = Keeps::everything().without_lists().without_trail();
    let keeps = keeps.without_events().without_usage().without_profiles();
    let keeps = keeps.without_deletions().without_requests().without_caps();
    let faults = [
        (
            Fault::OverwritesOnCreate,
            "a record that exists is not created again",
        ),
        (
            Fault::IgnoresVersions,
            "an update of another version than the one before is a conflict",
        ),
        (
            Fault::WritesHalf,
            "a change is carried out whole, or not at all",
        ),
        (Fault::NamesTwice, "one change names each record once"),
        (Fault::Merges, "an update replaces the whole record"),
        (Fault::KeepsSeconds, "a record is found as it was committed"),
        (Fault::LosesLimits, "a record is found as it was committed"),
        (Fault::CutsIds, "an id that is not kept is not found"),
        (Fault::HidesRevoked, "an update replaces the whole record"),
        (
            Fault::RacesCreates,
            "of creates of one id at once, exactly one is carried out",
        ),
        (
            Fault::RacesUpdates,
            "of updates of one version at once, exactly one is carried out",
        ),
    ];
    for (fault, promise) in faults {
        let store = FaultyStore::new(fault);
        let suite = conformance::managed_key_store_keeping(&store, &keeps);
        assert_eq!(broken(suite), promise, "{fault:?}");
    }
    let store = FaultyStore::new(Fault::Nothing);
    block_on(conformance::managed_key_store_keeping(&store, &keeps));
}

#[test]
fn a_record_missing_from_the_store_is_reported() {
    let record = KeyRecord::imported(tower_api_key::key::KeyDigest::of("key"), "acme");
    let suite = async { conformance::key_store(&MemoryStore::new(), &[record]).await };
    assert_eq!(broken(suite), "a record is found as it is kept");
}
