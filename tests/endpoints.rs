//! Which endpoints are accepted, and which endpoint a request is charged as.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use http::Method;
use proptest::prelude::*;
use proptest::sample::select;
use support::{World, answer, at_once, to, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::RequestHead;
use tower_api_key::limit::{Endpoint, LimitsError};
use tower_api_key::{ApiKeyLayer, ApiKeys, BuildError, Limits, MemoryStore, Quota};

const ALL: Quota = Quota::per_hour(1_000_000);
const UNIT: Quota = Quota::per_minute(1);

fn build(limits: Limits) -> Result<ApiKeys, LimitsError> {
    let builder = ApiKeys::builder(MemoryStore::new()).clock(ManualClock::at(today()));
    builder.limits(limits).build().map_err(|error| match error {
        BuildError::Limits(error) => error,
        other => panic!("{other}"),
    })
}

/// The units that a request takes of a fresh key's budget.
fn cost(keys: &ApiKeys, layer: &ApiKeyLayer, method: &Method, path: &str) -> u64 {
    let key = at_once(keys.issue("acme")).unwrap();
    let mut request = to(path, &key);
    request.method_mut().clone_from(method);
    let answer = answer(layer, request);
    let remaining = answer.headers()["x-ratelimit-remaining"].to_str().unwrap();
    ALL.limit() - remaining.parse::<u64>().unwrap()
}

fn any_segment() -> impl Strategy<Value = String> {
    // The characters of a path by RFC 3986, without those that begin another router's parameters.
    "([A-Za-z0-9._~!$&'()+,;=@-]|%[0-9A-F]{2})([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2}){0,5}|"
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(any_segment(), 1..5)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

/// A segment that no request has, or that another router would call a parameter.
fn any_slip() -> impl Strategy<Value = String> {
    let wrong = prop_oneof![
        "[:*][a-z]{0,4}",
        "[a-z]{0,2}<[a-z:]{0,4}>",
        r"\{[a-z]{1,3}[:.?+ ]\[?[0-9a-z*+]{0,4}\]?\}",
        r"\{[a-z]{0,3}",
        r"[a-z]{0,3}\}",
        r"\{\*?\}",
        r"\{[a-z]{1,3}\{[a-z]{1,3}\}\}",
        r"\{\*[a-z]{1,3}\}[a-z]",
        r"\{\*[a-z]{1,3}\}/[a-z]{0,3}",
        "[a-z]{0,3}[?#][a-z]{0,3}",
    ];
    let never = prop_oneof![
        select(vec![' ', '\t', '\n', '\r', '\0', '\x7f', '`', '<', '>']),
        any::<char>().prop_filter("ASCII", |character| !character.is_ascii()),
    ];
    let inside = (any_segment(), never, any_segment());
    prop_oneof![
        wrong,
        inside.prop_map(|(before, never, after)| format!("{before}{never}{after}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_valid_request_path_is_accepted_and_charged(path in any_path()) {
        let limits = Limits::new().per_key(ALL).add_cost("POST", &path, 7);
        let keys = build(limits).unwrap();
        let units = cost(&keys, &keys.layer(), &Method::POST, &path);
        prop_assert_eq!(units, 7, "{}", path);
    }

    #[test]
    fn a_path_that_matches_no_request_is_refused_unless_it_is_verbatim(
        before in any_path(),
        slip in any_slip(),
        after in prop_oneof![Just(String::new()), any_path()],
    ) {
        let path = format!("{before}/{slip}{after}");
        let named = format!("POST {path}");
        let refused = |limits| match build(limits) {
            Err(LimitsError::Endpoint { endpoint, .. }) => endpoint == named,
            _ => false,
        };
        prop_assert!(refused(Limits::new().add_endpoint(Endpoint::new("POST", &path).per_key(UNIT))));
        prop_assert!(refused(Limits::new().add_cost("POST", &path, 2)));

        let verbatim = Endpoint::verbatim("POST", &path).cost(7);
        let keys = build(Limits::new().per_key(ALL).add_endpoint(verbatim)).unwrap();
        let layer = keys.layer().route_by(move |_| Some(path.clone()));
        prop_assert_eq!(cost(&keys, &layer, &Method::POST, "/"), 7);
    }

    #[test]
    fn a_path_without_a_leading_slash_is_refused(path in any_path(), lead in "[a-z.:*{]{0,6}") {
        let path = format!("{lead}{}", &path[1..]);
        prop_assume!(!path.starts_with('/'));
        let refused = build(Limits::new().add_cost("GET", &path, 2));
        let is_endpoint = matches!(refused, Err(LimitsError::Endpoint { .. }));
        prop_assert!(is_endpoint, "{}", path);
        prop_assert!(build(Limits::new().add_endpoint(Endpoint::verbatim("GET", path))).is_ok());
    }

    #[test]
    fn an_endpoint_method_must_be_an_upper_case_token(
        method in prop_oneof!["[!-~]{0,8}", "[A-Z-]{1,8}", ".{0,4}", "[a-zA-Z]{3,6}"],
    ) {
        let is_method = Method::from_bytes(method.as_bytes()).is_ok();
        // What other routers write for every method.
        let is_all = ["*", "ANY", "ALL"].contains(&&*method) || method.contains('|');
        let is_upper = !method.contains(|letter: char| letter.is_ascii_lowercase());
        let expected = is_method && is_upper && !is_all;
        for endpoint in [
            Endpoint::new(&method, "/v1"),
            Endpoint::verbatim(&method, "/v1"),
            Endpoint::any_path(&method),
        ] {
            let built = build(Limits::new().add_endpoint(endpoint)).map(|_| ());
            if expected {
                prop_assert_eq!(built, Ok(()));
            } else {
                let is_endpoint = matches!(built, Err(LimitsError::Endpoint { .. }));
                prop_assert!(is_endpoint, "{:?}", method);
            }
        }
    }

    #[test]
    fn a_second_endpoint_for_the_same_method_and_path_is_refused(
        places in proptest::collection::vec((0..3usize, 0..4usize, any::<bool>()), 1..8),
    ) {
        let mut limits = Limits::new();
        let mut seen = std::collections::HashSet::new();
        let mut is_double = false;
        for (method, path, is_verbatim) in places {
            let (method_name, path_name) = (METHODS[method].as_str(), PATHS.get(path));
            limits = limits.add_endpoint(match path_name {
                Some(path) if is_verbatim => Endpoint::verbatim(method_name, *path),
                Some(path) => Endpoint::new(method_name, *path),
                None => Endpoint::any_path(method_name),
            });
            is_double |= !seen.insert((method, path));
        }
        let refused = matches!(build(limits), Err(LimitsError::SameEndpoint(_)));
        prop_assert_eq!(refused, is_double);
    }

    #[test]
    fn a_request_is_charged_by_its_route_then_its_path_then_its_method(
        places in proptest::collection::btree_set((0..3usize, 0..4usize), 0..9),
        method in 0..3usize, route in 0..4usize, path in 0..3usize,
    ) {
        let limits = places.iter().fold(Limits::new().per_key(ALL), |limits, (method, path)| {
            let name = METHODS[*method].as_str();
            let endpoint = match PATHS.get(*path) {
                Some(path) => Endpoint::new(name, *path),
                None => Endpoint::any_path(name),
            };
            limits.add_endpoint(endpoint.cost(units(*method, *path)))
        });
        let keys = build(limits).unwrap();
        let route_of = move |_: RequestHead<'_>| PATHS.get(route).map(ToString::to_string);
        let layer = keys.layer().route_by(route_of);

        let named = if route == ANY { path } else { route };
        let is_head = METHODS[method] == Method::HEAD;
        let methods = if is_head { vec![method, GET] } else { vec![method] };
        let of = |paths: &[usize]| {
            let order = paths.iter();
            let mut order = order.flat_map(|path| methods.iter().map(move |method| (*method, *path)));
            order.find(|place| places.contains(place)).map(|(method, path)| units(method, path))
        };
        // Without an endpoint of its own method, what the dearest of the route costs, or else of
        // the path.
        let dearest = |at: usize| {
            let others = places.iter().filter(|(_, other)| *other == at && at != ANY);
            others.map(|(method, path)| units(*method, *path)).max()
        };
        let expected = of(&[named, path]).or(dearest(named)).or(dearest(path));
        let expected = expected.or(of(&[ANY])).unwrap_or(1);
        let told = cost(&keys, &layer, &METHODS[method], PATHS[path]);
        prop_assert_eq!(told, expected);
    }
}

/// Neither an endpoint of the path without limits nor one for the method alone lifts them.
#[test]
fn an_undeclared_method_is_bound_by_every_limit_of_the_path() {
    let limits = || {
        let post = Endpoint::new(Method::POST, "/v1/reports").per_account(Quota::per_hour(3));
        let delete = Endpoint::new(Method::DELETE, "/v1/reports").cost(2);
        Limits::new().add_endpoint(post).add_endpoint(delete)
    };
    for limits in [
        limits(),
        limits().add_endpoint(Endpoint::any_path(Method::PUT).cost(5)),
    ] {
        for method in [Method::PUT, Method::PATCH, Method::GET] {
            let world = World::with_limits(limits.clone());
            let mut request = to("/v1/reports", world.key());
            *request.method_mut() = method.clone();
            let admitted = (0..10).filter(|_| world.ask(&request) == 200).count();
            // Three units, at two each.
            assert_eq!(admitted, 1, "{method}");
        }
    }
}

const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];
const GET: usize = 0;
const ANY: usize = 3;
const PATHS: [&str; 3] = ["/a", "/v1/{id}", "/v1/b"];

fn units(method: usize, path: usize) -> u64 {
    (10 * method + path + 2) as u64
}

#[test]
fn axum_path_syntax_is_accepted_and_other_syntaxes_are_refused() {
    let build = |path: &str| build(Limits::new().add_cost("GET", path, 2)).map(|_| ());
    for path in [
        "/",
        "//",
        "/v1/",
        "/v1/reports/{id}",
        "/v1/{a}/{b_2}",
        "/files/{*path}",
        "/{*rest}",
        "/v1/files:copy",
        "/v1/{id}.json",
        "/v1/{{id}}",
        "/a%20b",
        "/a*b",
        "/~me",
        "/p.S/M",
    ] {
        assert_eq!(build(path), Ok(()), "{path}");
    }
    for (path, advice) in [
        ("", "begin the path with '/'"),
        ("*", "begin the path with '/'"),
        ("v1", "begin the path with '/'"),
        ("https://api.example/v1", "begin the path with '/'"),
        ("/v1/reports/:id", "write a parameter as {name}"),
        ("/files/*", "the rest of a path as {*name}"),
        ("/files/*path", "the rest of a path as {*name}"),
        ("/files/**", "the rest of a path as {*name}"),
        ("/v1/<id>", "write a parameter as {name}"),
        ("/v1/<int:id>", "write a parameter as {name}"),
        ("/v1/{id:[0-9]+}", "write a parameter as {name}"),
        ("/v1/{id:[0-9]{4}}", "write a parameter as {name}"),
        ("/v1/{path...}", "write a parameter as {name}"),
        ("/v1/{}", "write a parameter as {name}"),
        ("/v1/{*}", "write a parameter as {name}"),
        ("/v1/{*a}/b", "at the end of the path"),
        ("/v1/{id", "close each brace"),
        ("/v1/id}", "close each brace"),
        ("/v1/{a/b}", "close each brace"),
        ("/v1?page=2", "leave out the query"),
        ("/v1#top", "leave out the query"),
        ("/v1/[id]", "write a parameter as {name}"),
        ("/v1/^x$", "write a parameter as {name}"),
        ("/v1/%zz", "percent-encode"),
        ("/v1/50%", "percent-encode"),
        ("/v1/a b", "percent-encode"),
        ("/v1/книги", "percent-encode"),
    ] {
        let error = build(path).unwrap_err().to_string();
        assert!(error.contains(advice) && error.contains(path), "{error}");
    }
    for (method, advice) in [
        ("post", "upper case"),
        ("", "a method of HTTP"),
        ("GET ", "a method of HTTP"),
        ("*", "Endpoint::any"),
        ("ANY", "Endpoint::any"),
        ("any", "Endpoint::any"),
        ("GET|POST", "Endpoint::any"),
    ] {
        let error = self::build(Limits::new().add_cost(method, "/v1", 2))
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[test]
fn limits_of_a_method_only_endpoint_are_named_after_the_method() {
    let writes = Endpoint::any_path(Method::POST).per_account(Quota::per_hour(2));
    let reports = Endpoint::new(Method::POST, "/reports").per_account(Quota::per_hour(5));
    let keys = build(Limits::new().add_endpoint(writes).add_endpoint(reports)).unwrap();
    let key = at_once(keys.issue("acme")).unwrap();
    let ask = |method, path| {
        let mut request = to(path, &key);
        *request.method_mut() = method;
        answer(&keys.layer(), request)
    };
    for (path, status) in [("/a", 200), ("/b", 200), ("/c", 429), ("/reports", 200)] {
        let answer = ask(Method::POST, path);
        assert_eq!(answer.status(), status, "{path}");
        if status == 429 {
            let rejection = answer.extensions().get::<tower_api_key::Rejection>();
            let told = rejection.unwrap().to_string();
            assert!(told.contains("\"POST account_per_hour\""), "{told}");
        }
    }
    let free = ask(Method::GET, "/a");
    assert_eq!(
        (free.status(), free.headers().get("x-ratelimit-limit")),
        (200.try_into().unwrap(), None)
    );
}

proptest! {
    /// For any endpoints of the path, in any order, and also with one for a method alone.
    #[test]
    fn an_undeclared_method_is_charged_the_dearest_cost_of_the_path(
        declared in proptest::collection::vec((0..4usize, 0..20u64), 1..4),
        of_method in proptest::option::of((0..6usize, 0..20u64)),
        sent in select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "post", "FOO", "OPTIONS"]),
    ) {
        const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "FOO"];
        let costs: std::collections::BTreeMap<_, _> =
            declared.into_iter().map(|(at, units)| (METHODS[at], units)).collect();
        let mut limits = Limits::new().per_key(ALL);
        for (method, units) in &costs {
            limits = limits.add_cost(method, "/svc/Call", *units);
        }
        if let Some((at, units)) = of_method {
            limits = limits.add_endpoint(Endpoint::any_path(METHODS[at]).cost(units));
        }
        let keys = build(limits).unwrap();
        let own = |method: &str| costs.get(method).copied();
        let as_get = if sent == "HEAD" { own("GET") } else { None };
        // What is said of a method by itself is about other paths.
        let dearest = costs.values().copied().max().unwrap();
        let expected = own(sent).or(as_get).unwrap_or(dearest.max(1));
        let method = Method::from_bytes(sent.as_bytes()).unwrap();
        let taken = cost(&keys, &keys.layer(), &method, "/svc/Call");
        prop_assert_eq!(taken, expected);
    }
}

#[test]
fn an_endpoint_for_any_method_is_charged_for_every_method() {
    let call = Endpoint::any("/svc/Call").cost(7);
    let get = Endpoint::new(Method::GET, "/svc/Call").cost(3);
    let keys = build(
        Limits::new()
            .per_key(ALL)
            .add_endpoint(call)
            .add_endpoint(get),
    )
    .unwrap();
    for (method, expected) in [
        ("GET", 3),
        ("HEAD", 3),
        ("POST", 7),
        ("post", 7),
        ("FOO", 7),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(
            cost(&keys, &keys.layer(), &method, "/svc/Call"),
            expected,
            "{method}"
        );
        assert_eq!(
            cost(&keys, &keys.layer(), &method, "/svc/Other"),
            1,
            "{method}"
        );
    }
}
