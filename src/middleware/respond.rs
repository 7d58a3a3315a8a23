//! Responses: headers about the key and its limits, and rendered refusals.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};

use crate::http::carriers::Carriers;
use crate::http::render::error_content::ErrorContent;
use crate::http::render::error_response::{ResponseMode, Unrendered, keep_headers};
use crate::http::render::key_headers::keep_from_caches;
use crate::http::render::rate_limit::{self, LimitReport};
use crate::key::lifecycle::Lifecycle;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Denial};
use crate::observe::KeyFacts;

impl Gate {
    /// Adds the headers about the key to the inner service's response. Returns a replacement if the
    /// response was an error that this layer renders.
    pub(super) fn finish_response<B>(
        &self,
        response: &mut Response<B>,
        admission: &Admission,
        mode: ResponseMode,
        request: Option<&Request<()>>,
    ) -> Option<Response<Bytes>> {
        let (lifecycle, carriers, limits, observed) = match admission {
            Admission::Nested => return None,
            Admission::Anonymous { limits } => (None, Carriers::NONE, limits, None),
            Admission::Key {
                lifecycle,
                carriers,
                limits,
                for_observers,
            } => {
                let observed = for_observers.as_deref();
                let observed = observed.map(|key| KeyFacts::new(key, *lifecycle));
                (Some(lifecycle), *carriers, limits, observed)
            }
        };
        if let Some((mut rendered, error)) = self.render_error_within(response, mode, request) {
            if let Some(key) = observed {
                let rejection = match &error {
                    Unrendered::Rejection(rejection) => Some(rejection),
                    Unrendered::Error(_) => None,
                };
                let observers = &self.shared.observers;
                observers.answered(key, rendered.status(), rejection);
            }
            self.write_headers(rendered.headers_mut(), lifecycle, carriers, limits.as_ref());
            return Some(rendered);
        }
        if let Some(key) = observed {
            let observers = &self.shared.observers;
            observers.answered(key, response.status(), None);
        }
        let refused_within =
            rate_limit::is_refused_within(response.status(), response.headers(), mode.grpc);
        let limits = limits.as_ref().filter(|_| !refused_within);
        self.write_headers(response.headers_mut(), lifecycle, carriers, limits);
        None
    }

    /// Writes the headers about the key, its limits and caches.
    fn write_headers(
        &self,
        headers: &mut HeaderMap,
        lifecycle: Option<&Lifecycle>,
        carriers: Carriers,
        limits: Option<&LimitReport>,
    ) {
        let config = &self.config;
        if let Some(lifecycle) = lifecycle {
            config.key_headers.write(headers, lifecycle);
        }
        if let Some(limits) = limits {
            limits.write(headers, config.rate_limit_headers);
        }
        keep_from_caches(headers, &config.sources, carriers, config.optional);
    }

    /// Renders an error from within the layer in this layer's format.
    fn render_error_within<B>(
        &self,
        response: &mut Response<B>,
        mode: ResponseMode,
        request: Option<&Request<()>>,
    ) -> Option<(Response<Bytes>, Unrendered)> {
        let status = response.status();
        let error: Unrendered = response.extensions_mut().remove()?;
        if error.status() != status {
            return None; // a layer in between changed the response
        }
        let content = match &error {
            Unrendered::Rejection(rejection) => self.config.content(rejection),
            Unrendered::Error(error) => ErrorContent::of_application(error),
        };
        let mut rendered = self.config.render(&content, mode, request);
        keep_headers(
            rendered.headers_mut(),
            std::mem::take(response.headers_mut()),
        );
        let mut extensions = std::mem::take(response.extensions_mut());
        extensions.extend(std::mem::take(rendered.extensions_mut()));
        *rendered.extensions_mut() = extensions;
        Some((rendered, error))
    }

    /// Renders a denial.
    pub(super) fn render_denial<B>(
        &self,
        denial: &Denial,
        mode: ResponseMode,
        request: &Request<B>,
    ) -> Response<Bytes> {
        let config = &self.config;
        let render = || {
            let copy = config.copy_for_errors(request, &self.shared.formats);
            config.render(&config.content(&denial.rejection), mode, copy.as_deref())
        };
        let mut response = self
            .rendered
            .or_render(&denial.rejection, &config.errors, mode, render);
        self.write_headers(
            response.headers_mut(),
            denial.lifecycle.as_ref(),
            denial.carriers,
            denial.limits.as_deref(),
        );
        response
    }
}
