//! The chain of rotations that a key belongs to.

use std::collections::{HashMap, HashSet};

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::manage::Manager;
use crate::store::StoreError;

/// A key with the others of its chain of rotations.
#[derive(Debug)]
pub(super) struct Lineage {
    /// The keys that it replaces, directly or not, the first one first.
    pub(super) before: Vec<KeyRecord>,
    pub(super) key: KeyRecord,
    /// The keys that replace it, directly or not.
    pub(super) after: Vec<KeyRecord>,
}

impl Manager {
    /// Reads a key with its chain of rotations.
    pub(super) async fn lineage_of(&self, id: &KeyId) -> Result<Option<Lineage>, StoreError> {
        let Some(key) = self.find_newest(id).await? else {
            return Ok(None);
        };
        let mut others = Vec::new();
        for record in self.store.find_lineage(&key.lineage()).await? {
            if record.id() != *id {
                others.push(self.shared.cache.newest(record)?);
            }
        }
        Ok(Some(Lineage::new(key, &others)))
    }
}

impl Lineage {
    /// Divides a chain by the links between its keys. Where keys between two others were purged,
    /// the times of issue tell which of them is before the other.
    fn new(key: KeyRecord, others: &[KeyRecord]) -> Self {
        let all = || others.iter().chain([&key]);
        let links: HashMap<KeyId, Option<KeyId>> =
            all().map(|it| (it.id(), it.rotated_from())).collect();
        let depths = depths(&links);
        let own = depths[&key.id()];
        // In one piece of the chain, the deeper one is later.
        let is_later = |it: &KeyRecord| match depths[&it.id()] {
            Depth { root, links } if root == own.root => links > own.links,
            _ => it.created_at() >= key.created_at(),
        };
        let (mut after, mut before): (Vec<_>, Vec<_>) = others.iter().cloned().partition(is_later);
        for keys in [&mut after, &mut before] {
            keys.sort_by_key(|it| (it.created_at(), depths[&it.id()].links));
        }
        Self { before, key, after }
    }

    /// Returns all keys of the chain, the first one first.
    pub(super) fn all(&self) -> impl Iterator<Item = &KeyRecord> {
        let (before, after) = (self.before.iter(), self.after.iter());
        before.chain([&self.key]).chain(after)
    }

    /// Returns the key that directly replaces the key, if it was rotated and that key is not
    /// purged.
    pub(super) fn successor(&self) -> Option<&KeyRecord> {
        let successor = self.key.rotated_to()?.successor;
        self.after.iter().find(|it| it.id() == successor)
    }
}

/// The place of a key in a piece of a chain, between keys that were purged.
#[derive(Debug, Clone, Copy)]
struct Depth {
    /// The first key of the piece.
    root: KeyId,
    /// The number of links to it.
    links: usize,
}

/// Returns the places of keys by the keys that they replace.
fn depths(links: &HashMap<KeyId, Option<KeyId>>) -> HashMap<KeyId, Depth> {
    let mut depths: HashMap<KeyId, Depth> = HashMap::new();
    for id in links.keys() {
        // Back to a key of which the place is known, or the first one.
        let mut path = vec![*id];
        let mut seen = HashSet::from([*id]);
        let mut known = None;
        while let Some(last) = path.last() {
            known = depths.get(last).copied();
            let before = links.get(last).copied().flatten();
            let before = before.filter(|before| links.contains_key(before));
            // Links that form a circle are those of a broken table.
            match before.filter(|before| known.is_none() && seen.insert(*before)) {
                Some(before) => path.push(before),
                None => break,
            }
        }
        let mut next = match (known, path.last()) {
            (Some(known), _) => known,
            (None, Some(root)) => Depth {
                root: *root,
                links: 0,
            },
            (None, None) => continue,
        };
        for id in path.into_iter().rev() {
            depths.insert(id, next);
            next.links += 1;
        }
    }
    depths
}
