//! `RateLimit` and `RateLimit-Policy` through a parser of structured fields (RFC 9651) that is not
//! ours: lists of strings with integers, whose values are those of the quotas, at the ends of both.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use http::Response;
use proptest::prelude::*;
use sfv::{BareItem, List, ListEntry, Parser};
use support::{DAY, World, answer, to};
use tower_api_key::http::RateLimitHeaders;
use tower_api_key::limit::{Endpoint, Limit};
use tower_api_key::{Limits, Quota};

/// The greatest integer of RFC 9651, and the greatest quota.
const MOST: u64 = 999_999_999_999_999;

/// An item of a list: a string and its parameters.
type Item = (String, Vec<(String, u64)>);

/// The field of this name, which there is once.
fn parsed<B>(answer: &Response<B>, name: &str) -> Vec<Item> {
    let mut values = answer.headers().get_all(name).iter();
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(values.next().is_none(), "{name} twice");
    let list: List = Parser::new(value.as_bytes()).parse().unwrap();
    let item = |entry| {
        let ListEntry::Item(item) = entry else {
            panic!("an inner list in {value:?}");
        };
        let BareItem::String(name) = item.bare_item else {
            panic!("no string in {value:?}");
        };
        let parameter = |(key, value): (sfv::Key, BareItem)| {
            let integer = i64::from(value.as_integer().expect("an integer"));
            let integer = u64::try_from(integer).expect("none is negative");
            assert!(integer <= MOST, "{key}={integer}");
            (key.to_string(), integer)
        };
        let parameters = item.params.into_iter().map(parameter).collect();
        (name.to_string(), parameters)
    };
    list.into_iter().map(item).collect()
}

/// Both fields of an answer, item by item.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    name: String,
    quota: u64,
    window: u64,
    remaining: u64,
    time: u64,
}

fn told<B>(answer: &Response<B>) -> Vec<Told> {
    let policies = parsed(answer, "ratelimit-policy");
    let limits = parsed(answer, "ratelimit");
    assert_eq!(policies.len(), limits.len());
    let values = |parameters: Vec<(String, u64)>, keys: [&str; 2]| {
        let (names, values): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
        assert_eq!(names, keys);
        (values[0], values[1])
    };
    let both = policies.into_iter().zip(limits).map(|(policy, limit)| {
        assert_eq!(policy.0, limit.0, "the items are in one order");
        let (quota, window) = values(policy.1, ["q", "w"]);
        let (remaining, time) = values(limit.1, ["r", "t"]);
        Told {
            name: policy.0,
            quota,
            window,
            remaining,
            time,
        }
    });
    both.collect()
}

/// All these limits bind each request; `/cost/N` costs N.
fn limited(limits: &[(String, Quota)], costs: &[u64]) -> World {
    let rule = |rules: Limits, (name, quota): &(String, Quota)| {
        rules.per_account(Limit::named(name, *quota))
    };
    let rules = limits.iter().fold(Limits::new(), rule);
    let costs: BTreeSet<_> = costs.iter().copied().collect();
    let rules = costs.into_iter().fold(rules, |rules, cost| {
        rules.add_endpoint(Endpoint::new("GET", format!("/cost/{cost}")).cost(cost))
    });
    World::with_limits(rules)
}

/// What a request of this cost is told; the status is as expected.
fn ask(
    world: &World,
    limits: &[(String, Quota)],
    cost: u64,
    status: u16,
) -> (Vec<Told>, Option<u64>) {
    let headers = RateLimitHeaders::delta().with_draft();
    let layer = world.keys.layer().rate_limit_headers(headers);
    let answer = answer(&layer, to(&format!("/cost/{cost}"), world.key()));
    assert_eq!(answer.status(), status, "a cost of {cost}: {limits:?}");
    let retry_after = answer.headers().get("retry-after");
    let retry_after = retry_after.map(|value| value.to_str().unwrap().parse().unwrap());
    let told = told(&answer);
    hold(&told, limits);
    (told, retry_after)
}

/// What holds of every answer.
fn hold(told: &[Told], limits: &[(String, Quota)]) {
    assert_eq!(told.len(), limits.len());
    for (told, (name, quota)) in told.iter().zip(limits) {
        let window = told_window(*quota);
        assert_eq!(
            (&told.name, told.quota, told.window),
            (name, quota.limit(), window)
        );
        assert!(told.remaining <= told.quota, "{told:?}");
        assert!(
            (1..=seconds_up(quota.window())).contains(&told.time),
            "{told:?}"
        );
    }
}

fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn quotas() -> Vec<Quota> {
    let per = |limit, period| Quota::per(limit, period).unwrap();
    let billion = Quota::per_second(1_000_000_000).smooth();
    vec![
        Quota::per_second(1),
        Quota::per_second(MOST),
        per(1, 400 * DAY),
        per(MOST, 400 * DAY),
        per(7, Duration::from_nanos(1_000_000_001)),
        per(1, 400 * DAY).smooth(),
        per(34_560_000_000_000, 400 * DAY).smooth(),
        billion,
        billion.burst(1),
        billion.burst(MOST),
        Quota::per_hour(7).smooth().burst(3),
        Quota::per_utc_day(1),
        Quota::per_utc_day(MOST),
        Quota::per_utc_month(1),
        Quota::per_utc_month(MOST),
        Quota::per_minute(60),
    ]
}

