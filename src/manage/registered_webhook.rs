//! Webhooks with their secrets.

use std::fmt;

use zeroize::Zeroizing;

use crate::store::Endpoint;

/// A webhook with its secret.
#[derive(Clone)]
pub struct RegisteredWebhook {
    endpoint: Endpoint,
    secret: Zeroizing<String>,
}

impl RegisteredWebhook {
    pub(super) fn new(endpoint: Endpoint, secret: Zeroizing<String>) -> Self {
        Self { endpoint, secret }
    }

    pub(super) fn with_endpoint(self, endpoint: Endpoint) -> Self {
        Self { endpoint, ..self }
    }

    /// Returns the id of the endpoint.
    pub fn id(&self) -> &str {
        &self.endpoint.id
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the secret that signs, as text for the receiver: `whsec_…`.
    pub fn expose_secret(&self) -> &str {
        &self.secret
    }
}

/// Redacts the secret.
impl fmt::Debug for RegisteredWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredWebhook")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
