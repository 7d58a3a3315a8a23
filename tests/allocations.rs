//! How many allocations a decision takes, by count: what the layer does for a request, less what
//! the same answer takes without it.
//!
//! | request | allocations above a bare service |
//! |---|---|
//! | a cached key, without limits | 0 |
//! | a cached key, with one limit or two | 0 |
//! | a cached key, with three limits | 3: more charges, standings and parts of the receipt than are kept in place |
//! | a bad checksum, plain or keyed, or no key | 0 |
//! | a cached key, and a limiter elsewhere that answers at once | 3, of 2.7 KB: the wait, what it is about, the limiter's answer |
//! | a key that no store has, when it is first looked for | 4, of 2.0 KB: the wait, the load and its flight, the store's answer |
//!
//! The numbers of allocations hold exactly. Their bytes may grow by 5 %: a field more or less in a
//! future is no news.
//!
//! The bare service puts the same extension into the request and the same headers into the answer,
//! or answers with a refusal that is as large. Of the three numbers in the headers it writes one
//! anew, as the layer does, which shares the others among the answers of a thread.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use support::{at_once, is_waiting, strangers, today};
use tower::{Layer, Service};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::key::{ChecksumRing, KeyFormat};
use tower_api_key::limit::{Charge, LimiterError, MemoryLimiter, RateLimiter, Refund, Verdict};
use tower_api_key::{
    ApiKeys, Caller, Environment, IssuedKey, Limits, MemoryStore, Quota, Rejection,
};

/// It answers with nothing.
#[derive(Clone)]
struct Silent;

impl Service<Request<()>> for Silent {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// Keys under these limits, and one that is remembered.
fn keys(limits: Limits) -> (ApiKeys, IssuedKey) {
    let keys = ApiKeys::builder(MemoryStore::new())
        .clock(ManualClock::at(today()))
        .limits(limits)
        .build()
        .unwrap();
    let key = at_once(keys.issue("acme")).unwrap();
    (keys, key)
}

fn bearing(key: &str) -> impl Fn() -> Request<()> {
    move || {
        let request = Request::builder().header("authorization", format!("Bearer {key}"));
        request.body(()).unwrap()
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Allocations {
    count: u64,
    bytes: u64,
}

impl Allocations {
    fn above(self, bare: Self) -> Self {
        Self {
            count: self.count - bare.count,
            bytes: self.bytes.saturating_sub(bare.bytes),
        }
    }
}

/// What the answers to requests allocate, in order.
fn allocations<S, B>(service: &mut S, request: impl Fn() -> Request<()>) -> Vec<Allocations>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let mut answer = || {
        let request = request();
        let measured = allocation_counter::measure(|| {
            let mut answer = pin!(service.call(request));
            assert!(!is_waiting(&mut answer));
        });
        Allocations {
            count: measured.count_total,
            bytes: measured.bytes_total,
        }
    };
    for _ in 0..10 {
        answer(); // first uses of whatever is set up once
    }
    let mut counts: Vec<_> = (0..100).map(|_| answer()).collect();
    counts.sort_unstable();
    counts
}

/// What an answer allocates that has been given before.
fn usual(counts: &[Allocations]) -> Allocations {
    // Now and then a second begins, which is written for all answers that name it.
    let [least, usual, many, most] = [0, 50, 90, 99].map(|at: usize| counts[at].count);
    assert!(
        least == usual && many == usual && most <= usual + 2,
        "{counts:?}"
    );
    counts[50]
}

/// Holds the number of allocations exactly, and their bytes to no more than 5 % above.
fn hold(above: Allocations, count: u64, bytes: u64) {
    assert_eq!(above.count, count, "{above:?}");
    assert!(above.bytes <= bytes + bytes / 20, "{above:?}");
}

/// What the layer allocates for a request with a cached key, above a bare service.
fn above_bare(limits: Limits, header: &str) -> u64 {
    let (keys, key) = keys(limits);
    admitted_above_bare(&keys, &key, header).count
}

fn admitted_above_bare(keys: &ApiKeys, key: &IssuedKey, header: &str) -> Allocations {
    let mut layered = keys.layer().layer(Silent);
    let value = match header {
        "authorization" => format!("Bearer {}", key.expose_secret()),
        _ => key.expose_secret().to_owned(),
    };
    let request = || {
        let request = Request::builder().header(header, &value);
        request.body(()).unwrap()
    };
    drop(at_once(layered.call(request()))); // it had to be loaded
    let answer = at_once(layered.call(request())).unwrap();
    assert_eq!(answer.status(), 200);
    let mut bare = Bare {
        caller: at_once(keys.verify(key.expose_secret())).unwrap(),
        headers: answer.into_parts().0.headers,
    };
    let [layered, bare] = [
        allocations(&mut layered, request),
        allocations(&mut bare, request),
    ];
    let [layered, bare] = [usual(&layered), usual(&bare)];
    layered.above(bare)
}

/// It puts the same caller into a request and the same headers into the answer, for no reason.
struct Bare {
    caller: Caller,
    headers: HeaderMap,
}

impl Service<Request<()>> for Bare {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<()>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        let mut response = Response::default();
        for (name, value) in &self.headers {
            // What remains is written anew each time; the rest is shared.
            let is_new = name == "x-ratelimit-remaining";
            let written = is_new.then(|| HeaderValue::from_bytes(value.as_bytes()).unwrap());
            let value = written.unwrap_or_else(|| value.clone());
            response.headers_mut().insert(name.clone(), value);
        }
        ready(Ok(response))
    }
}

/// It refuses every request with an answer that it has made before.
struct Refusing {
    headers: HeaderMap,
    rejection: Rejection,
    body: Bytes,
}

impl Service<Request<()>> for Refusing {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        *response.headers_mut() = self.headers.clone();
        response.extensions_mut().insert(self.rejection.clone());
        ready(Ok(response))
    }
}

