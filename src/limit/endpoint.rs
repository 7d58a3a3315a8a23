//! Endpoints with limits and costs of their own, and the check that a request can match them.

use std::collections::BTreeMap;

use crate::limit::charge::REQUESTS;
use crate::limit::rule::{By, Limit, LimitsError, Rule};

/// One method and route, with limits and a cost of its own.
///
/// The path is compared as text with the route of the request. The route is
/// - the result of [`ApiKeyLayer::route_by`](crate::ApiKeyLayer::route_by), if that is set;
/// - with the feature `axum`, the path that axum's router matched, as it was given to the router:
///   `/v1/reports/{id}` is one endpoint for all ids, and so is `/files/{*path}`. In a nested
///   router, the path begins at the outermost router, also for a layer inside the nested one;
/// - if no endpoint has that path, the literal path of the request: without the feature, for a
///   layer around the whole router and not on it, in a fallback, behind `nest_service`, and for one
///   particular path of a route such as `/v1/reports/{id}`.
///
/// A gRPC endpoint is `Endpoint::any("/package.Service/Method")`, since gRPC servers ignore the
/// HTTP method. A stream is one request.
///
/// A request that matches several endpoints is charged as the first in this order: by its route, by
/// its path, by its method alone ([`any_path`](Self::any_path)). At each step, `HEAD` is charged as
/// `GET` unless it has an endpoint of its own, and an endpoint of [any](Self::any) method comes
/// last.
///
/// If a path has endpoints but none for the request's method, all limits of those endpoints apply
/// to the request, at the greatest of their costs, but at least 1. An endpoint by method alone does
/// not apply then. A service may ignore the method, so another method must not evade a limit.
///
/// Without a router, the path is compared as it is written in the request. A service that treats
/// other spellings as the same path, such as `//` or `%61`, needs
/// [`route_by`](crate::ApiKeyLayer::route_by).
///
/// # Errors of `build()`
///
/// An endpoint whose path is never requested would limit nothing, silently. Therefore `build()`
/// [refuses](crate::limit::LimitsError) methods and paths that no request and no route of axum can
/// have:
/// - a method that is empty, has lower-case letters (methods are case-sensitive: `post` is not
///   `POST`), or is not a token of RFC 9110;
/// - a path that does not begin with `/`, or contains a query or a fragment;
/// - blanks, control characters, letters beyond ASCII, and `` ` ``: the path of a request has them
///   percent-encoded, as `%20`;
/// - `%` without two hex digits after it;
/// - names for all methods, such as `ANY` (use [`any`](Self::any));
/// - the syntax of other routers: a segment that begins with `:` or `*`; `<`, `>`, `[`, `]` and `^`
///   anywhere; and between braces anything but a name (letters, digits, `_` and `-`), or `*` and a
///   name at the end of the path;
/// - braces that are not closed or not opened (braces that are text are written `{{` and `}}`);
/// - a second endpoint of the same method and path.
///
/// For routes that are named in another way, use [`verbatim`](Self::verbatim), which accepts any
/// path.
///
/// ```
/// use http::Method;
/// use tower_api_key::limit::Endpoint;
/// use tower_api_key::{Limits, Quota};
///
/// let limits = Limits::new().add_endpoint(
///     Endpoint::new(Method::POST, "/v1/reports")
///         .cost(10)
///         .per_account(Quota::per_hour(100))
///         .global(Quota::per_second(20)),
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The method; `None` matches any method.
    pub(super) method: Option<String>,
    /// The path; `None` matches any path.
    pub(super) path: Option<String>,
    is_verbatim: bool,
    pub(super) cost: u64,
    /// The costs in units other than requests.
    pub(super) costs: BTreeMap<String, u64>,
    pub(super) rules: Vec<Rule>,
}

impl Endpoint {
    /// Creates an endpoint with a cost of 1 for each request.
    pub fn new(method: impl AsRef<str>, path: impl Into<String>) -> Self {
        Self::at(Some(method.as_ref()), Some(path.into()))
    }

