//! Tests on any clock, with quotas so slow that nothing comes back during the test.

use std::net::IpAddr;
use std::time::Duration;

use crate::conformance::promise::Promise;
use crate::conformance::rate_limiter::harness::{
    FixedClock, Harness, NEVER, TELLS, TakenCharges, TestBudget, longest,
};
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::quota::Quota;
use crate::limit::charge::{Charge, LimitName, Subject};
use crate::limit::limiter::RateLimiter;
use crate::util::clock::Clock;

const DENIED_IS_FREE: Promise = Promise("a denied request costs nothing");
const LOOKS: Promise = Promise("a charge of 0 only looks");
const ALL_OR_NONE: Promise = Promise("all charges are taken, or none");
const TOGETHER: Promise = Promise("charges against one budget count together");
const AT_MOST_16: Promise = Promise("more than 16 charges are an error");
const GIVEN_BACK: Promise = Promise("what is given back can be used");
const NEVER_MORE: Promise = Promise("no budget becomes more than whole");
const OF_ITS_OWN: Promise = Promise("each subject has a budget of its own under each name");
const REPORTS: Promise =
    Promise("a charge that only reports denies nothing, and is taken with the others");
const NEEDS: Promise =
    Promise("a charge that needs more than it takes is denied where that is not left");
const PEEKS: Promise = Promise("a peek tells how budgets stand, and charges nothing");
const SAME_BUDGETS: Promise = Promise("it is the same whether an answer is waited for or not");

pub(super) async fn run<L: RateLimiter>(harness: &Harness<'_, L>) {
    let quotas = quotas(harness, 10).await;
    for quota in quotas.iter().copied() {
        uses_are_reported(harness, quota).await;
    }
    all_or_none(harness, &quotas).await;
    for quota in quotas {
        denials_are_free(harness, quota).await;
        above_the_quota(harness, quota).await;
        refunds(harness, quota).await;
        one_budget_twice(harness, quota).await;
        both_ways_to_ask(harness, quota).await;
        report_only(harness, quota).await;
        needs(harness, quota).await;
    }
    numbers_of_charges(harness).await;
    budgets_are_distinct(harness).await;
}

/// Returns a quota of each kind. None of them regains a unit within two hours.
pub(super) async fn quotas<L: RateLimiter>(harness: &Harness<'_, L>, limit: u64) -> Vec<Quota> {
    let day = Duration::from_secs(86_400);
    let mut quotas = vec![
        Quota::per_day(limit),
        Quota::per_day(10).smooth().burst(limit),
        Quota::per_day(5).smooth().burst(limit),
    ];
    // In the last minute of the shorter period, use the longer one.
    for quota in [Quota::per_utc_day(limit), Quota::per_utc_month(limit)] {
        let probe = harness.budget(quota);
        let verdict = harness.ask(&[probe.charge(1)]).await;
        let ends_in = verdict.statuses()[0].full_in();
        TELLS.holds(
            !ends_in.is_zero() && ends_in <= day * 31,
            format_args!("a period of the calendar ends in {ends_in:?}: {quota:?}"),
        );
        if ends_in > Duration::from_secs(60) {
            quotas.push(quota);
            break;
        }
    }
    quotas
}

async fn uses_are_reported<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let budget = harness.budget(quota);
    for _ in 0..3 {
        let look = harness.ask(&[budget.charge(0)]).await;
        let status = look.statuses()[0];
        LOOKS.holds(
            look.is_allowed() && status.remaining() == 10,
            format_args!("of a budget that was never used: {status:?}, {quota:?}"),
        );
    }
    for (cost, remaining) in [(4, 6), (6, 0)] {
        let verdict = harness.ask(&[budget.charge(cost)]).await;
        let status = verdict.statuses()[0];
        TELLS.holds(
            verdict.is_allowed()
                && status.remaining() == remaining
                && status.full_in() <= longest(quota),
            format_args!("after a charge of {cost}: {status:?}, {quota:?}"),
        );
        let look = harness.remaining(&budget).await;
        LOOKS.holds(
            look == remaining,
            format_args!("{look} remain where {remaining} did, {quota:?}"),
        );
    }
    let look = harness.ask(&[budget.charge(0)]).await;
    LOOKS.holds(
        look.is_allowed(),
        format_args!("a look at what is used up is denied, {quota:?}"),
    );
    let denied = harness.ask(&[budget.charge(1)]).await;
    let wait = denied.retry_after().unwrap_or_default();
    TELLS.holds(
        !wait.is_zero() && wait <= longest(quota),
        format_args!("of what is used up, one more may be had in {wait:?}, {quota:?}"),
    );
}

