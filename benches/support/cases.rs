//! The cases: who sends what to which stack of layers, and what must come back.

use std::cell::OnceCell;
use std::future::IntoFuture;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use http::StatusCode;
use tower::Layer;
use tower_api_key::anomaly::{AnomalyDetection, CountryHeader};
use tower_api_key::http::NotFound;
use tower_api_key::limit::MemoryLimiter;
use tower_api_key::observe::{Answered, Decision, Observer};
use tower_api_key::{ApiKeyLayer, ApiKeys, ApiKeysBuilder, Cache, Limits, Quota, Rejection};

use super::by_hand::ByHandLayer;
use super::floor::{Floor, FloorLayer};
use super::keys;
use super::peers;
use super::random::Random;
use super::requests::{Bare, COUNTRY, Credentials, Request};
use super::serve::{Stack, stack};

/// All cases, those next to each other that are compared.
pub(crate) const NAMES: [&str; 28] = [
    "bare_hot",
    "floor_hot",
    "full_hot",
    "assembled_hot",
    "bare_10k",
    "floor_10k",
    "full_10k",
    "assembled_10k",
    "tower_governor",
    "hand_written_10k",
    "no_limits_10k",
    "window_10k",
    "observed_10k",
    "metered_10k",
    "bare_addressed",
    "addressed_10k",
    "watched_10k",
    "tower_http_bearer",
    "keyed_10k",
    "bad_checksum",
    "bad_keyed",
    "bad_keyed_by_two",
    "unknown_remembered",
    "bare_missing",
    "missing",
    "bare_1m",
    "floor_1m",
    "full_1m",
];

const RATE: Quota = Quota::per_second(1_000_000).smooth();
const WINDOW: Quota = Quota::per_minute(1_000_000_000);
/// Room for the budgets of all keys: what happens beyond it is measured elsewhere.
const LIMITER_MEMORY: usize = 1 << 30;

/// Requests of one kind to one stack.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The case of the same requests to the inner service alone.
    pub(crate) bare: &'static str,
    credentials: Credentials,
    expected: Expected,
    stack: Box<dyn Stack>,
}

impl Case {
    /// Fails unless the answer is what the case is about.
    pub(crate) fn check(&mut self) {
        for request in self.credentials.each().take(3) {
            let answer = self.stack.answer(request);
            let name = self.name;
            assert_eq!(answer.status, self.expected.status, "{name}");
            let mut headers: Vec<_> = answer
                .headers
                .keys()
                .map(http::HeaderName::as_str)
                .collect();
            headers.sort_unstable();
            assert_eq!(headers, self.expected.headers, "{name}");
            let rejection = answer.extensions.get();
            assert_eq!(rejection, self.expected.rejection.as_ref(), "{name}");
        }
    }

    /// Sends each of the keys once.
    pub(crate) fn warm(&mut self) {
        let mut requests = Vec::new();
        let mut all = self.credentials.each().peekable();
        while all.peek().is_some() {
            requests.extend(all.by_ref().take(256));
            let unexpected = self.stack.serve(&mut requests, self.expected.status);
            assert_eq!(unexpected, 0, "{} answers something else", self.name);
        }
    }

    pub(crate) fn draw(&self, count: usize, random: &mut Random, requests: &mut Vec<Request>) {
        self.credentials.draw(count, random, requests);
    }

    /// What is measured. Returns how many answers were not what they should be.
    pub(crate) fn serve(&mut self, requests: &mut Vec<Request>) -> usize {
        self.stack.serve(requests, self.expected.status)
    }
}

/// What the answers of a case must be.
struct Expected {
    status: StatusCode,
    /// All of them, in order of the alphabet.
    headers: &'static [&'static str],
    rejection: Option<Rejection>,
}

/// From the inner service, with these headers.
fn accepted(headers: &'static [&'static str]) -> Expected {
    Expected {
        status: StatusCode::OK,
        headers,
        rejection: None,
    }
}

/// From the library.
fn refused(rejection: Rejection) -> Expected {
    Expected {
        status: StatusCode::UNAUTHORIZED,
        headers: &["cache-control", "content-type", "www-authenticate"],
        rejection: Some(rejection),
    }
}

