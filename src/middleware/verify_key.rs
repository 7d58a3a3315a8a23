//! Verification of keys that do not come in a request: steps 2 to 6.

use crate::cache::LoadPriority;
use crate::http::caller::Caller;
use crate::http::carriers::Carriers;
use crate::http::rejection::{NotFound, Rejection};
use crate::key::digest::KeyDigest;
use crate::key::formats::{Position, Recognized};
use crate::limit::refund::Receipt;
use crate::middleware::decide::check_status;
use crate::middleware::gate::Gate;

impl Gate {
    /// Verifies a key. Access, limits, failed attempts and observers apply to requests only.
    pub(crate) async fn verify(&self, plaintext: &str) -> Result<Caller, Rejection> {
        let shared = &self.shared;
        let recognized = shared
            .formats
            .recognize(plaintext.as_bytes(), Position::Dedicated);
        let Recognized::WellFormed(format) = recognized else {
            return Err(Rejection::NotFound(NotFound::Malformed));
        };
        let digest = KeyDigest::of(plaintext);
        let id = digest.id();
        let asked_at = shared.clock.monotonic();
        let lookup = if let Some(lookup) = shared.cache.find(&id, asked_at) {
            lookup
        } else {
            let priority = if shared.cache.was_found(&id) {
                LoadPriority::FoundBefore
            } else {
                LoadPriority::New
            };
            let facts = shared.format_facts(format);
            let format_index = shared.formats.index_of(format);
            let adoptable = shared.cache.adoptable(format_index, plaintext.as_bytes());
            let loaded = shared.cache.load(id, &facts, priority, adoptable).await;
            loaded.map_err(|failure| self.load_failed(&failure, &id))?
        };
        let key = self.compare(&digest, lookup)?;
        let lifecycle = key.lifecycle(shared.now(), shared.warning);
        check_status(&key, lifecycle)?;
        let now = shared.now();
        shared.count_admission(&key, now, 1, || None);
        shared.see_use(&key, now);
        let request_limits = shared
            .key_services
            .enforcer
            .rules
            .current()
            .bind_without_request();
        Ok(Caller::new(
            key,
            lifecycle,
            Carriers::NONE,
            request_limits,
            Receipt::default().with_counted_units(1), // a request
        ))
    }
}