async fn denials_are_free<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let budget = harness.budget(quota);
    let used = harness.ask(&[budget.charge(6)]).await;
    TELLS.holds(used.is_allowed(), format_args!("6 of 10 are denied"));
    for cost in [5, 10, 5] {
        let denied = harness.ask(&[budget.charge(cost)]).await;
        TELLS.holds(
            !denied.is_allowed(),
            format_args!("6 and {cost} of 10 are admitted, {quota:?}"),
        );
        let remaining = harness.remaining(&budget).await;
        DENIED_IS_FREE.holds(
            remaining == 4,
            format_args!("{remaining} remain where 4 did, {quota:?}"),
        );
    }
    let rest = harness.ask(&[budget.charge(4)]).await;
    DENIED_IS_FREE.holds(
        rest.is_allowed(),
        format_args!("what remained is denied to whoever asked for more before, {quota:?}"),
    );
}

async fn above_the_quota<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (budget, other) = (harness.budget(quota), harness.budget(quota));
    for cost in [11, Quota::MAX + 1, u64::MAX] {
        let denied = harness.ask(&[other.charge(1), budget.charge(cost)]).await;
        NEVER.holds(
            !denied.is_allowed() && denied.retry_after().is_none(),
            format_args!("{cost} of 10: {:?}, {quota:?}", denied.statuses()),
        );
    }
    let whole = harness.ask(&[other.charge(10), budget.charge(10)]).await;
    DENIED_IS_FREE.holds(
        whole.is_allowed(),
        format_args!("after a cost above the quota: {:?}", whole.statuses()),
    );
}

async fn refunds<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (budget, other) = (harness.budget(quota), harness.budget(quota));
    let taken = harness.take(&[budget.charge(10), other.charge(2)]).await;
    let denied = harness.ask(&[budget.charge(1)]).await;
    TELLS.holds(!denied.is_allowed(), format_args!("11 of 10, {quota:?}"));
    harness
        .refund(&[taken.refund(0, 3), taken.refund(1, 1)])
        .await;
    for (budget, expected) in [(&budget, 3), (&other, 9)] {
        let remaining = harness.remaining(budget).await;
        GIVEN_BACK.holds(
            remaining == expected,
            format_args!("{remaining} remain instead of {expected}, {quota:?}"),
        );
    }
    let again = harness.ask(&[budget.charge(3)]).await;
    GIVEN_BACK.holds(again.is_allowed(), format_args!("denied, {quota:?}"));
    let denied = harness.ask(&[budget.charge(1)]).await;
    NEVER_MORE.holds(
        !denied.is_allowed(),
        format_args!("more was given back than was asked for, {quota:?}"),
    );

    // Refund more than was used, and units that were never used.
    let unused = harness.budget(quota);
    let too_much = taken.refund(0, u64::MAX);
    let of_nothing = taken.refund_as(0, unused.charge(10), 10);
    harness.refund(&[too_much, too_much, of_nothing]).await;
    for budget in [&budget, &unused] {
        let remaining = harness.remaining(budget).await;
        NEVER_MORE.holds(
            remaining == 10,
            format_args!("{remaining} of 10 remain, {quota:?}"),
        );
        let whole = harness.ask(&[budget.charge(10)]).await;
        NEVER_MORE.holds(
            whole.is_allowed(),
            format_args!("a whole budget is denied, {quota:?}"),
        );
        let more = harness.ask(&[budget.charge(1)]).await;
        NEVER_MORE.holds(!more.is_allowed(), format_args!("11 of 10, {quota:?}"));
    }
}

async fn needs<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (budget, other) = (harness.budget(quota), harness.budget(quota));
    // A need without an equal cost takes only the cost.
    for (cost, need, left) in [(0, 1, 10), (0, 10, 10), (9, 10, 1), (0, 1, 1), (1, 0, 0)] {
        let verdict = harness.ask(&[budget.charge(cost).needing(need)]).await;
        let remaining = verdict.statuses()[0].remaining();
        NEEDS.holds(
            verdict.is_allowed() && remaining == left,
            format_args!("{cost} that need {need} should leave {left}: {verdict:?}, {quota:?}"),
        );
    }
    let charges = [other.charge(3), budget.charge(0).needing(1)];
    let denied = harness.ask(&charges).await;
    let remaining = harness.remaining(&other).await;
    NEEDS.holds(
        !denied.is_allowed() && denied.retry_after().is_some() && remaining == 10,
        format_args!("of nothing that is left: {denied:?}, {remaining} of another, {quota:?}"),
    );
    // A need above the quota has no wait.
    let never = harness.ask(&[other.charge(1).needing(11)]).await;
    NEEDS.holds(
        !never.is_allowed() && never.retry_after().is_none(),
        format_args!("11 of 10: {never:?}, {quota:?}"),
    );
    // Two charges against one budget take both costs, but each has its own need.
    let charges = [other.charge(2).needing(9), other.charge(8).needing(1)];
    let both = harness.ask(&charges).await;
    NEEDS.holds(
        both.is_allowed(),
        format_args!("2 that need 9 and 8 that need 1, of 10: {both:?}, {quota:?}"),
    );
}

