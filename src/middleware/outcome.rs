//! The outcomes of the path: a decision, or a wait for one.

use std::sync::Arc;

use crate::cache::adoption::AdoptableKey;
use crate::cache::{CachedKey, LoadPriority};
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::rate_limit::LimitReport;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::lifecycle::Lifecycle;
use crate::limit::compiled_rules::RequestLimits;
use crate::limit::failed_attempts::Attempt;
use crate::observe::KeyLookup;

/// A decision, or a wait for one.
pub(super) enum Outcome {
    Admit(Admission),
    Deny(Denial),
    Pending(Pending),
}

/// A decision that waits for another system.
pub(super) enum Pending {
    /// For the store to load the record of the key.
    Load(PendingLoad),
    /// For a remote limiter to charge the request.
    Charge(Box<PendingCharge>),
}

/// An admission of a request.
pub(super) enum Admission {
    /// The request has a valid key.
    Key {
        lifecycle: Lifecycle,
        carriers: Carriers,
        limits: Option<LimitReport>,
        /// The key, if there are observers to be told of the response.
        for_observers: Option<Arc<CachedKey>>,
    },
    /// The request has no key and needs none.
    Anonymous { limits: Option<LimitReport> },
    /// An outer layer of the same `ApiKeys` admitted the request, and writes the headers.
    Nested,
}

/// A denial of a request.
pub(super) struct Denial {
    pub(super) rejection: Rejection,
    /// The status of the key, if its secret was right.
    pub(super) lifecycle: Option<Lifecycle>,
    pub(super) carriers: Carriers,
    pub(super) limits: Option<Box<LimitReport>>,
}

/// A well-formed key, as a digest.
pub(super) struct PresentedKey {
    pub(super) digest: KeyDigest,
    /// The index of the key's format among the formats.
    pub(super) format_index: usize,
    pub(super) carriers: Carriers,
    /// The way in which the key was looked up.
    pub(super) lookup: KeyLookup,
}

/// A key with the right secret, whose status and access were checked.
pub(super) struct VerifiedKey {
    pub(super) presented: PresentedKey,
    pub(super) key: Arc<CachedKey>,
    pub(super) lifecycle: Lifecycle,
}

/// A request that waits for its record.
pub(super) struct PendingLoad {
    pub(super) presented: PresentedKey,
    pub(super) priority: LoadPriority,
    /// The key itself, if the application may verify it: see
    /// [`dangerous_adopt`](crate::ApiKeysBuilder::dangerous_adopt).
    pub(super) adoptable: Option<Arc<AdoptableKey>>,
    /// A failed attempt, counted in advance. A load that finds the key, or fails, takes it back.
    pub(super) attempt: Option<Attempt>,
}

/// A request that waits for a limiter, with or without a valid key.
pub(super) struct PendingCharge {
    pub(super) key: Option<VerifiedKey>,
    pub(super) request_limits: RequestLimits,
}

impl PresentedKey {
    pub(super) fn id(&self) -> KeyId {
        self.digest.id()
    }
}
