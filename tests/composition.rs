//! The layer among other layers: it keeps tower's contract, and asks nothing that it need not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use support::{EchoService, READ, World, call, text, to};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_api_key::http::ResponseBody;
use tower_api_key::{ApiKeys, Caller, KeySource, Rejection, RequireScope};
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

fn with_key(key: &str) -> Request<Empty<Bytes>> {
    to("/v1", key).map(|()| Empty::new())
}

/// The service, once it is ready.
async fn readied<S>(service: &mut S) -> &mut S
where
    S: Service<Request<Empty<Bytes>>>,
    S::Error: std::fmt::Debug,
{
    service.ready().await.unwrap()
}

/// Panics if it is called without having been made ready, as tower's contract allows.
#[derive(Debug)]
struct Strict {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Strict {
    fn new() -> Self {
        Self {
            ready: false,
            calls: Arc::default(),
        }
    }
}

/// A clone has to be made ready for itself.
impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            calls: Arc::clone(&self.calls),
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        assert!(!self.ready, "made ready twice for one call");
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn the_inner_service_is_called_only_when_ready() {
    let world = World::with_named_keys();
    let inner = Strict::new();
    let calls = Arc::clone(&inner.calls);
    let mut service = world
        .keys
        .layer()
        .optional()
        .layer(RequireScope::all_of([]).layer(inner));
    let expected_calls = [
        (with_key(&world.fill("{active}")), StatusCode::OK, 1),
        (with_key(&world.fill("{typo}")), StatusCode::UNAUTHORIZED, 1),
        (
            with_key(&world.fill("{unknown}")),
            StatusCode::UNAUTHORIZED,
            1,
        ),
        (
            with_key(&world.fill("{revoked}")),
            StatusCode::UNAUTHORIZED,
            1,
        ),
        (Request::new(Empty::new()), StatusCode::UNAUTHORIZED, 1), // the scope layer wants a caller
        (with_key(&world.fill("{admin}")), StatusCode::OK, 2),
    ];
    for (request, status, so_far) in expected_calls {
        let response = readied(&mut service).await.call(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(calls.load(Ordering::SeqCst), so_far);
    }
}

#[tokio::test]
async fn the_inner_service_waits_for_the_decision() {
    let world = World::with_named_keys();
    let gate = world.store.hangs();
    let inner = Strict::new();
    let calls = Arc::clone(&inner.calls);
    let mut service = world.keys.layer().layer(inner);
    let request = with_key(&world.fill("{active}"));
    let mut future = Box::pin(readied(&mut service).await.call(request));
    assert!(futures_util::poll!(&mut future).is_pending());
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    // Meanwhile the same service takes others.
    let request = with_key(&world.fill("{typo}"));
    let refused = readied(&mut service).await.call(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);

    gate.open();
    assert_eq!(future.await.unwrap().status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn dropping_a_pending_decision_frees_the_readied_service() {
    let world = World::with_named_keys();
    let _never_opened = world.store.hangs();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(EchoService);
    let mut service = world.keys.layer().layer(inner);
    let request = with_key(&world.fill("{active}"));
    let mut future = Box::pin(readied(&mut service).await.call(request));
    assert!(futures_util::poll!(&mut future).is_pending());
    assert!(futures_util::poll!(Box::pin(readied(&mut service))).is_pending());
    drop(future);
    assert!(futures_util::poll!(Box::pin(readied(&mut service))).is_ready());
}

#[tokio::test]
async fn a_refused_request_frees_the_permit_of_the_readied_service() {
    let world = World::with_named_keys();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(EchoService);
    let layer = world.keys.layer();
    let mut service = layer.layer(RequireScope::new(READ).layer(inner));
    let refused = ["{typo}", "{unknown}", "{revoked}", "{test}", "{yearling}"];
    for key in refused {
        let mut other = service.clone();
        let request = with_key(&world.fill(key));
        let response = readied(&mut service).await.call(request).await.unwrap();
        assert!(response.status().is_client_error());
        // The one permit is free, although `service` is still there, idle.
        let free = futures_util::poll!(Box::pin(readied(&mut other)));
        assert!(free.is_ready(), "{key} keeps the permit");
    }
}

#[tokio::test]
async fn the_layer_composes_above_and_below_common_layers() {
    let world = World::with_named_keys();
    let key = world.fill("{active}");
    let over = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .buffer(8)
        .concurrency_limit(8)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(30),
        ))
        .layer(world.keys.layer())
        .service(EchoService);
    let under = ServiceBuilder::new()
        .layer(world.keys.layer())
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .buffer(8)
        .concurrency_limit(8)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(30),
        ))
        .service(EchoService);
    let over = over.oneshot(with_key(&key)).await.unwrap();
    assert_eq!(text(over).await, "acme /v1");
    let answer = under.clone().oneshot(with_key(&key)).await.unwrap();
    assert_eq!(text(answer).await, "acme /v1");
    let refused = under.oneshot(with_key("junk")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn refusals_carry_the_headers_of_an_outer_cors_layer() {
    let world = World::with_named_keys();
    let service = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(world.keys.layer())
        .service(EchoService);
    let mut request = with_key("junk");
    let origin = "https://app.example".parse().unwrap();
    request.headers_mut().insert("origin", origin);
    let refused = service.oneshot(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_stack_can_be_boxed() {
    let world = World::with_named_keys();
    let service = world.keys.layer().layer(EchoService);
    let service: BoxCloneService<Request<Empty<Bytes>>, _, _> = BoxCloneService::new(service);
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    assert_eq!(text(answer).await, "acme /v1");
}

/// A body that is neither `Send` nor `Default`.
struct Local(Rc<Cell<u32>>);

impl Body for Local {
    type Data = Bytes;
    type Error = Rc<str>;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Rc<str>>>> {
        self.0.set(self.0.get() + 1);
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn bodies_need_be_neither_send_nor_default() {
    let world = World::with_named_keys();
    let polled = Rc::new(Cell::new(0));
    let mirror = tower::service_fn(async |request: Request<Local>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let service = world.keys.layer().layer(mirror);
    let request = Request::builder()
        .header("x-api-key", world.fill("{active}"))
        .body(Local(Rc::clone(&polled)))
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert!(response.into_body().collect().await.is_ok());
    assert_eq!(polled.get(), 1);
}

#[test]
fn the_response_body_is_default_if_the_inner_body_is() {
    let body = ResponseBody::<Empty<Bytes>>::default();
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn nested_layers_of_the_same_keys_judge_once_and_both_apply() {
    let world = World::with_named_keys();
    let outer = world.keys.layer();
    let service = outer.layer(world.keys.layer().layer(EchoService));
    let answer = call(service, with_key(&world.fill("{expiring}"))).await;
    assert_eq!(answer.headers().get_all("x-key-status").iter().count(), 1);
    assert_eq!(text(answer).await, "globex /v1");

    // What the inner layer asks for beyond the outer one still holds.
    let outer = world.keys.layer().dangerous_any_environment();
    let service = outer.layer(world.keys.layer().layer(EchoService));
    let answer = call(service.clone(), with_key(&world.fill("{test}"))).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let reason = answer.extensions().get::<Rejection>().unwrap();
    assert_eq!(reason.code(), "wrong_environment");

    // A key that the outer layer leaves in the request is taken out by the inner one; another key
    // there is a second one.
    let outer = world.keys.layer().sources([KeySource::x_api_key()]);
    let kept = outer.clone().dangerous_keep_credential();
    let service = kept.layer(world.keys.layer().layer(EchoService));
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    assert_eq!(text(answer).await, "acme /v1");
    let service = outer.layer(world.keys.layer().layer(EchoService));
    let mut two = with_key(&world.fill("{active}"));
    let revoked = world.fill("Bearer {revoked}").parse().unwrap();
    two.headers_mut().insert("authorization", revoked);
    assert_eq!(call(service, two).await.status(), StatusCode::BAD_REQUEST);

    // Time goes on between the two.
    let clock = world.clock.clone();
    let service = ServiceBuilder::new()
        .layer(world.keys.layer())
        .map_request(move |request: Request<Empty<Bytes>>| {
            clock.advance(10 * support::DAY);
            request
        })
        .layer(world.keys.layer())
        .service(EchoService);
    let answer = call(service, with_key(&world.fill("{expiring}"))).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    world.clock.set(support::today());

    // An outer layer that lets strangers through speaks for nobody.
    let outer = world.keys.layer().optional();
    let service = outer.layer(world.keys.layer().layer(EchoService));
    let answer = call(service.clone(), Request::new(Empty::<Bytes>::new())).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    assert_eq!(text(answer).await, "acme /v1");
}

#[tokio::test]
async fn an_outer_layer_of_other_keys_does_not_authenticate_the_caller() {
    let world = World::with_named_keys();
    let other = ApiKeys::in_memory();
    let key = other.issue("somebody").await.unwrap();
    let service = other.layer().layer(world.keys.layer().layer(EchoService));
    let answer = call(service, with_key(key.expose_secret())).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);

    // Nor where these are optional: whoever comes without one of them is nobody here.
    let optional = world.keys.layer().optional().layer(EchoService);
    let service = other.layer().layer(optional);
    let answer = call(service, with_key(key.expose_secret())).await;
    assert_eq!(text(answer).await, "nobody /v1");
}

#[tokio::test]
async fn a_missing_layer_is_a_500_that_names_the_mistake() {
    let service = RequireScope::new(READ).layer(EchoService);
    let answer = call(service, with_key("anything")).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(answer).await.contains("ApiKeys::layer()"));

    let request = with_key("anything");
    let rejection = Caller::of(request.extensions()).unwrap_err();
    assert_eq!(rejection, Rejection::LayerMissing);
}

#[tokio::test]
async fn the_rejection_is_in_the_response_extensions() {
    use tower_api_key::http::NotFound;
    let world = World::with_named_keys();
    let service = world
        .keys
        .layer()
        .layer(RequireScope::new(READ).layer(EchoService));
    for (key, reason) in [
        ("{typo}", Rejection::NotFound(NotFound::Malformed)),
        ("{unknown}", Rejection::NotFound(NotFound::Unknown)),
        ("{revoked}", Rejection::Revoked),
    ] {
        let answer = call(service.clone(), with_key(&world.fill(key))).await;
        assert_eq!(answer.extensions().get(), Some(&reason));
    }
    let answer = call(service, with_key(&world.fill("{yearling}"))).await;
    let reason = answer.extensions().get::<Rejection>().unwrap();
    assert_eq!(reason.code(), "insufficient_scope");
}

#[tokio::test]
async fn headers_that_inner_layers_add_to_a_refusal_are_kept() {
    let world = World::with_named_keys();
    let service = ServiceBuilder::new()
        .layer(world.keys.layer())
        .map_response(|mut response: Response<_>| {
            let id = "42".parse().unwrap();
            response.headers_mut().insert("x-request-id", id);
            response
        })
        .layer(RequireScope::new(support::WRITE))
        .service(EchoService);
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["x-request-id"], "42");
    assert_eq!(answer.headers()["content-type"], "application/json");
}

#[tokio::test]
async fn headers_that_describe_a_replaced_body_are_removed() {
    let world = World::with_named_keys();
    let service = ServiceBuilder::new()
        .layer(world.keys.layer())
        .map_response(|mut response: Response<_>| {
            for name in [
                "content-encoding",
                "etag",
                "content-digest",
                "content-range",
            ] {
                let name = http::HeaderName::from_static(name);
                response.headers_mut().insert(name, "x".parse().unwrap());
            }
            response
        })
        .layer(RequireScope::new(support::WRITE))
        .service(EchoService);
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    let mut names: Vec<_> = answer
        .headers()
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    names.sort_unstable();
    let left = [
        "cache-control",
        "content-type",
        "vary",
        "www-authenticate",
        "x-key-status",
    ];
    assert_eq!(names, left);
}

#[tokio::test]
async fn a_refusal_rewritten_by_a_middle_layer_is_left_alone() {
    let world = World::with_named_keys();
    let service = ServiceBuilder::new()
        .layer(world.keys.layer())
        .map_response(|mut response: Response<_>| {
            *response.status_mut() = StatusCode::NOT_FOUND; // to hide that there is something
            response
        })
        .layer(RequireScope::new(support::WRITE))
        .service(EchoService);
    let answer = call(service, with_key(&world.fill("{active}"))).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refusal_of_head_has_a_content_length_and_no_body() {
    let world = World::with_named_keys();
    let layer = world.keys.layer();
    let service = layer.layer(RequireScope::new(support::WRITE).layer(EchoService));
    for key in ["{typo}", "{active}"] {
        let mut request = with_key(&world.fill(key));
        let answer = call(service.clone(), request).await;
        let whole = text(answer).await.len().to_string();
        request = with_key(&world.fill(key));
        *request.method_mut() = http::Method::HEAD;
        let answer = call(service.clone(), request).await;
        assert_eq!(answer.headers()["content-length"], whole.as_str());
        assert!(answer.body().is_end_stream());
    }
}

#[tokio::test]
async fn deprecation_and_cache_headers_of_the_service_are_kept() {
    let world = World::with_named_keys();
    let service = world
        .keys
        .layer()
        .layer(tower::service_fn(async |_: Request<Empty<Bytes>>| {
            let response = Response::builder()
                .header("deprecation", "@1")
                .header("sunset", "Thu, 01 Jan 2026 00:00:00 GMT")
                .header("cache-control", "max-age=60")
                .header("vary", "Accept, x-api-key");
            Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
        }));
    let answer = call(service, with_key(&world.fill("{expiring}"))).await;
    assert_eq!(answer.headers()["deprecation"], "@1");
    assert_eq!(answer.headers()["sunset"], "Thu, 01 Jan 2026 00:00:00 GMT");
    assert_eq!(answer.headers()["cache-control"], "max-age=60");
    assert_eq!(answer.headers().get_all("vary").iter().count(), 1);
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_passed_through() {
    let world = World::with_named_keys();
    let inner = tower::service_fn(async |_: Request<Empty<Bytes>>| {
        Err::<Response<Empty<Bytes>>, _>("broken")
    });
    let service = world.keys.layer().layer(inner);
    let error = service.oneshot(with_key(&world.fill("{active}"))).await;
    assert_eq!(error.unwrap_err(), "broken");
}

#[cfg(feature = "axum")]
mod axum {
    use ::axum::Router;
    use ::axum::routing::get;
    use tower_api_key::{Caller, Rejection};

    use super::*;

    #[tokio::test]
    async fn the_caller_is_an_extractor_and_a_rejection_a_response() {
        let world = World::with_named_keys();
        let strict = async |caller: Caller| -> Result<String, Rejection> {
            caller.require(&READ)?;
            Ok(caller.account().to_owned())
        };
        let lenient = async |caller: Option<Caller>| match caller {
            Some(caller) => caller.account().to_owned(),
            None => "nobody".to_owned(),
        };
        let app = Router::new()
            .route("/v1", get(strict))
            .route("/maybe", get(lenient));
        let answer = |app: Router, path: &'static str, key: Option<String>| async move {
            let mut request = Request::builder().uri(path);
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let request = request.body(::axum::body::Body::empty()).unwrap();
            let response = app.oneshot(request).await.unwrap();
            (response.status().as_u16(), text(response).await)
        };
        let behind = app.clone().layer(world.keys.layer().optional());
        let key = |name| Some(world.fill(name));
        let ok = |text: &str| (200, text.to_owned());
        assert_eq!(
            answer(behind.clone(), "/v1", key("{active}")).await,
            ok("acme")
        );
        assert_eq!(
            answer(behind.clone(), "/maybe", key("{active}")).await,
            ok("acme")
        );
        assert_eq!(answer(behind.clone(), "/maybe", None).await, ok("nobody"));
        assert_eq!(answer(behind.clone(), "/v1", None).await.0, 401);
        let (status, body) = answer(behind, "/v1", key("{yearling}")).await;
        assert_eq!(status, 403);
        assert!(
            body.contains(r#""required_scopes":["reports:read"]"#),
            "{body}"
        );
        assert_eq!(answer(app.clone(), "/v1", None).await.0, 500);
        assert_eq!(answer(app, "/maybe", None).await.0, 500);
    }

    #[tokio::test]
    async fn a_rejection_from_a_handler_is_written_in_the_layers_format() {
        let world = World::with_named_keys();
        let handler = async |caller: Caller| caller.require(&support::WRITE);
        let layer = world
            .keys
            .layer()
            .realm("Acme")
            .unwrap()
            .errors(tower_api_key::http::ErrorFormat::problem_details());
        let app = Router::new().route("/v1", get(handler)).layer(layer);
        let request = with_key(&world.fill("{active}")).map(|_| ::axum::body::Body::empty());
        let answer = app.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        let headers = answer.headers();
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers.get_all("content-type").iter().count(), 1);
        assert_eq!(headers.get_all("www-authenticate").iter().count(), 1);
        let challenge = headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with(r#"Bearer realm="Acme", error="insufficient_scope""#));
        assert_eq!(headers["x-key-status"], "active");
    }
}
