//! The suite for feeds of changes.

use std::time::{Duration, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named};
use crate::key::digest::KeyId;
use crate::store::{
    Action, Actor, Change, ChangeFeed, ChangedKey, Changes, Cursor, ManagedKeyStore, StoreErrorKind,
};

const ANSWERS: Promise = Promise("a live feed answers");
const BEGINS: Promise = Promise("without a cursor nothing is told but where to go on from");
const TOLD: Promise = Promise("each change is told, with a version that the key has reached");
const AGAIN: Promise = Promise("what is asked for again is told again, or is a gap");
const GAPS: Promise = Promise("a cursor that the feed does not know is a gap");

/// The maximum number of calls until a change must be reported.
const MOST_CALLS: usize = 100;

/// The time that a call may wait.
const WAIT: Duration = Duration::from_millis(100);

/// Tests a [`ChangeFeed`] of the changes in a store.
///
/// - Without a cursor, the feed reports no change.
/// - Each change that is committed after a cursor was created is reported after the cursor, with
///   the committed version or a later one.
/// - An older cursor reports the same changes again, or a gap.
/// - A cursor that no feed created is a gap.
///
/// The suite leaves about ten records behind.
///
/// ```
/// use tower_api_key::{conformance, MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = MemoryStore::new();
/// conformance::change_feed(&store, &store).await;
/// # }
/// ```
///
/// # Panics
/// If a promise is broken, or the feed or the store fails.
pub async fn change_feed<F: ChangeFeed, S: ManagedKeyStore>(feed: &F, store: &S) {
    let mut digests = Digests::new();
    let begin = ANSWERS.answer(feed.changes_since(None, WAIT).await, "changes_since");
    BEGINS.holds(
        begin.keys.is_empty() && !begin.gap,
        format_args!("{begin:?}"),
    );
    let mut committed = Vec::new();
    let mut cursor = begin.next.clone();
    for round in 0..3 {
        let mut change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
        for _ in 0..2 {
            let record = named(digests.next(), "key");
            committed.push((record.id(), 1));
            change = keep(change.create(Action::ISSUED, record));
        }
        ANSWERS.answer(store.commit(&change).await, "commit");
        let expected = &committed[2 * round..];
        cursor = expect_changes(feed, cursor, expected).await;
    }
    let record = named(digests.next(), "key");
    for version in 1..=4 {
        let change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
        let seen = record.clone().with_version(version - 1);
        let change = if version == 1 {
            keep(change.create(Action::ISSUED, record.clone()))
        } else {
            keep(change.update(Action::UPDATED, &seen, record.clone()))
        };
        ANSWERS.answer(store.commit(&change).await, "commit");
    }
    cursor = expect_changes(feed, cursor, &[(record.id(), 4)]).await;
    committed.push((record.id(), 4));

    // A store may delete no keys.
    let change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
    let change = keep(change.delete(Action::PURGED, &record.with_version(4)));
    match store.commit(&change).await {
        Err(error) if error.kind() == StoreErrorKind::Refused => {}
        deleted => {
            ANSWERS.answer(deleted, "commit");
            cursor = expect_deletion(feed, cursor, committed[6].0).await;
        }
    }

    let again = ANSWERS.answer(
        feed.changes_since(Some(&begin.next), WAIT).await,
        "changes_since",
    );
    if !again.gap {
        expect_changes(feed, begin.next, &committed).await;
    }
    AGAIN.holds(
        again.gap || !again.keys.is_empty(),
        format_args!("nothing is told from the first cursor on: {again:?}"),
    );
    for unknown in ["", "x", "18446744073709551616", "-"] {
        let unknown = Cursor::new(unknown);
        let answer: Changes = ANSWERS.answer(
            feed.changes_since(Some(&unknown), WAIT).await,
            "changes_since",
        );
        GAPS.holds(answer.gap, format_args!("{unknown:?} brings {answer:?}"));
    }
    let last = ANSWERS.answer(
        feed.changes_since(Some(&cursor), WAIT).await,
        "changes_since",
    );
    TOLD.holds(
        !last.gap,
        format_args!("a gap after the last cursor: {last:?}"),
    );
}

/// Reads until all expected changes were reported, and returns the cursor to continue from.
async fn expect_changes<F: ChangeFeed>(
    feed: &F,
    mut cursor: Cursor,
    expected: &[(KeyId, u64)],
) -> Cursor {
    let mut missing = expected.to_vec();
    for _ in 0..MOST_CALLS {
        let answer = feed.changes_since(Some(&cursor), WAIT).await;
        let answer = ANSWERS.answer(answer, "changes_since");
        TOLD.holds(!answer.gap, format_args!("a gap: {answer:?}"));
        missing.retain(|(id, version)| {
            let reached = |key: &ChangedKey| key.id == *id && key.version >= *version;
            !answer.keys.iter().any(reached)
        });
        cursor = answer.next;
        if missing.is_empty() {
            return cursor;
        }
    }
    TOLD.holds(false, format_args!("{missing:?} is not told"));
    cursor
}

/// Reads until the deletion of a key was reported, and returns the cursor to continue from.
async fn expect_deletion<F: ChangeFeed>(feed: &F, mut cursor: Cursor, id: KeyId) -> Cursor {
    for _ in 0..MOST_CALLS {
        let answer = feed.changes_since(Some(&cursor), WAIT).await;
        let answer = ANSWERS.answer(answer, "changes_since");
        cursor = answer.next;
        if answer.keys.iter().any(|key| key.id == id && key.is_deleted) {
            return cursor;
        }
    }
    TOLD.holds(false, format_args!("the deletion of {id} is not told"));
    cursor
}

fn keep(change: Result<Change, crate::key::KeyRecordError>) -> Change {
    change.expect("the suite's records can be kept")
}
