//! The memory footprint of a record, as the cache counts it.

use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::Scope;

/// Returns the memory of an allocation: malloc adds 8 bytes, rounds up to a multiple of 16, and
/// uses at least 32.
pub(crate) fn allocation(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        _ => (bytes + 8).next_multiple_of(16).max(32),
    }
}

impl KeyRecord {
    /// Returns the heap memory of the record in bytes.
    pub(crate) fn heap(&self) -> usize {
        let text = |text: &str| allocation(text.len());
        let texts = [self.prefix(), self.name(), self.organization(), self.plan()];
        let texts = texts.into_iter().chain(self.reasons()).flatten().map(text);
        let metadata = self.metadata().iter();
        let metadata = metadata.map(|(name, value)| text(name) + text(value));
        let limits = self.limits().keys().map(|name| text(name));
        let scopes = self.scopes().iter().map(|scope| text(scope.as_str()));
        let networks = self.networks().list().map_or(0, size_of_val::<[_]>);
        let origins = self.origins().list().unwrap_or_default();
        let origin_texts = origins.iter().map(|origin| text(origin.as_str()));
        text(self.account())
            + self.verifier().heap()
            + allocation(self.rare_size())
            + allocation(networks)
            + allocation(size_of_val(origins))
            + nodes::<(String, String)>(self.metadata().len())
            + nodes::<(String, Quota)>(self.limits().len())
            + nodes::<Scope>(self.scopes().len())
            + texts.chain(origin_texts).sum::<usize>()
            + metadata.chain(limits).chain(scopes).sum::<usize>()
    }
}

/// Estimates the memory of a `BTreeMap` or `BTreeSet`. Its nodes have room for eleven entries, and
/// are assumed to hold six.
fn nodes<Entry>(entries: usize) -> usize {
    entries.div_ceil(6) * allocation(16 + 11 * size_of::<Entry>())
}