    /// Creates an endpoint of a route that the application names itself, with
    /// [`ApiKeyLayer::route_by`](crate::ApiKeyLayer::route_by). The path is any text, and is
    /// compared literally.
    ///
    /// Danger: the path is not checked. An endpoint with a typing error in its path limits nothing.
    ///
    /// ```
    /// use http::Method;
    /// use tower_api_key::limit::Endpoint;
    /// use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
    ///
    /// let reports = Endpoint::verbatim(Method::POST, "reports").per_key(Quota::per_hour(100));
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limits(Limits::new().add_endpoint(reports))
    ///     .build()?;
    /// let layer = keys.layer().route_by(|request| {
    ///     let is_report = request.uri.path().starts_with("/v1/reports");
    ///     is_report.then(|| "reports".to_owned())
    /// });
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn verbatim(method: impl AsRef<str>, path: impl Into<String>) -> Self {
        Self {
            is_verbatim: true,
            ..Self::new(method, path)
        }
    }

    /// Creates an endpoint of a path for all methods. Use it for services that ignore the method,
    /// such as gRPC services. Its limits are named by the path, such as
    /// `/package.Service/Method account_per_hour`.
    ///
    /// ```
    /// use tower_api_key::limit::Endpoint;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let train = Endpoint::any("/package.Model/Train").cost(100);
    /// let limits = Limits::new().per_account(Quota::per_hour(5_000)).add_endpoint(train);
    /// ```
    pub fn any(path: impl Into<String>) -> Self {
        Self::at(None, Some(path.into()))
    }

    /// Creates an endpoint of a method for all paths.
    ///
    /// The endpoint applies to requests that match no endpoint with a path: an endpoint with a path
    /// replaces it, and is not added to it. Its limits are named by the method, such as
    /// `POST account_per_hour`.
    ///
    /// ```
    /// use http::Method;
    /// use tower_api_key::limit::Endpoint;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let writes = Endpoint::any_path(Method::POST).cost(5).per_account(Quota::per_hour(100));
    /// let limits = Limits::new().per_account(Quota::per_hour(5_000)).add_endpoint(writes);
    /// ```
    pub fn any_path(method: impl AsRef<str>) -> Self {
        Self::at(Some(method.as_ref()), None)
    }

    fn at(method: Option<&str>, path: Option<String>) -> Self {
        Self {
            method: method.map(str::to_owned),
            path,
            is_verbatim: false,
            cost: 1,
            costs: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    /// Sets the cost of a request to this endpoint, for every limit in
    /// [`requests`](crate::limit::REQUESTS) that applies to it. Default: 1. A request that costs 0
    /// is free: it is also admitted when a limit in another unit is used up.
    #[must_use]
    pub fn cost(mut self, requests: u64) -> Self {
        self.cost = requests;
        self
    }

    /// Sets the cost of a request to this endpoint in another [unit](Limit::unit), charged in
    /// advance. Default: nothing is charged, and the request is admitted while one unit remains.
    /// With a cost of 0, the request is admitted even if no unit remains.
    ///
    /// ```
    /// use http::Method;
    /// use tower_api_key::limit::{Endpoint, Limit};
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .per_account(Limit::from(Quota::per_minute(100_000)).unit("tokens"))
    ///     .add_endpoint(Endpoint::new(Method::POST, "/v1/answers").cost_in("tokens", 500));
    /// ```
    #[must_use]
    pub fn cost_in(mut self, unit: impl Into<String>, units: u64) -> Self {
        let unit = unit.into();
        if unit == REQUESTS {
            return self.cost(units);
        }
        self.costs.insert(unit, units);
        self
    }

    /// Returns the cost of a request in a unit, and the units that must remain.
    pub(super) fn cost_and_need(&self, unit: &str) -> (u64, u64) {
        if unit == REQUESTS {
            return (self.cost, self.cost);
        }
        match self.costs.get(unit) {
            Some(cost) => (*cost, *cost),
            None => (0, self.cost.min(1)),
        }
    }

    /// Limits each key, at this endpoint.
    #[must_use]
    pub fn per_key(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Key, limit.into())
    }

    /// Limits each account in each environment, at this endpoint.
    #[must_use]
    pub fn per_account(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::AccountIn, limit.into())
    }

