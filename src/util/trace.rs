//! The log events: one function per event. The functions take ids, accounts and codes, and no
//! parameter could be a secret.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use tracing::{Level, debug, error, info, trace, warn};

use crate::util::log_throttle::{LineBudget, LogOnce};

/// The target of all events, for filters.
const TARGET: &str = "tower_api_key";

/// Returns whether [`admitted`] events are enabled.
#[inline]
pub(crate) fn traces_admissions() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// Logs that a request was admitted.
#[inline]
pub(crate) fn admitted<'a, I: fmt::Display>(
    key_id: impl FnOnce() -> I,
    account: impl FnOnce() -> &'a str,
) {
    trace!(target: TARGET, key_id = %key_id(), account = account(), "API key accepted");
}

/// The fields of a log line about a refusal.
#[derive(Debug, Default)]
pub(crate) struct Refusal<'a> {
    pub(crate) code: &'a str,
    /// The exact reason, if the code is deliberately less exact.
    pub(crate) reason: Option<&'static str>,
    pub(crate) client: Option<String>,
    pub(crate) method: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) key_id: Option<String>,
    pub(crate) account: Option<&'a str>,
    pub(crate) plan: Option<&'a str>,
    pub(crate) limit: Option<&'a str>,
}

/// Logs a refusal: at `INFO` while the budget of this minute lasts, and at `DEBUG` beyond it. The
/// clock is read and the fields are computed only if the event is enabled.
pub(crate) fn refused<'a>(
    lines: &LineBudget,
    at: impl FnOnce() -> SystemTime,
    refusal: impl FnOnce() -> Refusal<'a>,
) {
    let is_debug_enabled = tracing::enabled!(target: TARGET, Level::DEBUG);
    if !is_debug_enabled && !tracing::enabled!(target: TARGET, Level::INFO) {
        return;
    }
    let is_info = lines.may_write(at(), refusals_suppressed);
    if !is_info && !is_debug_enabled {
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
    if is_info {
        info!(target: TARGET, code, reason, client, method, route, key_id, account, plan, limit, "request refused");
    } else {
        debug!(target: TARGET, code, reason, client, method, route, key_id, account, plan, limit, "request refused");
    }
}

/// Logs the number of refusals that were not logged at `INFO`.
pub(crate) fn refusals_suppressed(count: u64) {
    warn!(target: TARGET, count, "more requests were refused in a minute than are logged");
}

/// Logs that a record names a plan that the limits do not have.
pub(crate) fn unknown_plan(plan: &str, instead: &str) {
    warn!(target: TARGET, plan, instead, "keys name a plan that there is not; the default plan binds them");
}

/// Logs that a calendar quota is kept by a limiter that is not durable.
pub(crate) fn calendar_in_memory() {
    warn!(target: TARGET,
        "a limit by UTC day or month is kept by a limiter in memory: its budgets end with the process, and \
         each process has its own"
    );
}

/// Logs a request that a report-only access check would have denied.
pub(crate) fn access_would_deny(code: &str, key_id: &dyn fmt::Display, account: &str) {
    info!(target: TARGET, code, %key_id, account, "what is only reported would have denied a request");
}

/// Logs a request that a report-only limit would have denied.
pub(crate) fn limit_would_deny(limit: &str, key_id: Option<&str>, account: Option<&str>) {
    info!(target: TARGET, limit, key_id, account, "a limit that only reports would have denied a request");
}

/// Logs the use of a deprecated key.
pub(crate) fn deprecated(key_id: &dyn fmt::Display, account: &str, expires_at: &str) {
    warn!(target: TARGET, %key_id, account, expires_at, "a deprecated API key is in use; its owner should replace it");
}

/// Logs that a key was sent in a URL.
pub(crate) fn key_in_query(parameter: &str, key_id: &dyn fmt::Display) {
    warn!(target: TARGET,
        parameter,
        %key_id,
        "an API key was sent in the URL, where logs and proxies keep it; send it in a header"
    );
}

/// Logs failures of the store since the last such line. Their requests were answered with 503.
pub(crate) fn store_failed(
    error: &(dyn Error + 'static),
    key_id: &dyn fmt::Display,
    failures: u64,
) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, error = %causes, failures, "the key store failed; requests were answered with 503");
}

