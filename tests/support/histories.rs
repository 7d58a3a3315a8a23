//! Random histories of keys, over any store: what must hold after each step.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyStatus;
use tower_api_key::manage::{RotateError, UpdateError};
use tower_api_key::store::{KeyUsage, UsageBatch, UsagePeriod};
use tower_api_key::{ApiKeys, KeyId, KeyRecord, ManagedKeyStore};

use super::random::Random;

const DAY: Duration = Duration::from_secs(86_400);

fn days(days: usize) -> Duration {
    DAY * u32::try_from(days).unwrap()
}

/// What is known of a key from before.
struct Seen {
    record: KeyRecord,
    /// The end of its life, unless an update has set another one.
    end: Option<SystemTime>,
    /// The first key of its chain.
    root: KeyId,
}

/// Lives through so many steps, and checks all keys after each.
pub async fn live(store: impl ManagedKeyStore + Clone, number: u8, steps: usize) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + DAY * 20_000);
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let mut random = Random::new(number.into());
    let mut seen: Vec<Seen> = Vec::new();
    let mut batches = 0;
    for _ in 0..steps {
        clock.advance(Duration::from_secs(random.below(3 * 86_400) as u64));
        if seen.is_empty() || (seen.len() < 40 && random.below(5) == 0) {
            let life = (random.below(2) == 0).then(|| days(1 + random.below(90)));
            let issued = keys.issue("acme").expires_in(life).await.unwrap();
            let record = issued.record().clone();
            seen.push(Seen {
                end: record.expires_at(),
                root: record.id(),
                record,
            });
            continue;
        }
        let at = random.below(seen.len());
        let (id, root) = (seen[at].record.id(), seen[at].root);
        match random.below(10) {
            0 => drop(keys.revoke(id).await.unwrap()),
            1 => drop(keys.suspend(id).await.unwrap()),
            2 => drop(keys.resume(id).await.unwrap()),
            3 => drop(keys.end_grace(id).await.unwrap()),
            4 => {
                let current = store.find_committed(&id).await.unwrap().unwrap();
                let end = keys.now() + days(1 + random.below(60));
                let update = keys.update(&current).expires_at(end).name("updated");
                match update.await {
                    Ok(_) => seen[at].end = Some(end),
                    // A key that was rotated and has ended does not come back.
                    Err(UpdateError::Rotated { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            5 => {
                batches += 1;
                let usage = KeyUsage::new(id, "acme", UsagePeriod::Day(1)).used_at(keys.now());
                let batch = UsageBatch::new([number; 16], batches, [usage]).unwrap();
                store.record_usage(&batch).await.unwrap();
            }
            6 => {
                let dead_for = days(1 + random.below(60));
                keys.purge(dead_for).await.unwrap();
                forget_purged(&store, &mut seen, keys.now() - dead_for).await;
            }
            _ => {
                let grace = days(random.below(40));
                let mut rotate = keys.rotate(id).grace(grace);
                if random.below(4) == 0 {
                    rotate = rotate.compromised("leaked");
                }
                if random.below(3) == 0 {
                    rotate = rotate.replacing_unused();
                }
                match rotate.await {
                    Ok(rotated) => seen.push(Seen {
                        end: rotated.record().expires_at(),
                        root,
                        record: rotated.record().clone(),
                    }),
                    Err(RotateError::Store(error)) => panic!("{error:?}"),
                    Err(_) => {} // refused
                }
            }
        }
        check(&keys, &store, &mut seen).await;
    }
}

/// Forgets the keys that are gone. They were dead for long.
async fn forget_purged(store: &impl ManagedKeyStore, seen: &mut Vec<Seen>, before: SystemTime) {
    let mut at = 0;
    while let Some(Seen { record, .. }) = seen.get(at) {
        if store.find_committed(&record.id()).await.unwrap().is_some() {
            at += 1;
            continue;
        }
        let dead_since = match record.revoked() {
            Some(revoked) => revoked.at,
            None => record.expires_at().unwrap(),
        };
        assert!(dead_since < before, "only what is long dead is purged");
        seen.remove(at);
    }
}

async fn check(keys: &ApiKeys, store: &impl ManagedKeyStore, seen: &mut [Seen]) {
    let mut successors: BTreeMap<String, Vec<KeyId>> = BTreeMap::new();
    for key in seen.iter_mut() {
        let id = key.record.id();
        let current = store.find_committed(&id).await.unwrap().unwrap();
        if key.record.revoked().is_some() {
            assert_eq!(
                current.revoked(),
                key.record.revoked(),
                "revoked stays revoked"
            );
        }
        assert!(current.version() >= key.record.version());
        let end = current
            .expires_at()
            .unwrap_or(SystemTime::UNIX_EPOCH + DAY * 99_999);
        let bound = key.end.unwrap_or(SystemTime::UNIX_EPOCH + DAY * 99_999);
        assert!(
            end <= bound,
            "no life is lengthened: {end:?} after {bound:?}"
        );
        key.end = current.expires_at();
        assert_eq!((current.budget(), current.lineage()), (key.root, key.root));
        if let Some(before) = current.rotated_from() {
            let is_refused = keys.lifecycle(&current).status() == KeyStatus::Revoked;
            if !is_refused {
                successors.entry(before.to_string()).or_default().push(id);
            }
        }
        key.record = current;
    }
    for key in seen.iter() {
        let id = key.record.id();
        // Of those that replaced it, the last one is its successor, and the others have ended.
        let of_it = successors.get(&id.to_string());
        let now = keys.now();
        let alive = of_it.into_iter().flatten().filter(|id| {
            let successor = seen.iter().find(|key| key.record.id() == **id).unwrap();
            successor.record.expires_at().is_none_or(|end| end > now)
        });
        let alive: Vec<_> = alive.collect();
        assert!(alive.len() <= 1, "a key has one successor: {alive:?}");
        if let Some(successor) = alive.first() {
            let rotation = key.record.rotated_to().unwrap();
            assert_eq!(rotation.successor, **successor, "a lineage is a line");
        }
    }
}
