//! Following a feed of changes: what the worker does so that other processes' changes are known.

use std::convert::Infallible;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::keyring::{Following, Keyring};
use crate::store::{Changes, Cursor, FeedError};
use crate::util::clock::within;
use crate::util::trace;

/// How long a feed may wait for a change.
const WAIT: Duration = Duration::from_millis(500);

/// How long a call may take in all, before it counts as failed.
const TIME_LIMIT: Duration = Duration::from_millis(1_500);

/// The pause between two calls of a feed that has changes to tell, so that a feed that never waits
/// does not keep a thread to itself.
const PAUSE: Duration = Duration::from_millis(10);

/// The pauses after the first and after the latest of failed calls in a row.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Asks a feed for as long as it is polled, and forgets what is cached of keys that were changed.
pub(super) async fn follow(keyring: &Keyring, following: &Following) -> Infallible {
    let mut cursor = None;
    let mut retry = FIRST_RETRY;
    loop {
        let asked_at = keyring.clock.monotonic();
        let asked = following.feed.changes_since(cursor.as_ref(), WAIT);
        let told = within(&*keyring.clock, TIME_LIMIT, asked).await;
        let told =
            told.unwrap_or_else(|| Err(FeedError::new(format!("no answer in {TIME_LIMIT:?}"))));
        let pause = match told {
            Ok(changes) => {
                retry = FIRST_RETRY;
                let is_idle = changes.keys.is_empty();
                cursor = Some(apply(keyring, cursor.is_none(), changes));
                // What is applied now is as old as the begin of the call, not as its end.
                following.health.ticked(asked_at);
                let took = keyring.clock.monotonic().saturating_sub(asked_at);
                if is_idle {
                    WAIT.saturating_sub(took).max(PAUSE)
                } else {
                    PAUSE
                }
            }
            Err(error) => {
                trace::feed_failed(&error);
                let pause = jittered(retry);
                retry = (retry * 2).min(LONGEST_RETRY);
                pause
            }
        };
        keyring.clock.sleep(pause).await;
    }
}

/// Forgets what is cached of keys that were changed, and returns where to go on from.
///
/// After a gap everything is forgotten. The place to go on from is fixed before that: a change
/// after it is told by the next call, and one before it is found by the loads that follow.
fn apply(keyring: &Keyring, is_first: bool, changes: Changes) -> Cursor {
    if changes.gap {
        trace::feed_gap();
    }
    if is_first || changes.gap {
        keyring.cache.all_changed();
    }
    for key in &changes.keys {
        keyring.cache.told(&key.id, key.version);
    }
    changes.next
}

/// Half to one and a half of a pause, so that the processes of a fleet do not ask all at once.
fn jittered(pause: Duration) -> Duration {
    // Without randomness there is no jitter, and nothing else is lost.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
