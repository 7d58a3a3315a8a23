//! What is written to the application's logs: one function an occasion, none of which can be handed
//! a secret. Ids, accounts and codes only.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use tracing::{debug, error, info, trace, warn};

use crate::util::timestamp;

/// One name to filter by, wherever the shim lives.
const TARGET: &str = "tower_api_key";

/// Returns whether [`admitted`] may be heard.
#[inline]
pub(crate) fn traces_admissions() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

/// A request passed.
#[inline]
pub(crate) fn admitted<'a, I: fmt::Display>(
    key_id: impl FnOnce() -> I,
    account: impl FnOnce() -> &'a str,
) {
    trace!(target: TARGET, key_id = %key_id(), account = account(), "API key accepted");
}

/// A request without a known key was turned away.
pub(crate) fn refused_stranger(code: &str, reason: &dyn fmt::Debug) {
    debug!(target: TARGET, code, ?reason, "request refused: no valid API key");
}

/// A known key was turned away.
pub(crate) fn refused_caller(code: &str, key_id: &dyn fmt::Display, account: &str) {
    info!(target: TARGET, code, %key_id, account, "request refused: the API key may not do this");
}

/// A record names a plan that is not among the rules.
pub(crate) fn unknown_plan(plan: &str, instead: &str) {
    warn!(target: TARGET, plan, instead, "keys name a plan that there is not; the default plan binds them");
}

/// Budgets of a day or a month end with the process.
pub(crate) fn calendar_in_memory() {
    warn!(target: TARGET,
        "a limit by UTC day or month is kept by a limiter in memory: its budgets end with the process, and \
         each process has its own"
    );
}

/// Access that is only reported would have denied a request.
pub(crate) fn would_refuse(code: &str, key_id: &dyn fmt::Display, account: &str) {
    info!(target: TARGET, code, %key_id, account, "what is only reported would have denied a request");
}

/// A limit that only reports would have denied a request.
pub(crate) fn would_deny(limit: &str, key_id: Option<&str>, account: Option<&str>) {
    info!(target: TARGET, limit, key_id, account, "a limit that only reports would have denied a request");
}

/// A key is on its way out: its owner should be told.
pub(crate) fn deprecated(key_id: &dyn fmt::Display, account: &str, expires_at: &str) {
    warn!(target: TARGET, %key_id, account, expires_at, "a deprecated API key is in use; its owner should replace it");
}

/// A key stood in a URL.
pub(crate) fn key_in_query(parameter: &str, key_id: &dyn fmt::Display) {
    warn!(target: TARGET,
        parameter,
        %key_id,
        "an API key was sent in the URL, where logs and proxies keep it; send it in a header"
    );
}

/// The store failed, and the request was answered with 503.
pub(crate) fn store_failed(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, error = %causes, "the key store failed; the request was answered with 503");
}

/// There were too many lookups in flight for one more.
pub(crate) fn too_many_loads(key_id: &dyn fmt::Display) {
    warn!(target: TARGET, %key_id, "too many keys are being looked up at a time; the request was answered with 503; see Cache::max_loads");
}

/// The store failed, and the request was judged by what was loaded before.
pub(crate) fn served_stale(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    warn!(target: TARGET, %key_id, error = %causes, "the key store failed; the request was judged by an old record");
}

/// The limiter failed, and the application's choice for that decides.
pub(crate) fn limiter_failed(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, "the rate limiter failed; LimiterOutage decides about the request");
}

/// A request was denied after it was charged, and could not be given back its charge.
pub(crate) fn refund_failed(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, "the rate limiter failed; a denied request stays charged");
}

/// The feed of changes could not be read, and is tried again.
pub(crate) fn feed_failed(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "the feed of changes failed; until it is back, changes by other processes are known when \
         what is cached is too old"
    );
}

/// The feed has lost changes.
pub(crate) fn feed_gap() {
    warn!(
        target: TARGET,
        "the feed of changes cannot tell of all of them; all keys in use are loaded anew"
    );
}

/// A record cannot be judged, and the request was answered with 503.
pub(crate) fn unverifiable(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, error = %causes, "a key's record cannot be verified; the request was answered with 503");
}

/// A record does not verify the key that it is of.
pub(crate) fn wrong_verifier(key_id: &dyn fmt::Display) {
    error!(target: TARGET, %key_id, "a key's record does not verify it: its pepper has another content here, or the record was changed; the request was answered with 503");
}

/// The `Caller` is asked for where no layer provides it.
pub(crate) fn layer_missing(wanted: &str) {
    error!(target: TARGET,
        wanted,
        "no ApiKeyLayer stands before this; put ApiKeys::layer() outside of it"
    );
}

/// A credential could not be taken out of the request's URI, so all of the query was dropped.
pub(crate) fn query_dropped() {
    warn!(target: TARGET, "the request's query could not be written without the API key and was dropped whole");
}

/// A key with an allow-list came from an address that is not known.
pub(crate) fn no_address_for_allow_list(once: &Once) {
    once.run(|| {
        warn!(target: TARGET,
            "the client's address is not known, so keys with an allow-list of networks are refused; see \
             ClientAddress for how to provide it"
        );
    });
}

/// Limits by address have no address to go by.
pub(crate) fn no_address_for_limits(once: &Once) {
    once.run(|| {
        error!(target: TARGET,
            "no client address is known, so all clients share one budget of each limit by address, and few \
             of their unknown keys are looked up at a time; with axum, serve with \
             into_make_service_with_connect_info::<SocketAddr>(); elsewhere, insert a PeerAddr into each \
             request, or set ApiKeyLayer::client_address"
        );
    });
}

/// Somebody sends forwarding headers, and no proxy is trusted.
pub(crate) fn untrusted_forwarding(once: &Once) {
    once.run(|| {
        warn!(target: TARGET,
            "requests carry X-Forwarded-For or Forwarded, and no proxy is trusted; behind a proxy, \
             say so with ApiKeyLayer::client_address"
        );
    });
}

/// An error and what caused it, on one line.
struct Causes<'e>(&'e (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says a thing once in a life.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicBool);

impl Once {
    fn run(&self, say: impl FnOnce()) {
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            say();
        }
    }
}

/// Says a thing about each of many at most once in so many seconds, in bounded memory.
///
/// They share a fixed number of slots. Where two meet in one, the second is silent for that time.
pub(crate) struct Seldom<const SECONDS: u64>([AtomicU64; 512]);

impl<const SECONDS: u64> Seldom<SECONDS> {
    /// Returns whether to speak now of the one with this hash.
    pub(crate) fn is_due(&self, hash: u64, at: SystemTime) -> bool {
        let [low, high, ..] = hash.to_le_bytes();
        let slot = &self.0[usize::from(u16::from_le_bytes([low, high])) % self.0.len()];
        let period = timestamp::unix_seconds(at) / SECONDS + 1; // 0 is a slot that was never used
        slot.load(Ordering::Relaxed) != period && slot.swap(period, Ordering::Relaxed) != period
    }
}

impl<const SECONDS: u64> Default for Seldom<SECONDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const SECONDS: u64> fmt::Debug for Seldom<SECONDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seldom")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_key_is_spoken_of_once_an_hour() {
        let hourly = Seldom::<3600>::default();
        let is_due = |hash, seconds| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            hourly.is_due(hash, at)
        };
        assert!(is_due(1, 0));
        assert!(!is_due(1, 3599));
        assert!(is_due(2, 3599));
        assert!(is_due(1, 3600));
        assert!(!is_due(1, 3600));
    }

    #[test]
    fn causes_are_told_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Causes(&error).to_string(), "outer: inner");
    }
}
