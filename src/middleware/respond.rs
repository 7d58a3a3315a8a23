//! Answers: headers about the key and its limits, and what takes the place of a refusal.

use bytes::Bytes;
use http::{HeaderMap, Response};

use crate::http::credential::source::Carriers;
use crate::http::rejection::Rejection;
use crate::http::render::key_headers::keep_from_caches;
use crate::http::render::rate_limit::{self, Notice};
use crate::http::render::rejection::{Manner, Unrendered, keep_headers};
use crate::key::lifecycle::Lifecycle;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Denial};
use crate::observe::KeyFacts;

impl Gate {
    /// Adds what the caller is told about the key to the answer of the inner service, or to what
    /// takes its place.
    pub(super) fn finish_response<B>(
        &self,
        response: &mut Response<B>,
        admission: &Admission,
        manner: Manner,
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
                let observed = observed.map(|known| KeyFacts::new(known, *lifecycle));
                (Some(lifecycle), *carriers, limits, observed)
            }
        };
        if let Some((mut rendered, rejection)) = self.render_handler_rejection(response, manner) {
            if let Some(key) = observed {
                let observers = &self.keyring.observers;
                observers.answered(key, rendered.status(), Some(&rejection));
            }
            self.write_headers(rendered.headers_mut(), lifecycle, carriers, limits.as_ref());
            return Some(rendered);
        }
        if let Some(key) = observed {
            let observers = &self.keyring.observers;
            observers.answered(key, response.status(), None);
        }
        let refused_within =
            rate_limit::is_refused_within(response.status(), response.headers(), manner.grpc);
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
        limits: Option<&Notice>,
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

    /// Renders a rejection that a handler answered with, as those of this layer are.
    fn render_handler_rejection<B>(
        &self,
        response: &mut Response<B>,
        manner: Manner,
    ) -> Option<(Response<Bytes>, Rejection)> {
        let status = response.status();
        let Unrendered(rejection) = response.extensions_mut().remove()?;
        if rejection.status() != status {
            return None; // a layer in between made another answer of it
        }
        let mut rendered = self.config.render(&rejection, manner);
        keep_headers(
            rendered.headers_mut(),
            std::mem::take(response.headers_mut()),
        );
        let mut extensions = std::mem::take(response.extensions_mut());
        extensions.extend(std::mem::take(rendered.extensions_mut()));
        *rendered.extensions_mut() = extensions;
        Some((rendered, rejection))
    }

    /// Renders a denial.
    pub(super) fn render_denial(&self, denial: &Denial, manner: Manner) -> Response<Bytes> {
        let config = &self.config;
        let render = || config.render(&denial.rejection, manner);
        let mut response =
            self.rendered
                .or_render(&denial.rejection, &config.errors, manner, render);
        self.write_headers(
            response.headers_mut(),
            denial.lifecycle.as_ref(),
            denial.carriers,
            denial.limits.as_deref(),
        );
        response
    }
}
