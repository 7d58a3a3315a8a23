//! Keys that do not come in a request: steps 2 to 6.

use crate::cache::Sought;
use crate::http::caller::Caller;
use crate::http::carriers::Carriers;
use crate::http::rejection::{NotFound, Rejection};
use crate::key::digest::KeyDigest;
use crate::key::formats::{Place, Recognized};
use crate::middleware::decide::check_status;
use crate::middleware::gate::Gate;

impl Gate {
    /// Verifies a key. Access, limits, failed attempts and observers are those of requests, and
    /// play no part.
    pub(crate) async fn verify(&self, key: &str) -> Result<Caller, Rejection> {
        let keyring = &self.keyring;
        let recognized = keyring.formats.recognize(key.as_bytes(), Place::Own);
        let Recognized::WellFormed(format) = recognized else {
            return Err(Rejection::NotFound(NotFound::Malformed));
        };
        let digest = KeyDigest::of(key);
        let id = digest.id();
        let asked_at = keyring.clock.monotonic();
        let found = if let Some(found) = keyring.cache.find(&id, asked_at) {
            found
        } else {
            let sought = if keyring.cache.knew(&id) {
                Sought::FoundBefore
            } else {
                Sought::New
            };
            let loaded = keyring
                .cache
                .load(id, &keyring.written(format), sought)
                .await;
            loaded.map_err(|failure| self.load_failed(&failure, &id))?
        };
        let known = self.compare(&digest, found)?;
        let lifecycle = known.lifecycle(keyring.now(), keyring.warning);
        check_status(&known, lifecycle)?;
        let nowhere = keyring
            .metering
            .limiting
            .rules
            .current()
            .bind_without_request();
        Ok(Caller::new(known, lifecycle, Carriers::NONE, nowhere, None))
    }
}