/// All characters that a name may have, as names of 64 of them, and names that look like syntax.
fn names() -> Vec<String> {
    let allowed = (0x20..=0x7e_u8).map(char::from);
    let allowed: Vec<char> = allowed.filter(|it| !"\"\\".contains(*it)).collect();
    assert_eq!(allowed.len(), 93);
    let from = |start: usize| allowed.iter().cycle().skip(start).take(64).collect();
    let mut names: Vec<String> = [0, 1, 17, 29, 64, 80].map(from).into();
    let odd = [
        " ",
        "  ",
        ",",
        ";q=1",
        "r=1;t=1, x",
        "(a b)",
        ":YQ==:",
        "?1",
        "@1",
        "%22",
    ];
    names.extend(odd.map(str::to_owned));
    names
}

/// Seven of seven in a second take a nanosecond more than a second, as rounded.
fn told_window(quota: Quota) -> u64 {
    seconds_up(quota.window().saturating_sub(Duration::from_micros(1))).max(1)
}

#[test]
fn each_quota_is_reported_from_full_to_empty() {
    for quota in quotas() {
        whole_to_nothing(quota);
    }
}

fn whole_to_nothing(quota: Quota) {
    let limit = quota.limit();
    let costs = [0, 1, limit - 1, limit, limit + 1];
    let limits = [("limit".to_owned(), quota)];
    let world = limited(&limits, &costs);
    let ask = |cost, status| ask(&world, &limits, cost, status);
    let window = told_window(quota);

    let (idle, _) = ask(0, 200);
    assert_eq!((idle[0].remaining, idle[0].time), (limit, window));
    let (never, retry_after) = ask(limit + 1, 403);
    assert_eq!((&never, retry_after), (&idle, None));
    let (one, _) = ask(1, 200);
    assert_eq!(one[0].remaining, limit - 1);
    let (nothing, _) = ask(limit - 1, 200);
    assert_eq!(nothing[0].remaining, 0);
    let (denied, retry_after) = ask(limit, 429);
    assert_eq!(denied[0].remaining, 0);
    // Who waits until the time is over is not too early, and not denied.
    assert_eq!(retry_after, Some(denied[0].time));
    world.clock.advance(Duration::from_secs(denied[0].time));
    let (whole, _) = ask(limit, 200);
    assert_eq!(whole[0].remaining, 0);
}

#[test]
fn sixteen_limits_are_reported_at_once() {
    let limits: Vec<_> = names().into_iter().zip(quotas()).collect();
    assert_eq!(limits.len(), 16);
    let world = limited(&limits, &[0, 1]);
    let ask = |cost, status| ask(&world, &limits, cost, status);
    let remaining = |told: &[Told]| -> Vec<u64> { told.iter().map(|it| it.remaining).collect() };
    let all: Vec<u64> = quotas().iter().map(Quota::limit).collect();
    let less: Vec<u64> = all.iter().map(|limit| limit - 1).collect();
    let (idle, _) = ask(0, 200);
    assert_eq!(remaining(&idle), all);
    let (one, _) = ask(1, 200);
    assert_eq!(remaining(&one), less);
    let (denied, retry_after) = ask(1, 429);
    assert_eq!(remaining(&denied), less);
    // What is used up ends no later than what the caller is told to wait for.
    let used_up = denied.iter().filter(|told| told.remaining == 0);
    let longest = used_up.map(|told| told.time).max();
    assert_eq!(retry_after, longest);
}

proptest! {
    /// Any quota, any time of the day, and a few requests.
    #[test]
    fn any_quota_is_reported_correctly(
        limit in prop_oneof![1..100u64, 1..=MOST],
        period in prop_oneof![1_000_000_000..100_000_000_000u64, 1_000_000_000..=34_560_000_000_000_000u64],
        smooth: bool,
        later in 0..=200_000_000_000_000u64,
        used in 0..=MOST,
    ) {
        let mut quota = Quota::per(limit, Duration::from_nanos(period)).unwrap();
        if smooth && limit <= period {
            quota = quota.smooth();
        }
        let used = used % (limit + 1);
        let limits = [("limit".to_owned(), quota)];
        let world = limited(&limits, &[0, used]);
        let ask = |cost| ask(&world, &limits, cost, 200);
        world.clock.advance(Duration::from_nanos(later));
        let (told, _) = ask(used);
        assert_eq!(told[0].remaining, limit - used);
        world.clock.advance(Duration::from_nanos(later % period));
        let (told, _) = ask(0);
        assert!(told[0].remaining >= limit - used);
    }
}
