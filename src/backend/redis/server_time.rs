//! The clock of Redis, as seen from here.
//!
//! A call that waits in a stopped Redis is carried out when Redis goes on, long after its caller
//! was refused. So each call says until when it may be carried out, in the time of Redis.
//!
//! A reply with the time `r` of Redis, to a call that was sent at `sent` and answered at `got`,
//! says that its clock is between `r - got` and `r - sent` ahead of ours. The least `r - sent` of
//! the last replies is the bound that is used: never below the true difference, so a call in time
//! is never refused, and above it by at most the time in which that call reached Redis.

use std::time::Duration;

/// The replies of so long ago count at most twice as long: clocks drift apart.
const SPAN: Duration = Duration::from_secs(15);

/// Clocks drift apart by less than one part in so many.
const DRIFT: i64 = 5_000;

/// An upper bound of the difference between the clock of Redis and ours.
#[derive(Debug, Default)]
pub(super) struct ServerTime {
    /// The least bounds of the current and of the last span.
    spans: [Option<Bound>; 2],
    /// The begin of the current span, by our clock.
    begins: Duration,
}

/// A bound that was found at a time of ours.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// In microseconds.
    ahead: i64,
    at: Duration,
}

impl Bound {
    /// Returns the bound at a later time: clocks may have drifted apart.
    fn later(self, at: Duration) -> i64 {
        let passed = microseconds(at.saturating_sub(self.at));
        self.ahead.saturating_add(passed / DRIFT + 1)
    }
}

impl ServerTime {
    /// Adds a reply with the time of Redis, to a call that was sent at a time of ours.
    pub(super) fn add(&mut self, server: i64, sent: Duration) {
        let ahead = server.saturating_sub(microseconds(sent));
        if sent.saturating_sub(self.begins) >= SPAN {
            self.spans = [None, self.spans[0]];
            self.begins = sent;
        }
        let is_less = |known: Bound| ahead <= known.later(sent);
        if self.spans[0].is_none_or(is_less) {
            self.spans[0] = Some(Bound { ahead, at: sent });
        }
    }

    /// Returns a time of ours in the time of Redis, or slightly later. `None` before the first
    /// reply.
    pub(super) fn at(&self, ours: Duration) -> Option<i64> {
        let bounds = self.spans.into_iter().flatten();
        let ahead = bounds.map(|bound| bound.later(ours)).min()?;
        Some(ahead.saturating_add(microseconds(ours)))
    }

    /// Returns whether there was a reply lately.
    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        let age = |bound: Bound| now.saturating_sub(bound.at);
        self.spans
            .into_iter()
            .flatten()
            .any(|bound| age(bound) < 2 * SPAN)
    }

    /// Forgets all replies: the clock of Redis was set, or another server answers.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_time_is_never_late_and_a_late_one_is_by_the_least_trip_at_most() {
        // Their clock is 1,000 s ahead, and runs faster or slower than ours by 100 ppm. Trips take
        // 100 us to 50 ms.
        for drift in [1, -1] {
            late_by_the_least_trip(drift);
        }
    }

    fn late_by_the_least_trip(drift: i64) {
        let mut time = ServerTime::default();
        let mut state = 7_u64;
        let mut random = |most: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % most
        };
        let server = |ours: u64| {
            let ours = i64::try_from(ours).unwrap();
            1_000_000_000 + ours + drift * ours / 10_000
        };
        for call in 0..20_000_u64 {
            let sent = call * 10_000;
            let trip = 100 + random(50_000);
            let ours = Duration::from_micros(sent);
            if let Some(limit) = time.at(ours) {
                let truly = server(sent);
                assert!(limit >= truly, "a call in time would be refused");
                assert!(call < 1_000 || limit - truly < 8_000, "{}", limit - truly);
            }
            time.add(server(sent + trip), ours);
        }
        time.forget();
        assert_eq!(time.at(Duration::ZERO), None);
    }
}