async fn report_only<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (binding, reporting) = (harness.budget(quota), harness.budget(quota));
    let ask = async |binds, reports| {
        let reports = reporting.charge(reports).report_only();
        harness.ask(&[binding.charge(binds), reports]).await
    };
    // Use eight of ten, then four more, then more than the quota.
    for (cost, left) in [(8, 2), (4, 0), (u64::MAX, 0)] {
        let verdict = ask(1, cost).await;
        let status = verdict.statuses()[1];
        REPORTS.holds(
            verdict.is_allowed() && status.is_report_only() && status.remaining() == left,
            format_args!("{cost} of 10, of which {left} should remain: {status:?}, {quota:?}"),
        );
        let is_hit = cost != 8;
        REPORTS.holds(
            status.is_admissible() != is_hit,
            format_args!("whether it would have been denied is told wrongly: {status:?}"),
        );
    }
    let remaining = harness.remaining(&binding).await;
    REPORTS.holds(
        remaining == 7,
        format_args!("{remaining} remain beside it instead of 7, {quota:?}"),
    );
    // A report-only charge is not taken if the others are denied.
    let (binding, reporting) = (harness.budget(quota), harness.budget(quota));
    let denied = harness
        .ask(&[binding.charge(11), reporting.charge(3).report_only()])
        .await;
    let remaining = harness.remaining(&reporting).await;
    REPORTS.holds(
        !denied.is_allowed() && remaining == 10,
        format_args!("a denied request used {} of it, {quota:?}", 10 - remaining),
    );
    // Alone, a report-only charge does not deny either.
    let alone = harness.ask(&[reporting.charge(11).report_only()]).await;
    REPORTS.holds(
        alone.is_allowed() && alone.retry_after().is_none() && alone.tightest().is_none(),
        format_args!("alone: {alone:?}, {quota:?}"),
    );
    let peeked = harness
        .limiter
        .peek(&[binding.charge(4)], &FixedClock::now())
        .await;
    let peeked = PEEKS.answer(peeked, "peek").statuses()[0].remaining();
    let remaining = harness.remaining(&binding).await;
    PEEKS.holds(
        (peeked, remaining) == (10, 10),
        format_args!("{peeked} and then {remaining} of 10 remain, {quota:?}"),
    );
}

async fn one_budget_twice<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let (budget, other) = (harness.budget(quota), harness.budget(quota));
    let charges = [budget.charge(6), other.charge(1), budget.charge(6)];
    let denied = harness.ask(&charges).await;
    TOGETHER.holds(
        !denied.is_allowed() && denied.retry_after().is_none(),
        format_args!("twice 6 of 10: {:?}, {quota:?}", denied.statuses()),
    );
    let charges = [budget.charge(4), budget.charge(6)];
    let whole = harness.ask(&charges).await;
    TOGETHER.holds(
        whole.is_allowed(),
        format_args!("4 and 6 of 10 are denied, {quota:?}"),
    );
    let remaining = harness.remaining(&budget).await;
    TOGETHER.holds(
        remaining == 0,
        format_args!("{remaining} remain after 4 and 6 of 10, {quota:?}"),
    );
}

async fn both_ways_to_ask<L: RateLimiter>(harness: &Harness<'_, L>, quota: Quota) {
    let budget = harness.budget(quota);
    let now = FixedClock::now();
    let charges = [budget.charge(3)];
    let taken = TakenCharges::new(&charges, now, &harness.wait_for(&charges, now).await);
    let seen = harness.ask(&[budget.charge(2)]).await.statuses()[0].remaining();
    let look = harness.wait_for(&[budget.charge(0)], now).await;
    let waited_for = look.statuses()[0].remaining();
    SAME_BUDGETS.holds(
        (seen, waited_for) == (5, 5),
        format_args!("after 3 and 2 of 10, {seen} or {waited_for} remain, {quota:?}"),
    );
    harness.wait_for_refund(&[taken.refund(0, 1)], now).await;
    harness.refund(&[taken.refund(0, 1)]).await;
    let remaining = harness.remaining(&budget).await;
    SAME_BUDGETS.holds(
        remaining == 7,
        format_args!("twice 1 was given back, {remaining} remain instead of 7, {quota:?}"),
    );
}