const PLAIN: &[&str] = &["content-type"];
const STATUS: &[&str] = &["content-type", "x-key-status"];
const GOVERNED: &[&str] = &["content-type", "x-ratelimit-limit", "x-ratelimit-remaining"];
const ALL: &[&str] = &[
    "content-type",
    "x-key-status",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

/// What the cases share, made when the first of them needs it.
pub(crate) struct Sets {
    some: Set,
    many: Set,
}

impl Sets {
    /// Ten thousand keys, and a million, or fewer for a quick run.
    pub(crate) fn new(many: usize) -> Self {
        Self {
            some: Set::new(1, 10_000),
            many: Set::new(2, many),
        }
    }

    pub(crate) fn case(&self, name: &'static str) -> Case {
        let some = &self.some;
        let (bare, credentials, expected, stack) = match name {
            "bare_hot" => (name, some.one(), accepted(PLAIN), stack(Bare)),
            "floor_hot" => ("bare_hot", some.one(), accepted(ALL), some.floor()),
            "full_hot" => ("bare_hot", some.one(), accepted(ALL), some.full()),
            "assembled_hot" => ("bare_hot", some.one(), accepted(GOVERNED), some.assembled()),
            "bare_10k" => (name, some.any(), accepted(PLAIN), stack(Bare)),
            "floor_10k" => ("bare_10k", some.any(), accepted(ALL), some.floor()),
            "full_10k" => ("bare_10k", some.any(), accepted(ALL), some.full()),
            "assembled_10k" => ("bare_10k", some.any(), accepted(GOVERNED), some.assembled()),
            "tower_governor" => {
                let stack = stack(peers::governor(Bare));
                ("bare_10k", some.any(), accepted(GOVERNED), stack)
            }
            "hand_written_10k" => {
                let stack = stack(some.by_hand().layer(Bare));
                ("bare_10k", some.any(), accepted(PLAIN), stack)
            }
            "no_limits_10k" => {
                let stack = stack(ours(some.keys(), Limits::new()).layer(Bare));
                ("bare_10k", some.any(), accepted(STATUS), stack)
            }
            "window_10k" => {
                let limits = Limits::new().per_key(WINDOW);
                let stack = stack(ours(some.keys(), limits).layer(Bare));
                ("bare_10k", some.any(), accepted(ALL), stack)
            }
            "observed_10k" => {
                let keys = builder(some.keys(), Limits::new().per_key(RATE));
                let keys = keys.add_observer(Counting).build();
                let stack = stack(keys.expect("limits that can be kept").layer().layer(Bare));
                ("bare_10k", some.any(), accepted(ALL), stack)
            }
            "metered_10k" => {
                let keys = builder(some.keys(), Limits::new().per_key(RATE)).build();
                let keys = keys.expect("limits that can be kept");
                let stack = stack(worked(&keys).layer().layer(Bare));
                ("bare_10k", some.any(), accepted(ALL), stack)
            }
            "bare_addressed" => (name, some.addressed(), accepted(PLAIN), stack(Bare)),
            "addressed_10k" => (
                "bare_addressed",
                some.addressed(),
                accepted(ALL),
                some.full(),
            ),
            "watched_10k" => {
                let countries = CountryHeader::new(COUNTRY).expect("the name of a header");
                let keys = builder(some.keys(), Limits::new().per_key(RATE))
                    .anomaly_detection(AnomalyDetection::new())
                    .countries(countries)
                    .build();
                let keys = keys.expect("limits that can be kept");
                let stack = stack(worked(&keys).layer().layer(Bare));
                ("bare_addressed", some.addressed(), accepted(ALL), stack)
            }
            "tower_http_bearer" => {
                let stack = stack(peers::bearer(Bare, &some.keys()[0]));
                ("bare_hot", some.one(), accepted(PLAIN), stack)
            }
            "keyed_10k" => {
                let (keys, stack) = keyed(&[1]);
                let credentials = Credentials::AnyOf(keys.into());
                ("bare_10k", credentials, accepted(ALL), stack)
            }
            "bad_keyed" | "bad_keyed_by_two" => {
                let secrets: &[u8] = if name == "bad_keyed" { &[1] } else { &[1, 2] };
                let (_, stack) = keyed(secrets);
                let expected = refused(Rejection::NotFound(NotFound::Malformed));
                // Forged: nothing is wrong with its plain checksum.
                ("bare_hot", some.one(), expected, stack)
            }
            "bad_checksum" => {
                let key = keys::bad_checksum(&some.keys()[0]);
                let expected = refused(Rejection::NotFound(NotFound::Malformed));
                ("bare_hot", Credentials::one(&key), expected, some.full())
            }
            "unknown_remembered" => {
                let key = &keys::keys(3, 1)[0];
                let expected = refused(Rejection::NotFound(NotFound::Unknown));
                ("bare_hot", Credentials::one(key), expected, some.full())
            }
            "bare_missing" => (name, Credentials::None, accepted(PLAIN), stack(Bare)),
            "missing" => {
                let expected = refused(Rejection::Missing);
                ("bare_missing", Credentials::None, expected, some.full())
            }
            "bare_1m" => (name, self.many.any(), accepted(PLAIN), stack(Bare)),
            "floor_1m" => ("bare_1m", self.many.any(), accepted(ALL), self.many.floor()),
            "full_1m" => ("bare_1m", self.many.any(), accepted(ALL), self.many.full()),
            _ => panic!("there is no case {name}"),
        };
        Case {
            name,
            bare,
            credentials,
            expected,
            stack,
        }
    }
}

/// Keys, and what knows all of them.
struct Set {
    seed: u64,
    count: usize,
    keys: OnceCell<Rc<[Box<str>]>>,
    full: OnceCell<ApiKeyLayer>,
    floor: OnceCell<Arc<Floor>>,
    by_hand: OnceCell<ByHandLayer>,
}

impl Set {
    fn new(seed: u64, count: usize) -> Self {
        Self {
            seed,
            count,
            keys: OnceCell::new(),
            full: OnceCell::new(),
            floor: OnceCell::new(),
            by_hand: OnceCell::new(),
        }
    }

    fn keys(&self) -> &Rc<[Box<str>]> {
        let make = || keys::keys(self.seed, self.count).into();
        self.keys.get_or_init(make)
    }

    fn one(&self) -> Credentials {
        Credentials::one(&self.keys()[0])
    }

    fn addressed(&self) -> Credentials {
        Credentials::Addressed(Rc::clone(self.keys()))
    }

    fn any(&self) -> Credentials {
        Credentials::AnyOf(Rc::clone(self.keys()))
    }

    /// This library, with one limit and the default headers.
    fn full(&self) -> Box<dyn Stack> {
        let make = || ours(self.keys(), Limits::new().per_key(RATE));
        stack(self.full.get_or_init(make).layer(Bare))
    }

    fn floor(&self) -> Box<dyn Stack> {
        let floor = self.floor.get_or_init(|| Floor::new(self.keys()));
        stack(FloorLayer(Arc::clone(floor)).layer(Bare))
    }

    fn by_hand(&self) -> &ByHandLayer {
        self.by_hand.get_or_init(|| ByHandLayer::new(self.keys()))
    }

    /// What people put together: a layer written by hand, and `tower_governor` under it.
    fn assembled(&self) -> Box<dyn Stack> {
        stack(self.by_hand().layer(peers::governor(Bare)))
    }
}

/// Keys with a checksum under a ring of these secrets, and this library, which knows them.
fn keyed(secrets: &[u8]) -> (Vec<Box<str>>, Box<dyn Stack>) {
    let format = keys::keyed_format(secrets);
    let issued = (0..10_000).map(|_| format.generate().expect("random bytes"));
    let issued: Vec<Box<str>> = issued.map(|key| key.expose_secret().into()).collect();
    let keys = builder(&issued, Limits::new().per_key(RATE)).formats([format]);
    let layer = keys.build().expect("limits that can be kept").layer();
    (issued, stack(layer.layer(Bare)))
}

/// Begins to count usage, and to watch keys if anomalies are detected, which a worker does. It never
/// records what was counted.
fn worked(keys: &ApiKeys) -> &ApiKeys {
    let mut worker = Box::pin(keys.worker().into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(worker.as_mut().poll(&mut context).is_pending());
    mem::forget(worker); // it counts for as long as its worker is there
    keys
}

/// Counts by key what was admitted, and how it was answered.
struct Counting;

#[derive(Default)]
struct Count {
    admitted: AtomicU64,
    answered: AtomicU64,
}

impl Observer for Counting {
    fn decided(&self, decision: &Decision<'_>) {
        if let Some(key) = decision.key()
            && decision.is_admitted()
        {
            key.slot(Count::default)
                .admitted
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answered(&self, answer: &Answered<'_>) {
        if answer.status().is_success() {
            let count = answer.key().slot(Count::default);
            count.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A layer of the library over these keys.
pub(crate) fn ours(keys: &[Box<str>], limits: Limits) -> ApiKeyLayer {
    let keys = builder(keys, limits).build();
    keys.expect("limits that can be kept").layer()
}

fn builder(keys: &[Box<str>], limits: Limits) -> ApiKeysBuilder {
    let limiter = MemoryLimiter::with_memory(LIMITER_MEMORY);
    assert!(limiter.capacity() >= 2 * keys.len());
    // Room for all keys, and none is asked for twice.
    let cache = Cache::new()
        .memory(4 << 30)
        .max_staleness(Duration::from_secs(3600));
    ApiKeys::builder(keys::store(keys))
        .limits(limits)
        .limiter(limiter)
        .cache(cache)
}

/// A layer of the library with one limit, and the floor, over the same keys.
pub(crate) fn ours_and_floor(keys: &[Box<str>]) -> (ApiKeyLayer, FloorLayer) {
    let full = ours(keys, Limits::new().per_key(RATE));
    (full, FloorLayer(Floor::new(keys)))
}