/// Logs that the store has recovered, with the number of failures not logged yet.
pub(crate) fn store_recovered(failures: u64) {
    info!(target: TARGET, failures, "the key store works again");
}

/// Logs loads that were refused because too many were in flight.
pub(crate) fn too_many_loads(key_id: &dyn fmt::Display, failures: u64) {
    warn!(target: TARGET, %key_id, failures, "too many keys are being looked up at a time; requests were answered with 503; see Cache::max_loads");
}

/// Logs that the store failed, and a cached record was used beyond its normal age.
pub(crate) fn served_stale(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    warn!(target: TARGET, %key_id, error = %causes, "the key store failed; the request was judged by an old record");
}

/// Logs failures of the limiter since the last such line. `LimiterOutage` decided their requests.
pub(crate) fn limiter_failed(error: &(dyn Error + 'static), failures: u64) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, failures, "the rate limiter failed; LimiterOutage decides about requests");
}

/// Logs that the limiter has recovered, with the number of failures not logged yet.
pub(crate) fn limiter_recovered(failures: u64) {
    info!(target: TARGET, failures, "the rate limiter works again");
}

/// Logs that the charge of a denied request could not be refunded.
pub(crate) fn refund_failed(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, "the rate limiter failed; a denied request stays charged");
}

/// Logs a failed call of the feed, which is retried.
pub(crate) fn feed_failed(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "the feed of changes failed; until it is back, changes by other processes are known when \
         what is cached is too old"
    );
}

/// Logs that notifications of the database do not arrive, so that the feed of changes polls.
#[cfg(feature = "postgres")]
pub(crate) fn listening_fails(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "LISTEN does not work here; the feed of changes polls each 250 ms instead"
    );
}

/// Logs that notifications arrive again.
#[cfg(feature = "postgres")]
pub(crate) fn listening_works() {
    info!(target: TARGET, "LISTEN works again");
}

/// Logs usage that could not be recorded. It is kept and recorded later.
pub(crate) fn usage_not_recorded(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "usage could not be recorded; it is tried again"
    );
}

/// Logs usage that is lost, since the process stops.
pub(crate) fn usage_given_up(error: &(dyn Error + 'static), keys: usize) {
    let causes = Causes(error);
    error!(
        target: TARGET,
        error = %causes,
        keys,
        "usage could not be recorded before the worker was stopped, and is lost"
    );
}

/// Logs that more keys were in use than usage is counted of.
pub(crate) fn usage_folded() {
    warn!(
        target: TARGET,
        "more keys were in use than usage is kept of while it cannot be recorded; the usage of some \
         may be recorded for their accounts only: see Metering::max_keys"
    );
}

/// The facts of an anomaly that are logged.
pub(crate) struct Anomaly<'a> {
    pub(crate) severity: &'static str,
    pub(crate) key_id: String,
    pub(crate) account: &'a str,
    pub(crate) detectors: String,
    pub(crate) action: &'static str,
    pub(crate) dry_run: bool,
}

/// Logs an anomaly, at `ERROR`, `WARN` or `INFO`.
pub(crate) fn anomaly(level: Level, anomaly: &Anomaly<'_>) {
    let Anomaly {
        severity,
        key_id,
        account,
        detectors,
        action,
        dry_run,
    } = anomaly;
    match level {
        Level::ERROR => {
            error!(target: TARGET, severity, key_id, account, detectors, action, dry_run, "a key is probably in the wrong hands");
        }
        Level::WARN => {
            warn!(target: TARGET, severity, key_id, account, detectors, action, dry_run, "a key is used in a very unusual way");
        }
        _ => {
            info!(target: TARGET, severity, key_id, account, detectors, action, dry_run, "a key is used in an unusual way");
        }
    }
}

/// Logs that a detector of the application panicked.
pub(crate) fn detector_panicked(detector: &str) {
    error!(target: TARGET, detector, "a detector of anomalies panicked; it has found nothing");
}

/// Logs that the store does not keep profiles.
pub(crate) fn profiles_refused(error: &(dyn Error + 'static), was_logged: bool) {
    if !was_logged {
        let causes = Causes(error);
        warn!(target: TARGET, error = %causes, "the store keeps no profiles of keys, so no anomalies are detected");
    }
}

/// Logs a look for anomalies that failed. It is tried again.
pub(crate) fn not_looked(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(target: TARGET, error = %causes, "anomalies cannot be looked for at present; it is tried again");
}

/// Logs an alert that cannot be stored at all.
pub(crate) fn alert_not_stored(
    error: &(dyn Error + 'static),
    key_id: &dyn fmt::Display,
    severity: &str,
    detectors: &str,
) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, severity, detectors, error = %causes, "an anomaly could not be stored, and nothing was done about it");
}

