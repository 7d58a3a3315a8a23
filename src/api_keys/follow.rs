//! Follows the feed of changes by other processes: a task of the worker.

use std::convert::Infallible;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::shared::{FollowedFeed, Shared};
use crate::store::{Changes, Cursor, FeedError};
use crate::util::clock::within;
use crate::util::trace;

/// The time that a feed may wait for a change.
const WAIT: Duration = Duration::from_millis(500);

/// The time limit of a call, after which it counts as failed.
const TIME_LIMIT: Duration = Duration::from_millis(1_500);

/// The pause between calls while the feed has changes or waits for them, so that a feed that never
/// waits does not monopolize a thread.
const PAUSE: Duration = Duration::from_millis(10);

/// The pause after the first failed call, doubled for each further one up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Polls a feed forever, and invalidates the cache entries of keys that were changed.
pub(super) async fn follow(shared: &Shared, followed: &FollowedFeed) -> Infallible {
    let mut cursor = None;
    let mut retry = FIRST_RETRY;
    loop {
        let asked_at = shared.clock.monotonic();
        let call = followed.feed.changes_since(cursor.as_ref(), WAIT);
        let answer = within(&*shared.clock, TIME_LIMIT, call).await;
        let answer =
            answer.unwrap_or_else(|| Err(FeedError::new(format!("no answer in {TIME_LIMIT:?}"))));
        let pause = match answer {
            Ok(changes) => {
                retry = FIRST_RETRY;
                let is_first = cursor.is_none();
                let is_idle = !is_first && changes.keys.is_empty();
                cursor = Some(apply(shared, is_first, changes));
                // The changes are as of the start of the call, not of its end.
                followed.heartbeat.beat(asked_at);
                let took = shared.clock.monotonic().saturating_sub(asked_at);
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
        shared.clock.sleep(pause).await;
    }
}

/// Invalidates the cache entries of keys that were changed, and returns the cursor to continue
/// from.
///
/// After a gap, all entries are invalidated. The cursor is from before that, so no change is
/// missed: the next call returns changes after the cursor, and loads see all changes before it.
fn apply(shared: &Shared, is_first: bool, changes: Changes) -> Cursor {
    if changes.gap {
        trace::feed_gap();
    }
    if is_first || changes.gap {
        shared.cache.outdate_all();
    }
    for key in &changes.keys {
        if key.is_deleted {
            shared.cache.forget(&key.id);
        } else {
            shared.cache.outdate_before(&key.id, key.version);
        }
    }
    changes.next
}

/// Returns half to one and a half of a pause, so that the processes of a fleet do not ask all at
/// once.
fn jittered(pause: Duration) -> Duration {
    // Without randomness, use the pause without jitter.
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
