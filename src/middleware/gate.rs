//! The state of one layer: what it shares with the others of its `ApiKeys`, and what it is set to.

use std::sync::Arc;

use http::Request;

use crate::cache::KnownKey;
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::facts;
use crate::http::render::rejection::Rendered;
use crate::key::lifecycle::Lifecycle;
use crate::keyring::Keyring;
use crate::limit::rulebook::{Bound, Rulebook};
use crate::middleware::config::Config;

/// Decides about the requests of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) config: Config,
    /// Answers that are the same each time.
    pub(crate) rendered: Rendered,
}

impl Gate {
    /// Returns the rules that bind requests which begin now.
    #[inline]
    pub(super) fn rules(&self) -> &Rulebook {
        self.keyring.metering.limiting.rules.current()
    }

    /// Returns the rules that a request began with.
    #[inline]
    pub(super) fn rules_of(&self, request: &Bound) -> &Rulebook {
        self.keyring.metering.limiting.rules.of(request)
    }

    /// Returns the rejection for trouble of ours: 503, never 401.
    pub(super) fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.config.retry_after,
        }
    }

    /// Passes facts of a key on to the inner service, where that is switched on.
    #[inline]
    pub(super) fn pass_on<B>(
        &self,
        request: &mut Request<B>,
        key: Option<(&KnownKey, &Lifecycle)>,
    ) {
        if let Some(chosen) = &self.config.facts {
            facts::write(request.headers_mut(), chosen, key);
        }
    }

    /// Takes the credential out of the request, or marks it as sensitive where the application
    /// wants to see it.
    pub(super) fn strip_or_mark<B>(&self, request: &mut Request<B>, carriers: Carriers) {
        let sources = &self.config.sources;
        if self.config.hide_credential {
            sources.hide(request, carriers);
        } else {
            sources.mark_sensitive(request.headers_mut(), carriers);
        }
    }
}