async fn all_or_none<L: RateLimiter>(harness: &Harness<'_, L>, quotas: &[Quota]) {
    let budgets = || -> Vec<TestBudget> {
        let quotas = quotas.iter().cycle().take(16);
        quotas.map(|quota| harness.budget(*quota)).collect()
    };
    for used_up in [0, 7, 15] {
        let budgets = budgets();
        harness.ask(&[budgets[used_up].charge(10)]).await;
        let charges = |cost| -> Vec<_> { budgets.iter().map(|at| at.charge(cost)).collect() };
        let denied = harness.ask(&charges(1)).await;
        ALL_OR_NONE.holds(
            !denied.is_allowed(),
            format_args!("admitted, though charge {used_up} has nothing left"),
        );
        let mut look = harness.ask(&charges(0)).await.statuses().to_vec();
        look.remove(used_up);
        ALL_OR_NONE.holds(
            look.iter().all(|status| status.remaining() == 10),
            format_args!("charge {used_up} had nothing left, and of the others: {look:?}"),
        );
        let mut others = charges(10);
        others.remove(used_up);
        let verdict = harness.ask(&others).await;
        let all = verdict.statuses().iter();
        ALL_OR_NONE.holds(
            verdict.is_allowed() && all.clone().all(|status| status.remaining() == 0),
            format_args!("fifteen whole budgets: {:?}", all.as_slice()),
        );
    }
}

async fn numbers_of_charges<L: RateLimiter>(harness: &Harness<'_, L>) {
    let none = harness.ask(&[]).await;
    ALL_OR_NONE.holds(none.is_allowed(), format_args!("no charges are denied"));

    let budget = harness.budget(Quota::per_day(100));
    let charges = [budget.charge(1); 17];
    let now = FixedClock::now();
    let at_hand = harness.limiter.check_now(&charges, now.readings());
    AT_MOST_16.holds(
        at_hand.is_none_or(|verdict| verdict.is_err()),
        format_args!("check_now answers 17"),
    );
    let waited_for = harness.limiter.check(&charges, &now).await;
    AT_MOST_16.holds(waited_for.is_err(), format_args!("check answers 17"));
    let remaining = harness.remaining(&budget).await;
    AT_MOST_16.holds(
        remaining == 100,
        format_args!("{} were taken", 100 - remaining),
    );
}

/// Names and subjects that become equal if they are truncated, joined, or compared carelessly.
async fn budgets_are_distinct<L: RateLimiter>(harness: &Harness<'_, L>) {
    let id = |head: u8, tail: u8| {
        let mut bytes = [0x5a; 16];
        (bytes[0], bytes[15]) = (head, tail);
        KeyId::from_bytes(bytes)
    };
    let hex = id(1, 2).to_string();
    let long = |tail: &str| format!("{}{tail}", "a".repeat(300));
    let (long_one, long_other) = (long("b"), long("c"));
    let mut subjects = vec![
        Subject::Global,
        Subject::Key(id(1, 2)),
        Subject::Key(id(1, 3)),
        Subject::Key(id(2, 2)),
        Subject::Address(IpAddr::from([192, 0, 2, 1])),
        Subject::Address(IpAddr::from([192, 0, 2, 2])),
        Subject::Address(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, 0])),
        Subject::Address(IpAddr::from([0x2001, 0xdb8, 0, 2, 0, 0, 0, 0])),
    ];
    let accounts = [
        "",
        "a",
        "A",
        "a:",
        ":a",
        "a b",
        "a{b}",
        "{a}",
        "a*",
        "a%3A",
        "ä",
        "a\u{308}",
        "global",
        "192.0.2.1",
        &hex,
        &long_one,
        &long_other,
    ];
    subjects.extend(accounts.map(Subject::Account));
    let environments = [&Environment::LIVE, &Environment::TEST];
    let in_each = |environment| accounts.map(|account| Subject::AccountIn(account, environment));
    subjects.extend(environments.into_iter().flat_map(in_each));
    subjects.push(Subject::UnknownAddress);
    subjects.extend(accounts.map(Subject::Custom));
    let name = harness.name();
    let names = ["", ":", ":a", ":a:"].map(|tail| LimitName::new(format!("{name}{tail}")));
    let quota = Quota::per_day(1);
    for expected in [true, false] {
        for name in &names {
            for subject in &subjects {
                let charge = [Charge::new(name, *subject, quota, 1)];
                let allowed = harness.ask(&charge).await.is_allowed();
                OF_ITS_OWN.holds(
                    allowed == expected,
                    if expected {
                        format!("another's use counts against {subject:?} under {name}")
                    } else {
                        format!("{subject:?} under {name} uses more than its quota")
                    },
                );
            }
        }
    }
}
