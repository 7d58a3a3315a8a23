//! What the request path and the management calls share: how to find a key, recognize it, verify
//! it, and tell the time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::cache::{KeyCache, Written};
use crate::http::request_head::RequestHead;
use crate::key::format::KeyFormat;
use crate::key::formats::KeyFormats;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::WarningWindow;
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;
use crate::key::verifier::PepperRing;
use crate::limit::metering::Metering;
use crate::limit::throttle::Throttle;
use crate::observe::Observers;
use crate::store::{DynChangeFeed, DynKeyStore};
use crate::util::clock::{Clock, Now};
use crate::util::notice::{Once, Outage};
use crate::util::timestamp::nanoseconds;

pub(crate) struct Keyring {
    pub(crate) store: Arc<dyn DynKeyStore>,
    pub(crate) cache: KeyCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) formats: KeyFormats,
    pub(crate) peppers: PepperRing,
    pub(crate) warning: WarningWindow,
    pub(crate) metering: Arc<Metering>,
    pub(crate) throttle: Option<Throttle>,
    /// All scopes that publishable keys can hold.
    pub(crate) publishable: Arc<ScopeSet>,
    /// The application's own subjects of limits, by name.
    pub(crate) subjects: Subjects,
    pub(crate) notices: Notices,
    pub(crate) observers: Observers,
    pub(crate) worker: LastSign,
    pub(crate) following: Option<Following>,
}

/// Subjects of limits that an application says, by name.
pub(crate) type Subjects = Vec<(Box<str>, Box<FindSubject>)>;

pub(crate) type FindSubject =
    dyn Fn(RequestHead<'_>, Option<&KeyRecord>) -> Option<String> + Send + Sync;

/// A feed that the worker follows.
pub(crate) struct Following {
    pub(crate) feed: Arc<dyn DynChangeFeed>,
    pub(crate) health: LastSign,
}

/// When some background work was done last.
#[derive(Debug, Default)]
pub(crate) struct LastSign(AtomicU64);

/// The last sign of life of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Never,
    /// At this instant, in nanoseconds of the monotonic clock.
    Tick(u64),
    Stopped,
}

impl LastSign {
    const STOPPED: u64 = u64::MAX;

    pub(crate) fn ticked(&self, now: Duration) {
        let at = nanoseconds(now).saturating_add(1).min(Self::STOPPED - 1);
        self.0.store(at, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) {
        self.0.store(Self::STOPPED, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Last {
        match self.0.load(Ordering::Relaxed) {
            0 => Last::Never,
            Self::STOPPED => Last::Stopped,
            at => Last::Tick(at - 1),
        }
    }
}

/// What the logs are told now and then, and not at each request.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    pub(crate) untrusted_forwarding: Once,
    pub(crate) no_address_for_allow_list: Once,
    pub(crate) no_address_for_limits: Once,
    pub(crate) store: Outage,
    pub(crate) loads: Outage,
    pub(crate) limiter: Outage,
}

impl Keyring {
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Returns what the format of a key says of it.
    pub(crate) fn written(&self, format: &KeyFormat) -> Written {
        let is_publishable = format.kind() == KeyKind::Publishable;
        Written {
            environment: format.environment().clone(),
            publishable: is_publishable.then(|| Arc::clone(&self.publishable)),
        }
    }

    /// Returns the subject of this name that a request has.
    pub(crate) fn subject(
        &self,
        name: &str,
        request: RequestHead<'_>,
        key: Option<&KeyRecord>,
    ) -> Option<Box<str>> {
        let (_, subject) = self.subjects.iter().find(|(known, _)| **known == *name)?;
        subject(request, key).map(String::into)
    }

    /// Both clocks, for what a request is judged by.
    pub(crate) fn readings(&self) -> Now {
        self.clock.readings()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("formats", &self.formats)
            .field("peppers", &self.peppers)
            .field("warning", &self.warning)
            .field("metering", &self.metering)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}