#[test]
fn a_cached_key_without_limits_allocates_nothing_beyond_the_answer() {
    assert_eq!(above_bare(Limits::new(), "authorization"), 0);
    assert_eq!(above_bare(Limits::new(), "x-api-key"), 0);
}

#[test]
fn a_cached_key_with_one_limit_allocates_nothing_beyond_the_answer() {
    for limit in [
        Quota::per_hour(100_000),
        Quota::per_hour(100_000).smooth(),
        Quota::per_utc_month(100_000),
    ] {
        let limits = || Limits::new().per_key(limit);
        assert_eq!(above_bare(limits(), "authorization"), 0, "{limit:?}");
    }
}

#[test]
fn a_cached_key_with_two_limits_allocates_nothing_beyond_the_answer() {
    let limits = Limits::new()
        .per_key(Quota::per_hour(1_000))
        .per_account(Quota::per_utc_month(100_000));
    assert_eq!(above_bare(limits, "authorization"), 0);
}

#[test]
fn a_cached_key_with_three_limits_allocates_three_times_beyond_the_answer() {
    let limits = Limits::new()
        .per_key(Quota::per_hour(1_000))
        .per_account(Quota::per_utc_month(100_000))
        .global(Quota::per_second(5_000).smooth());
    assert_eq!(above_bare(limits, "authorization"), 3);
}

/// A limiter that says nothing before it is waited for.
struct Elsewhere(MemoryLimiter);

impl RateLimiter for Elsewhere {
    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        self.0.check_now(charges, clock.readings()).unwrap()
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        self.0.refund_now(refunds, clock.readings()).unwrap()
    }
}

#[test]
fn a_remote_limiter_allocates_little_beyond_the_answer() {
    let keys = ApiKeys::builder(MemoryStore::new())
        .clock(ManualClock::at(today()))
        .limits(Limits::new().per_key(Quota::per_hour(100_000)))
        .limiter(Elsewhere(MemoryLimiter::new()))
        .build()
        .unwrap();
    let key = at_once(keys.issue("acme")).unwrap();
    let above = admitted_above_bare(&keys, &key, "authorization");
    hold(above, 3, 2_752);
}

/// What the layer allocates for a request that it refuses, above a service that does just that.
fn refused_above_bare(
    keys: &ApiKeys,
    request: &dyn Fn() -> Request<()>,
    of: fn(&[Allocations]) -> Allocations,
) -> Allocations {
    let mut layered = keys.layer().layer(Silent);
    let answer = at_once(layered.call(request())).unwrap();
    let (parts, body) = answer.into_parts();
    assert_eq!(parts.status, 401);
    let mut refusing = Refusing {
        rejection: parts.extensions.get::<Rejection>().unwrap().clone(),
        headers: parts.headers,
        body: at_once(body.collect()).unwrap().to_bytes(),
    };
    let [layered, bare] = [
        of(&allocations(&mut layered, request)),
        of(&allocations(&mut refusing, request)),
    ];
    layered.above(bare)
}

#[test]
fn a_bad_checksum_or_a_missing_key_allocates_nothing_beyond_the_answer() {
    let (keys, key) = keys(Limits::new().per_key(Quota::per_hour(1_000)));
    let good = key.expose_secret();
    let with_bad = bearing(&good[..good.len() - 1]);
    let without = || Request::new(());
    let requests: [&dyn Fn() -> Request<()>; 2] = [&with_bad, &without];
    for request in requests {
        hold(refused_above_bare(&keys, request, usual), 0, 0);
    }
}

#[test]
fn a_forged_key_allocates_nothing_beyond_the_answer() {
    let ring = ChecksumRing::new(&[1; 32]).unwrap();
    let ring = ring.add_retired(&[2; 32]).unwrap();
    let plain = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    let keys = ApiKeys::builder(MemoryStore::new()).formats([plain.keyed_checksum(&ring)]);
    let forged = strangers().next().unwrap();
    let above = refused_above_bare(&keys.build().unwrap(), &bearing(&forged), usual);
    hold(above, 0, 0);
}

/// Junk costs little. (glibc tidies its heap for an allocation of more than a kilobyte at once.)
#[test]
fn an_unknown_key_allocates_little_beyond_the_answer() {
    let (keys, _) = keys(Limits::new().per_key(Quota::per_hour(1_000)));
    let unknown: Vec<_> = strangers().take(250).collect();
    let next = Cell::new(0);
    let request = || bearing(&unknown[next.replace(next.get() + 1)])();
    // Now and then the table that remembers it grows.
    let above = refused_above_bare(&keys, &request, |counts| counts[0]);
    hold(above, 4, 2_288);
}
