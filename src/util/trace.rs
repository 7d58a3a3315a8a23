//! What is written to the application's logs: one function an occasion, none of which can be handed
//! a secret. Ids, accounts and codes only.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use tracing::{debug, error, info, trace, warn};

use crate::util::notice::{Lines, Once};

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

/// A refusal, as it is logged.
#[derive(Debug, Default)]
pub(crate) struct Refusal<'a> {
    pub(crate) code: &'a str,
    /// More exact than the code, where the caller must not be told.
    pub(crate) reason: Option<&'static str>,
    pub(crate) client: Option<String>,
    pub(crate) method: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) key_id: Option<String>,
    pub(crate) account: Option<&'a str>,
    pub(crate) plan: Option<&'a str>,
    pub(crate) limit: Option<&'a str>,
}

/// A request was turned away. It is told at `INFO` as far as there is room in this minute, and at
/// `DEBUG` beyond. The clock is read, and what is told
/// is put together, only if somebody hears it.
pub(crate) fn refused<'a>(
    lines: &Lines,
    at: impl FnOnce() -> SystemTime,
    refusal: impl FnOnce() -> Refusal<'a>,
) {
    let hears_debug = tracing::enabled!(target: TARGET, tracing::Level::DEBUG);
    if !hears_debug && !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return;
    }
    let is_loud = lines.may_write(at(), refusals_left_out);
    if !is_loud && !hears_debug {
        return;
    }
    let Refusal {
        code,
        reason,
        client,
        method,
        route,
        key_id,
        account,
        plan,
        limit,
    } = refusal();
    let (client, key_id) = (client.as_deref(), key_id.as_deref());
    if is_loud {
        info!(target: TARGET, code, reason, client, method, route, key_id, account, plan, limit, "request refused");
    } else {
        debug!(target: TARGET, code, reason, client, method, route, key_id, account, plan, limit, "request refused");
    }
}

/// There were more refusals than are logged in a minute.
pub(crate) fn refusals_left_out(count: u64) {
    warn!(target: TARGET, count, "more requests were refused in a minute than are logged");
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

/// The store failed, and requests were answered with 503: so many since this was said last.
pub(crate) fn store_failed(
    error: &(dyn Error + 'static),
    key_id: &dyn fmt::Display,
    failures: u64,
) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, error = %causes, failures, "the key store failed; requests were answered with 503");
}

/// The store works again, after so many failures that nothing was said of.
pub(crate) fn store_works(failures: u64) {
    info!(target: TARGET, failures, "the key store works again");
}

/// There were too many lookups in flight for one more.
pub(crate) fn too_many_loads(key_id: &dyn fmt::Display, failures: u64) {
    warn!(target: TARGET, %key_id, failures, "too many keys are being looked up at a time; requests were answered with 503; see Cache::max_loads");
}

/// The store failed, and the request was judged by what was loaded before.
pub(crate) fn served_stale(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    warn!(target: TARGET, %key_id, error = %causes, "the key store failed; the request was judged by an old record");
}

/// The limiter failed, and the application's choice for that decides: so many times since this was
/// said last.
pub(crate) fn limiter_failed(error: &(dyn Error + 'static), failures: u64) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, failures, "the rate limiter failed; LimiterOutage decides about requests");
}

/// The limiter works again, after so many failures that nothing was said of.
pub(crate) fn limiter_works(failures: u64) {
    info!(target: TARGET, failures, "the rate limiter works again");
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
pub(crate) fn untrusted_forwarding(once: &Once, peer: Option<IpAddr>) {
    once.run(|| {
        let peer = peer.map(|peer| peer.to_string());
        warn!(target: TARGET,
            peer,
            "a peer that is no trusted proxy sends X-Forwarded-For or Forwarded, which is not believed; if it \
             is your proxy, say so with ApiKeyLayer::client_address"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Causes(&error).to_string(), "outer: inner");
    }
}