/// Logs profiles of a later version of this library.
pub(crate) fn profile_of_later_version(once: &LogOnce) {
    once.run(|| {
        warn!(target: TARGET, "a later version of this library keeps profiles of keys; no anomalies of these keys are detected here");
    });
}

/// Logs a profile that cannot be read. Learning begins anew.
pub(crate) fn profile_damaged(key_id: &dyn fmt::Display) {
    warn!(target: TARGET, %key_id, "the profile of a key is damaged; what is usual for the key is learned anew");
}

/// Logs idle keys that could not be ended. They are looked for again in an hour.
pub(crate) fn idle_keys_not_ended(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(target: TARGET, error = %causes, "idle keys could not be ended; they stay for an hour");
}

/// Logs that Redis does not answer. It is probed until it does.
#[cfg(feature = "redis")]
pub(crate) fn redis_is_down(server: &str, error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    error!(
        target: TARGET,
        server,
        error = %causes,
        "Redis does not answer; it is probed until it does"
    );
}

/// Logs that Redis answers again.
#[cfg(feature = "redis")]
pub(crate) fn redis_is_back(server: &str) {
    info!(target: TARGET, server, "Redis answers again");
}

/// Logs that Redis may drop budgets when its memory is full.
#[cfg(feature = "redis")]
pub(crate) fn redis_evicts(policy: &str) {
    warn!(
        target: TARGET,
        policy,
        "Redis drops keys when its memory is full, and each dropped budget is granted once more; \
         set maxmemory-policy to noeviction"
    );
}

/// Logs that the fleet was not told of changes. It is tried again.
#[cfg(feature = "redis")]
pub(crate) fn changes_not_told(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "other processes could not be told of changes through Redis; they are told when it answers, \
         and know of the changes when what they have cached is too old"
    );
}

/// Logs that Redis refuses calls of the shared cache. Records are loaded from the store.
#[cfg(feature = "redis")]
pub(crate) fn shared_cache_fails(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    error!(target: TARGET, error = %causes, "the shared cache in Redis cannot be used; records are loaded from the store");
}

/// Logs that the stream of changes cannot be followed beside the feed of the store.
#[cfg(feature = "redis")]
pub(crate) fn stream_fails(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(
        target: TARGET,
        error = %causes,
        "the stream of changes in Redis cannot be followed; the feed of the store tells of changes"
    );
}

/// Logs that a copy of a record was not read because its seal is missing or wrong.
#[cfg(feature = "redis")]
pub(crate) fn copy_without_seal(key_id: &dyn fmt::Display) {
    error!(
        target: TARGET,
        %key_id,
        "a copy of a record in Redis has no valid seal, and is not read: a process of the fleet has \
         other peppers, or somebody else has written it"
    );
}

/// Logs a key that is left out of a list.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn unreadable_key(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    error!(
        target: TARGET,
        %key_id,
        error = %causes,
        "the record of a key cannot be read: no request with the key is admitted, and its end is \
         not announced"
    );
}

/// Logs events that could not be stored. It is tried again.
pub(crate) fn not_announced(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(target: TARGET, error = %causes, "events could not be announced; it is tried again");
}

/// Logs that the outbox failed. Deliveries are made later.
pub(crate) fn not_delivered(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(target: TARGET, error = %causes, "events could not be delivered; it is tried again");
}

/// Logs an attempt at a delivery that failed. The detail is for operators: it may name addresses of
/// the network here.
pub(crate) fn delivery_failed(event: &str, endpoint: &str, cause: &str, detail: Option<&str>) {
    info!(target: TARGET, event, endpoint, cause, detail, "the delivery of an event failed");
}

/// Logs a delivery that this process cannot make.
pub(crate) fn delivery_released(event: &str, endpoint: &str, cause: &str) {
    info!(target: TARGET, event, endpoint, cause, "the delivery of an event is left to another process");
}