    /// Limits each client address, at this endpoint. See [`Limits::per_ip`](crate::Limits::per_ip).
    #[must_use]
    pub fn per_ip(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Address, limit.into())
    }

    /// Limits all callers together, at this endpoint.
    #[must_use]
    pub fn global(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Global, limit.into())
    }

    fn rule(mut self, by: By, limit: Limit) -> Self {
        let label = self.label();
        self.rules.push(Rule::new(by, limit, Some(&label)));
        self
    }

    /// Returns the label of the endpoint in names and errors: its method and its path, as far as it
    /// has them.
    pub(super) fn label(&self) -> String {
        let both = [self.method.as_deref(), self.path.as_deref()];
        both.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Checks that a request can match this endpoint.
    pub(super) fn check(&self) -> Result<(), LimitsError> {
        let path = self.path.as_deref().filter(|_| !self.is_verbatim);
        let method = self.method.as_deref().and_then(method_advice);
        let advice = method.or_else(|| path.and_then(path_advice));
        match advice {
            None => Ok(()),
            Some(advice) => Err(LimitsError::Endpoint {
                endpoint: self.label(),
                advice,
            }),
        }
    }
}

const CASE: &str = "methods are case-sensitive: write the method in upper case";
const ANY: &str = "for every method, use Endpoint::any";
const TOKEN: &str = "write a method of HTTP, such as POST";
const SLASH: &str = "begin the path with '/', or name a route of your own with Endpoint::verbatim";
const QUERY: &str = "leave out the query and the fragment, which are no part of a path";
const ENCODE: &str = "percent-encode blanks, control characters, letters beyond ASCII and '%', as \
     a request's path has them";
const PARAMETER: &str = "write a parameter as {name} and the rest of a path as {*name}, or name a \
     route of your own with Endpoint::verbatim";
const BRACES: &str = "close each brace, or write {{ and }} for braces that are text";
const LAST: &str = "write {*name} at the end of the path";

fn method_advice(method: &str) -> Option<&'static str> {
    // The same characters as in `http::Method`, which this layer does not import.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if method.is_empty() || !method.bytes().all(is_token) {
        return Some(TOKEN);
    }
    if matches!(method.to_ascii_uppercase().as_str(), "*" | "ANY" | "ALL") || method.contains('|') {
        return Some(ANY);
    }
    let has_lower = method.bytes().any(|byte| byte.is_ascii_lowercase());
    has_lower.then_some(CASE)
}

fn path_advice(path: &str) -> Option<&'static str> {
    let Some(segments) = path.strip_prefix('/') else {
        return Some(SLASH);
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let advice = segment_advice(segment, is_last);
        if advice.is_some() {
            return advice;
        }
    }
    None
}

/// Returns advice about a segment of a path, if it cannot match. Text and parameters may follow
/// each other in any order: axum allows fewer combinations, and other routers with this syntax
/// more.
fn segment_advice(segment: &str, is_last: bool) -> Option<&'static str> {
    if segment.starts_with([':', '*']) {
        return Some(PARAMETER);
    }
    let mut rest = segment;
    while let Some(at) = rest.find(['{', '}']) {
        let (text, braces) = rest.split_at(at);
        let advice = text_advice(text);
        if advice.is_some() {
            return advice;
        }
        let escaped = braces.strip_prefix("{{");
        if let Some(after) = escaped.or_else(|| braces.strip_prefix("}}")) {
            rest = after;
            continue;
        }
        let inside = braces
            .strip_prefix('{')
            .and_then(|inside| inside.split_once('}'));
        let Some((name, after)) = inside else {
            return Some(BRACES);
        };
        let is_rest = name.starts_with('*');
        if !is_name(name.strip_prefix('*').unwrap_or(name)) {
            return Some(PARAMETER);
        }
        if is_rest && !(is_last && after.is_empty()) {
            return Some(LAST);
        }
        rest = after;
    }
    text_advice(rest)
}

fn is_name(name: &str) -> bool {
    let is_of_name = |character: char| character.is_alphanumeric() || "_-".contains(character);
    !name.is_empty() && name.chars().all(is_of_name)
}

/// Returns advice about characters that the path of a request cannot contain: RFC 3986 excludes
/// them, and servers refuse them.
fn text_advice(text: &str) -> Option<&'static str> {
    let mut encoded = text.split('%').skip(1);
    let is_hex = |text: &str| {
        let digits = text.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !encoded.all(is_hex) {
        return Some(ENCODE);
    }
    text.bytes().find_map(|byte| match byte {
        b'?' | b'#' => Some(QUERY),
        b'<' | b'>' | b'[' | b']' | b'^' => Some(PARAMETER),
        b'`' => Some(ENCODE),
        _ if byte.is_ascii_graphic() => None,
        _ => Some(ENCODE),
    })
}
