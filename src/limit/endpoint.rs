//! Endpoints with limits and costs of their own, and which of them no request could ever match.

use std::collections::BTreeMap;

use crate::limit::charge::REQUESTS;
use crate::limit::rule::{By, Limit, LimitsError, Rule};

/// One method and route, with limits and a cost of its own.
///
/// The path is compared with the route of the request, as text. That is
/// - what [`ApiKeyLayer::route_by`](crate::ApiKeyLayer::route_by) finds, where it is set;
/// - with the feature `axum`, the path that axum's router matched, as it was given to the router:
///   `/v1/reports/{id}` is one endpoint, whatever the id, and so is `/files/{*path}`. Of a nested
///   router, it is the whole path from the outermost on, also for a layer inside of it;
/// - where no endpoint is named so, the request's path as it is: without the feature, for a layer
///   around the whole router and not on it, in a fallback, behind `nest_service`, and for one
///   particular path of a route such as `/v1/reports/{id}`.
///
/// A gRPC endpoint is `Endpoint::any("/package.Service/Method")`, since gRPC servers run a call
/// whatever its method is; a stream is one request.
///
/// A request that could be charged as several endpoints is charged as the first of this order: by
/// its route, by its path, by its method alone ([`any_path`](Self::any_path)). In each of these,
/// `HEAD` is charged as `GET` unless it has an endpoint of its own, and an endpoint of
/// [any](Self::any) method comes last.
///
/// If a path has endpoints but none for the request's method, all limits of those endpoints bind
/// the request, at the greatest of their costs, but at least 1. A service may ignore the method, so
/// another method must be no way around a limit.
///
/// A request is told by its path as the request writes it, where no router says its route. A
/// service that takes other spellings for the same, such as `//` or `%61`, needs
/// [`route_by`](crate::ApiKeyLayer::route_by).
///
/// # Endpoints that are refused
///
/// An endpoint whose path is never requested would limit nothing and say nothing. Therefore
/// `build()` [refuses](crate::limit::LimitsError) methods and paths that are neither a request's nor a
/// route of axum's:
/// - a method that is empty, has lower-case letters (methods are case-sensitive: `post` is not
///   `POST`), or is no token of RFC 9110;
/// - a path that does not begin with `/`, or holds a query or a fragment;
/// - blanks, control characters, letters beyond ASCII, and `` ` ``: a request's path has them
///   percent-encoded, as `%20`;
/// - `%` without two hex digits behind it, and methods for all such as `ANY` (use
///   [`any`](Self::any));
/// - the syntax of other routers: a segment that begins with `:` or `*`, `<` and `>` anywhere, and
///   between braces anything but a name (letters, digits, `_` and `-`), or `*` and a name at the
///   end of the path;
/// - braces that are not closed or not opened (braces that are text are written `{{` and `}}`);
/// - a second endpoint of the same method and path.
///
/// A function that names routes in another way may use any text: [`verbatim`](Self::verbatim).
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
    /// `None` is any method.
    pub(super) method: Option<String>,
    /// `None` is any path.
    pub(super) path: Option<String>,
    is_verbatim: bool,
    pub(super) cost: u64,
    /// Costs in other units than requests.
    pub(super) costs: BTreeMap<String, u64>,
    pub(super) rules: Vec<Rule>,
}

impl Endpoint {
    /// Creates an endpoint, at a cost of 1 a request.
    pub fn new(method: impl AsRef<str>, path: impl Into<String>) -> Self {
        Self::at(Some(method.as_ref()), Some(path.into()))
    }

    /// Creates an endpoint of a route that the application names in its own way, by
    /// [`ApiKeyLayer::route_by`](crate::ApiKeyLayer::route_by): any text, which is compared as it
    /// is.
    ///
    /// Danger: the text is not checked. A slip in it makes an endpoint that limits nothing.
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

    /// Creates an endpoint of a path, whatever the method: for services that ignore the method, as
    /// gRPC's do. Its limits are named by the path, such as `/package.Service/Method
    /// account_per_hour`.
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

    /// Creates an endpoint of all requests of one method, whatever their path.
    ///
    /// Such an endpoint binds the requests that no endpoint with a path binds: one with a path
    /// stands instead of it, not beside it. Its limits are named by the method, such as
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

    /// Sets how many requests a request here counts as, for every limit of
    /// [`requests`](crate::limit::REQUESTS) that binds it. Default: 1. 0 is free: such a request also
    /// passes when a limit of another unit is used up.
    #[must_use]
    pub fn cost(mut self, requests: u64) -> Self {
        self.cost = requests;
        self
    }

    /// Sets what a request here costs of another [unit](Limit::unit), in advance. Default: nothing,
    /// and the request is admitted as long as one is left. 0 admits it in any case.
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

    /// Returns what a request here takes of a unit, and how much must be left.
    pub(super) fn cost_and_need(&self, unit: &str) -> (u64, u64) {
        if unit == REQUESTS {
            return (self.cost, self.cost);
        }
        match self.costs.get(unit) {
            Some(cost) => (*cost, *cost),
            None => (0, self.cost.min(1)),
        }
    }

    /// Limits each key here.
    #[must_use]
    pub fn per_key(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Key, limit.into())
    }

    /// Limits each account here.
    #[must_use]
    pub fn per_account(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::AccountIn, limit.into())
    }

    /// Limits each client address here, as [`Limits::per_ip`](crate::Limits::per_ip) does everywhere.
    #[must_use]
    pub fn per_ip(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Address, limit.into())
    }

    /// Limits everybody here together.
    #[must_use]
    pub fn global(self, limit: impl Into<Limit>) -> Self {
        self.rule(By::Global, limit.into())
    }

    fn rule(mut self, by: By, limit: Limit) -> Self {
        let place = self.place();
        self.rules.push(Rule::new(by, limit, Some(&place)));
        self
    }

    /// Names the endpoint by its method, and its path if there is one.
    pub(super) fn place(&self) -> String {
        let both = [self.method.as_deref(), self.path.as_deref()];
        both.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Checks that a request could be charged as this endpoint.
    pub(super) fn check(&self) -> Result<(), LimitsError> {
        let path = self.path.as_deref().filter(|_| !self.is_verbatim);
        let method = self.method.as_deref().and_then(method_advice);
        let advice = method.or_else(|| path.and_then(path_advice));
        match advice {
            None => Ok(()),
            Some(advice) => Err(LimitsError::Endpoint {
                endpoint: self.place(),
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
const ENCODE: &str = "percent-encode blanks, control characters, letters beyond ASCII and '%', as a \
     request's path has them";
const PARAMETER: &str = "write a parameter as {name} and the rest of a path as {*name}, or name a \
     route of your own with Endpoint::verbatim";
const BRACES: &str = "close each brace, or write {{ and }} for braces that are text";
const LAST: &str = "write {*name} at the end of the path";

fn method_advice(method: &str) -> Option<&'static str> {
    // As `http::Method` has it, which limits do not know of.
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

/// Reads text and parameters in any order: axum allows less of that in one segment, other routers
/// that name their parameters so allow more.
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

/// Refuses the characters that no request's path holds: RFC 3986 leaves them out, and servers
/// refuse them.
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
