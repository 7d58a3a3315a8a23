//! The floor: the least that any layer must do that proves a key, charges one limit and tells the
//! caller.
//!
//! It takes the header out of the request, hashes the key once, looks it up once, reads the clock
//! once, charges the limit with one compare-and-swap, puts a caller into the request, and four
//! headers into the answer. It has no other checks, settings, formats, stores or log lines, and
//! cannot even forget a key.
//!
//! The map is papaya's. Of `DashMap` and papaya, each with foldhash, ahash or no hasher, papaya
//! without one was the fastest for one key and for 10,000, and within the noise of the fastest for
//! a million. (The first bytes of a digest are as good as any hash of them. That is safe here,
//! where nobody but the owner of the table puts anything into it.)

use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tower::{Layer, Service};

const KEY_STATUS: HeaderName = HeaderName::from_static("x-key-status");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// A million a second, one each microsecond: what the others charge, too.
const BURST: u64 = 1_000_000;
const INTERVAL: u64 = 1_000;

type Id = [u8; 16];

/// What is known of all keys.
pub(crate) struct Floor {
    entries: papaya::HashMap<Id, Arc<Entry>, BuildHasherDefault<DigestHasher>>,
}

/// What is known of a key.
struct Entry {
    account: Box<str>,
    /// When the budget is whole again, in nanoseconds since 1970.
    whole_at: AtomicU64,
}

/// What the request gets: as large as that of the library.
#[derive(Clone)]
struct Caller {
    _key: Arc<Entry>,
    _status: Status,
    _expires_at: Option<SystemTime>,
    _deprecated_at: Option<SystemTime>,
    _floor: Arc<Floor>,
}

#[derive(Clone, Copy)]
enum Status {
    Active,
}

/// What the answer gets.
#[derive(Clone, Copy)]
pub(crate) struct Notice {
    status: Status,
    remaining: u64,
    reset: u64,
}

impl Floor {
    pub(crate) fn new(keys: &[Box<str>]) -> Arc<Self> {
        let entries = papaya::HashMap::default();
        let pinned = entries.pin();
        for (at, key) in keys.iter().enumerate() {
            let entry = Entry {
                account: format!("account-{at}").into(),
                whole_at: AtomicU64::new(0),
            };
            pinned.insert(id(key.as_bytes()), Arc::new(entry));
        }
        drop(pinned);
        Arc::new(Self { entries })
    }

    fn admit<B>(self: &Arc<Self>, request: &mut Request<B>) -> Option<Notice> {
        let credential = request.headers_mut().remove(AUTHORIZATION)?;
        let key = bearer(credential.as_bytes())?;
        let entry = Arc::clone(self.entries.pin().get(&id(key))?);
        let now = SystemTime::now();
        let (remaining, reset) = entry.charge(now)?;
        let status = Status::Active;
        request.extensions_mut().insert(Caller {
            _key: entry,
            _status: status,
            _expires_at: None,
            _deprecated_at: None,
            _floor: Arc::clone(self),
        });
        Some(Notice {
            status,
            remaining,
            reset,
        })
    }
}

impl Entry {
    /// What remains, and the second since 1970 in which the budget is whole; `None` if it is used
    /// up.
    fn charge(&self, now: SystemTime) -> Option<(u64, u64)> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let now = now.as_secs() * 1_000_000_000 + u64::from(now.subsec_nanos());
        let mut before = self.whole_at.load(Ordering::Relaxed);
        loop {
            let after = before.max(now) + INTERVAL;
            let used = after - now;
            if used > BURST * INTERVAL {
                return None;
            }
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self
                .whole_at
                .compare_exchange_weak(before, after, success, failure)
            {
                Ok(_) => {
                    let remaining = BURST - used.div_ceil(INTERVAL);
                    return Some((remaining, after.div_ceil(1_000_000_000)));
                }
                Err(current) => before = current,
            }
        }
    }
}

impl Notice {
    fn write<B>(self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        let status = match self.status {
            Status::Active => HeaderValue::from_static("active"),
        };
        headers.insert(KEY_STATUS, status);
        headers.insert(LIMIT, BURST.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, self.reset.into());
    }
}

/// The token of `Authorization: Bearer TOKEN`; the scheme is in any case.
fn bearer(credential: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = credential.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn id(key: &[u8]) -> Id {
    let digest: [u8; 32] = Sha256::digest(key).into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// The head of a digest as it is.
#[derive(Clone, Copy, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, id: &[u8]) {
        let (words, _) = id.as_chunks::<8>();
        self.0 = words.first().map_or(0, |word| u64::from_ne_bytes(*word));
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone)]
pub(crate) struct FloorLayer(pub(crate) Arc<Floor>);

impl<S> Layer<S> for FloorLayer {
    type Service = FloorService<S>;

    fn layer(&self, inner: S) -> FloorService<S> {
        FloorService {
            inner,
            floor: Arc::clone(&self.0),
        }
    }
}

#[derive(Clone)]
pub(crate) struct FloorService<S> {
    inner: S,
    floor: Arc<Floor>,
}

impl<S, B> Service<Request<B>> for FloorService<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FloorFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.floor.admit(&mut request) {
            Some(notice) => FloorFuture::Forwarded {
                future: self.inner.call(request),
                notice,
            },
            None => FloorFuture::Refused,
        }
    }
}

pin_project! {
    #[project = FloorProjection]
    pub(crate) enum FloorFuture<F> {
        Forwarded { #[pin] future: F, notice: Notice },
        Refused,
    }
}

impl<F> Future for FloorFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            FloorProjection::Forwarded { future, notice } => {
                let mut response = ready!(future.poll(context))?;
                notice.write(&mut response);
                Poll::Ready(Ok(response))
            }
            FloorProjection::Refused => {
                let mut response = Response::new(Body::from("unauthorized"));
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                Poll::Ready(Ok(response))
            }
        }
    }
}
