//! The ends of the path: a decision, or what it has to wait for.

use std::sync::Arc;

use crate::cache::{KnownKey, Sought};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::Notice;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::lifecycle::Lifecycle;
use crate::limit::rulebook::Bound;
use crate::limit::throttle::Attempt;
use crate::observe::KeyLookup;

/// A decision, or what it has to wait for.
pub(super) enum Outcome {
    Admit(Admission),
    Deny(Denial),
    Wait(Wait),
}

/// What a request has to wait for.
pub(super) enum Wait {
    /// The store's answer about its key.
    Record(PendingLoad),
    /// Its charges: the budgets are elsewhere.
    Limits(Box<PendingCharge>),
}

/// A decision in favour of a request.
pub(super) enum Admission {
    /// It carries a good key.
    Key {
        lifecycle: Lifecycle,
        carriers: Carriers,
        limits: Option<Notice>,
        /// The key, if observers are to be told of the answer.
        for_observers: Option<Arc<KnownKey>>,
    },
    /// It carries no key and needs none.
    Anonymous { limits: Option<Notice> },
    /// An outer layer of the same `ApiKeys` has admitted it, and writes the headers.
    Nested,
}

/// The answer to a request that goes no further.
pub(super) struct Denial {
    pub(super) rejection: Rejection,
    /// The status of the key, if its secret was right.
    pub(super) lifecycle: Option<Lifecycle>,
    pub(super) carriers: Carriers,
    pub(super) limits: Option<Box<Notice>>,
}

/// A well-formed key, as a digest.
pub(super) struct PresentedKey {
    pub(super) digest: KeyDigest,
    /// The index of the format that it is written in.
    pub(super) format: usize,
    pub(super) carriers: Carriers,
    /// How it was looked up.
    pub(super) lookup: KeyLookup,
}

/// A key whose secret is right, and which may be used here and now.
pub(super) struct VerifiedKey {
    pub(super) presented: PresentedKey,
    pub(super) known: Arc<KnownKey>,
    pub(super) lifecycle: Lifecycle,
}

/// A request that waits for its record.
pub(super) struct PendingLoad {
    pub(super) key: PresentedKey,
    pub(super) sought: Sought,
    /// Counted as failed in advance. A load that finds the key, or fails itself, takes that back.
    pub(super) attempt: Option<Attempt>,
}

/// A request that waits for a limiter: with a good key, or without one.
pub(super) struct PendingCharge {
    pub(super) key: Option<VerifiedKey>,
    pub(super) bound: Bound,
}

impl PresentedKey {
    #[inline]
    pub(super) fn id(&self) -> KeyId {
        self.digest.id()
    }
}
