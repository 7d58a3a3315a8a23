//! What one layer is set to.

use std::time::Duration;

use bytes::Bytes;
use http::Response;

use crate::key::environment::Environment;
use crate::key::scope::RequiredScopes;
use crate::rejection::Rejection;
use crate::request::client_address::ClientAddress;
use crate::response::challenge::{Challenges, Realm};
use crate::response::headers::KeyHeaders;
use crate::response::rejection::{self, ErrorFormat};
use crate::source::KeySources;

/// What one layer is set to; `Default` is the documented default of each setter.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    // What is asked of a request.
    pub(crate) sources: KeySources,
    pub(crate) optional: bool,
    pub(crate) allow_preflight: bool,
    pub(crate) environment: Option<Environment>,
    pub(crate) required_scopes: Option<RequiredScopes>,
    pub(crate) client_address: ClientAddress,
    // What becomes of it.
    pub(crate) hide_credential: bool,
    // What is answered.
    pub(crate) key_headers: KeyHeaders,
    pub(crate) errors: ErrorFormat,
    pub(crate) challenges: Challenges,
    pub(crate) retry_after: Duration,
}

impl Settings {
    pub(crate) fn render(&self, rejection: &Rejection, grpc: bool) -> Response<Bytes> {
        rejection::render(
            rejection,
            &self.errors,
            &self.challenges,
            &self.sources,
            grpc,
        )
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sources: KeySources::default(),
            optional: false,
            allow_preflight: false,
            environment: Some(Environment::LIVE),
            required_scopes: None,
            client_address: ClientAddress::default(),
            hide_credential: true,
            key_headers: KeyHeaders::default(),
            errors: ErrorFormat::default(),
            challenges: Challenges {
                realm: Realm::default(),
                basic: false,
            },
            retry_after: Duration::from_secs(5),
        }
    }
}
