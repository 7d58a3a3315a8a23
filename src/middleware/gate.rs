//! The state of one layer: the shared state of its `ApiKeys`, and its own settings.

use std::sync::Arc;

use http::Request;

use crate::cache::CachedKey;
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::error_response::Rendered;
use crate::http::render::facts;
use crate::key::lifecycle::Lifecycle;
use crate::limit::compiled_rules::{CompiledRules, RequestLimits};
use crate::middleware::config::Config;
use crate::shared::Shared;

/// Decides about the requests of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Config,
    /// Responses that are the same each time, rendered once.
    pub(crate) rendered: Rendered,
}

impl Gate {
    /// Returns the current rules, which apply to requests that begin now.
    pub(super) fn rules(&self) -> &CompiledRules {
        self.shared.key_services.enforcer.rules.current()
    }

    /// Returns the rules that were current when a request began.
    pub(super) fn rules_of(&self, request: &RequestLimits) -> &CompiledRules {
        self.shared.key_services.enforcer.rules.of(request)
    }

    /// Returns the rejection for an outage on our side: 503, never 401.
    pub(super) fn outage(&self) -> Rejection {
        Rejection::ServiceUnavailable {
            retry_after: self.config.retry_after,
        }
    }

    /// Passes facts of a key on to the inner service, if configured.
    pub(super) fn pass_on<B>(
        &self,
        request: &mut Request<B>,
        key: Option<(&CachedKey, &Lifecycle)>,
    ) {
        if let Some(chosen) = &self.config.facts {
            facts::write(request.headers_mut(), chosen, key);
        }
    }

    /// Removes the credential from the request, or marks it as sensitive if it is to be kept.
    pub(super) fn strip_or_mark<B>(&self, request: &mut Request<B>, carriers: Carriers) {
        let sources = &self.config.sources;
        if self.config.hide_credential {
            sources.hide(request, carriers);
        } else {
            sources.mark_sensitive(request.headers_mut(), carriers);
        }
    }
}
