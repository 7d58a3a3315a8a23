//! The settings of one layer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use crate::http::client_address::ClientAddress;
use crate::http::credential::source::KeySources;
use crate::http::framework;
use crate::http::rejection::Rejection;
use crate::http::render::challenge::{Challenges, Realm};
use crate::http::render::error_content::ErrorContent;
use crate::http::render::error_response::{self, ErrorFormat, ResponseMode};
use crate::http::render::facts::CallerFact;
use crate::http::render::grpc::GrpcRequests;
use crate::http::render::key_headers::KeyHeaders;
use crate::http::render::rate_limit::RateLimitHeaders;
use crate::http::request_head::RequestHead;
use crate::key::environment::Environment;
use crate::key::formats::KeyFormats;
use crate::key::kind::KeyKind;
use crate::key::scope::RequiredScopes;

/// The function that finds the route of a request. By default, the route is the one that a
/// framework matched, or else the path.
#[derive(Clone, Default)]
pub(crate) struct RouteFinder(pub(crate) Option<Arc<FindRoute>>);

type FindRoute = dyn Fn(RequestHead<'_>) -> Option<String> + Send + Sync;

impl RouteFinder {
    pub(crate) fn of<'r>(&self, head: RequestHead<'r>) -> Cow<'r, str> {
        if let Some(found) = self.0.as_ref().and_then(|find| find(head)) {
            return Cow::Owned(found);
        }
        let matched = framework::matched_route(head.extensions);
        Cow::Borrowed(matched.unwrap_or(head.uri.path()))
    }
}

impl fmt::Debug for RouteFinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Function"
        } else {
            "Default"
        })
    }
}

/// The kinds of keys that a layer accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AcceptedKinds {
    secret: bool,
    publishable: bool,
    /// Refuses secret keys that browsers send.
    pub(crate) refuse_in_browsers: bool,
}

impl AcceptedKinds {
    pub(crate) fn accept(self, kind: KeyKind) -> bool {
        match kind {
            KeyKind::Secret => self.secret,
            KeyKind::Publishable => self.publishable,
        }
    }

    /// Accepts these kinds and no others.
    pub(crate) fn set(&mut self, kinds: impl IntoIterator<Item = KeyKind>) {
        (self.secret, self.publishable) = (false, false);
        for kind in kinds {
            match kind {
                KeyKind::Secret => self.secret = true,
                KeyKind::Publishable => self.publishable = true,
            }
        }
    }
}

/// Access checks that are only reported, and do not deny.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports {
    pub(crate) scopes: Vec<RequiredScopes>,
    pub(crate) networks: bool,
}

impl Reports {
    pub(crate) fn are_on(&self) -> bool {
        self.networks || !self.scopes.is_empty()
    }
}

/// The settings of one layer. `Default` has the documented default of each setter.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    // Requirements on requests.
    pub(crate) sources: KeySources,
    pub(crate) optional: bool,
    pub(crate) allow_preflight: bool,
    /// `None` accepts any environment.
    pub(crate) environments: Option<Arc<[Environment]>>,
    pub(crate) kinds: AcceptedKinds,
    /// All of them are required.
    pub(crate) required_scopes: Vec<RequiredScopes>,
    pub(crate) reports: Reports,
    pub(crate) client_address: ClientAddress,
    pub(crate) route: RouteFinder,
    // Changes to admitted requests.
    pub(crate) hide_credential: bool,
    /// The facts that are passed on; `None` if none were configured.
    pub(crate) facts: Option<Vec<CallerFact>>,
    // Responses.
    pub(crate) key_headers: KeyHeaders,
    pub(crate) rate_limit_headers: RateLimitHeaders,
    pub(crate) errors: ErrorFormat,
    pub(crate) challenges: Challenges,
    /// The status of the response to keys that are not found.
    pub(crate) not_found: StatusCode,
    pub(crate) retry_after: Duration,
    pub(crate) grpc: GrpcRequests,
}

impl Config {
    /// Returns the mode of the response to a request.
    pub(crate) fn response_mode(&self, method: &Method, headers: &HeaderMap) -> ResponseMode {
        ResponseMode {
            grpc: self.grpc.include(method, headers),
            head: method == Method::HEAD,
        }
    }

    /// Renders an error. `request` is the copy for a custom format, if one is configured.
    pub(crate) fn render(
        &self,
        content: &ErrorContent<'_>,
        mode: ResponseMode,
        request: Option<&Request<()>>,
    ) -> Response<Bytes> {
        let (errors, challenges, sources) = (&self.errors, &self.challenges, &self.sources);
        let render =
            |request| error_response::render(content, errors, challenges, sources, mode, request);
        match request {
            Some(request) => render(request),
            None => render(&Request::new(())),
        }
    }

    /// Returns the content of a rejection for callers of this layer.
    pub(crate) fn content<'r>(&self, rejection: &'r Rejection) -> ErrorContent<'r> {
        ErrorContent::of_layer(rejection, &self.sources, self.not_found)
    }

    /// Copies the head of a request without its credentials, if a custom format needs it.
    pub(crate) fn copy_for_errors<B>(
        &self,
        request: &Request<B>,
        formats: &KeyFormats,
    ) -> Option<Box<Request<()>>> {
        self.errors
            .reads_request()
            .then(|| Box::new(self.without_credentials(request, formats)))
    }

    #[cold]
    fn without_credentials<B>(&self, request: &Request<B>, formats: &KeyFormats) -> Request<()> {
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        self.sources.hide(&mut copy, self.sources.all());
        for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
            copy.headers_mut().remove(name);
        }
        // Remove keys in places that are no key sources.
        let is_claimed = |text: &[u8]| formats.is_claimed_in(text);
        let claimed = copy.headers().iter();
        let claimed = claimed.filter(|(_, value)| is_claimed(value.as_bytes()));
        let claimed: Vec<HeaderName> = claimed.map(|(name, _)| name.clone()).collect();
        for name in claimed {
            copy.headers_mut().remove(name);
        }
        let uri = copy.uri().to_string();
        if uri
            .split(['/', '?', '&', '='])
            .any(|part| is_claimed(part.as_bytes()))
        {
            *copy.uri_mut() = Uri::from_static("/");
        }
        copy
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sources: KeySources::default(),
            optional: false,
            allow_preflight: false,
            environments: Some([Environment::LIVE].into()),
            kinds: AcceptedKinds {
                secret: true,
                publishable: false,
                refuse_in_browsers: false,
            },
            required_scopes: Vec::new(),
            reports: Reports::default(),
            client_address: ClientAddress::default(),
            route: RouteFinder::default(),
            hide_credential: true,
            facts: None,
            key_headers: KeyHeaders::default(),
            rate_limit_headers: RateLimitHeaders::default(),
            errors: ErrorFormat::default(),
            challenges: Challenges {
                realm: Realm::default(),
                basic: false,
                resource_metadata: None,
            },
            not_found: StatusCode::UNAUTHORIZED,
            retry_after: Duration::from_secs(5),
            grpc: GrpcRequests::default(),
        }
    }
}
