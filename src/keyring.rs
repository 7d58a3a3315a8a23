//! What the request path and the management calls share: how to find a key, recognize it, verify
//! it, and tell the time.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::formats::KeyFormats;
use crate::key::lifecycle::WarningWindow;
use crate::key::record::KeyRecord;
use crate::key::verifier::PepperRing;
use crate::limit::limiting::{Limiting, Throttle};
use crate::store::{DynKeyStore, StoreError};
use crate::trace::{Hourly, Once};

pub(crate) struct Keyring {
    pub(crate) store: Arc<dyn DynKeyStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) formats: KeyFormats,
    pub(crate) peppers: PepperRing,
    pub(crate) warning: WarningWindow,
    pub(crate) limiting: Option<Limiting>,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) notices: Notices,
}

/// A record, and the environment that it stands for.
#[derive(Debug)]
pub(crate) struct KnownKey {
    pub(crate) record: KeyRecord,
    /// The record's own, or that of the format that the key is written in.
    pub(crate) environment: Environment,
}

/// What the logs are told now and then, and not at each request.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    pub(crate) deprecated: Hourly,
    pub(crate) untrusted_forwarding: Once,
    pub(crate) no_client_address: Once,
}

impl Keyring {
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The record of a key that is written as those of `environment` are.
    pub(crate) async fn find(
        &self,
        id: &KeyId,
        environment: &Environment,
    ) -> Result<Option<Arc<KnownKey>>, StoreError> {
        let record = self.store.find(id).await?;
        Ok(record.map(|record| {
            let environment = record.environment().unwrap_or(environment).clone();
            Arc::new(KnownKey {
                record,
                environment,
            })
        }))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("formats", &self.formats)
            .field("peppers", &self.peppers)
            .field("warning", &self.warning)
            .field("limiting", &self.limiting)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}