/// Logs an endpoint whose receiver wants no more events.
pub(crate) fn endpoint_disabled(endpoint: &str, account: Option<&str>, reason: &str) {
    warn!(target: TARGET, endpoint, account, reason, "an endpoint was disabled");
}

/// Logs that nobody was told that an endpoint was disabled.
pub(crate) fn disabling_not_told(error: &(dyn Error + 'static), endpoint: &str) {
    let causes = Causes(error);
    warn!(target: TARGET, endpoint, error = %causes, "no event tells that an endpoint was disabled");
}

/// Logs a delivery that was claimed and cannot be read.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn unreadable_delivery(error: &(dyn Error + 'static), event_seq: i64, endpoint: &str) {
    let causes = Causes(error);
    error!(target: TARGET, event_seq, endpoint, error = %causes, "an event or its endpoint cannot be read, and is not delivered");
}

/// Logs a delivery that is not tried again.
pub(crate) fn delivery_given_up(event: &str, endpoint: &str) {
    warn!(target: TARGET, event, endpoint, "the delivery of an event is given up");
}

/// Logs that a store records no usage. It is asked again each minute.
pub(crate) fn usage_refused(error: &(dyn Error + 'static), is_known: bool) {
    let causes = Causes(error);
    if is_known {
        debug!(target: TARGET, error = %causes, "the store does not record usage");
    } else {
        warn!(target: TARGET, error = %causes, "the store does not record usage");
    }
}

/// Logs usage that is left out of a batch, since no store can keep it.
pub(crate) fn usage_left_out(error: &(dyn Error + 'static)) {
    let causes = Causes(error);
    warn!(target: TARGET, error = %causes, "the usage of some keys cannot be kept, and is left out");
}

/// Logs a gap in the feed.
pub(crate) fn feed_gap() {
    warn!(
        target: TARGET,
        "the feed of changes cannot tell of all of them; all keys in use are loaded anew"
    );
}

/// Logs a record that cannot be verified. The request was answered with 503.
pub(crate) fn unverifiable(error: &(dyn Error + 'static), key_id: &dyn fmt::Display) {
    let causes = Causes(error);
    error!(target: TARGET, %key_id, error = %causes, "a key's record cannot be verified; the request was answered with 503");
}

/// Logs a record whose verifier does not match the key with its id.
pub(crate) fn wrong_verifier(key_id: &dyn fmt::Display) {
    error!(target: TARGET, %key_id, "a key's record does not verify it: its pepper has another content here, or the record was changed; the request was answered with 503");
}

/// Logs that a handler asked for the `Caller` without a layer.
pub(crate) fn layer_missing(wanted: &str) {
    error!(target: TARGET,
        wanted,
        "no ApiKeyLayer stands before this; put ApiKeys::layer() outside of it"
    );
}

/// Logs that a whole query was dropped, since the key could not be removed from it alone.
pub(crate) fn query_dropped() {
    warn!(target: TARGET, "the request's query could not be written without the API key and was dropped whole");
}

/// Logs that a key with an allow-list was refused because the client's address is unknown.
pub(crate) fn no_address_for_allow_list(once: &LogOnce) {
    once.run(|| {
        warn!(target: TARGET,
            "the client's address is not known, so keys with an allow-list of networks are refused; see \
             ClientAddress for how to provide it"
        );
    });
}

/// Logs that limits by address are charged without an address.
pub(crate) fn no_address_for_limits(once: &LogOnce) {
    once.run(|| {
        error!(target: TARGET,
            "no client address is known, so all clients share one budget of each limit by address, and few \
             of their unknown keys are looked up at a time; with axum, serve with \
             into_make_service_with_connect_info::<SocketAddr>(); elsewhere, insert a PeerAddr into each \
             request, or set ApiKeyLayer::client_address"
        );
    });
}

/// Logs that a forwarding header of an untrusted peer was ignored.
pub(crate) fn untrusted_forwarding(once: &LogOnce, peer: Option<IpAddr>) {
    once.run(|| {
        let peer = peer.map(|peer| peer.to_string());
        warn!(target: TARGET,
            peer,
            "a peer that is no trusted proxy sends X-Forwarded-For or Forwarded, which is not believed; if it \
             is your proxy, say so with ApiKeyLayer::client_address"
        );
    });
}

/// Displays an error and its causes on one line.
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
    fn causes_are_written_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Causes(&error).to_string(), "outer: inner");
    }
}
