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
use support::{EchoService, READ, World, call};
use tokio::sync::Semaphore;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_api_key::http::ResponseBody;
use tower_api_key::store::StoreError;
use tower_api_key::{
    ApiKeys, Caller, KeyId, KeyRecord, KeySource, KeyStore, Rejection, RequireScope,
};
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

fn with_key(key: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder().uri("/v1").header("x-api-key", key);
    request.body(Empty::new()).unwrap()
}

/// The service, once it is ready.
async fn readied<S>(service: &mut S) -> &mut S
where
    S: Service<Request<Empty<Bytes>>>,
    S::Error: std::fmt::Debug,
{
    service.ready().await.unwrap()
}

async fn text<B: Body<Data = Bytes>>(response: Response<B>) -> String
where
    B::Error: std::fmt::Debug,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
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
async fn the_inner_service_is_called_ready_or_not_at_all() {
    let world = World::new().await;
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

/// A store that does not answer before it is told to.
struct Slow {
    store: tower_api_key::MemoryStore,
    gate: Arc<Semaphore>,
}

impl KeyStore for Slow {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let _permit = self.gate.acquire().await.map_err(StoreError::unavailable)?;
        self.store.find(id).await
    }
}

#[tokio::test]
async fn the_inner_service_waits_for_the_decision() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let store = Slow {
        store: world.store.clone(),
        gate: Arc::clone(&gate),
    };
    let inner = Strict::new();
    let calls = Arc::clone(&inner.calls);
    let keys = ApiKeys::read_only(store)
        .clock(world.clock.clone())
        .build()
        .unwrap();
    let mut service = keys.layer().layer(inner);
    let request = with_key(&world.fill("{active}"));
    let mut future = Box::pin(readied(&mut service).await.call(request));
    assert!(futures_util::poll!(&mut future).is_pending());
    assert_eq!(calls.load(Ordering::SeqCst), 0);

    // Meanwhile the same service takes others.
    let request = with_key(&world.fill("{typo}"));
    let refused = readied(&mut service).await.call(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);

    gate.add_permits(1);
    assert_eq!(future.await.unwrap().status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_decision_that_is_dropped_reaches_nothing() {
    let world = World::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let store = Slow {
        store: world.store.clone(),
        gate: Arc::clone(&gate),
    };
    let keys = ApiKeys::read_only(store).build().unwrap();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(EchoService);
    let mut service = keys.layer().layer(inner);
    let request = with_key(&world.fill("{active}"));
    let mut future = Box::pin(readied(&mut service).await.call(request));
    assert!(futures_util::poll!(&mut future).is_pending());
    assert!(futures_util::poll!(Box::pin(readied(&mut service))).is_pending());
    drop(future);
    assert!(futures_util::poll!(Box::pin(readied(&mut service))).is_ready());
}

#[tokio::test]
async fn a_refused_request_frees_the_permit_of_the_readied_service() {
    let world = World::new().await;
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
async fn it_works_under_and_over_the_layers_that_people_use() {
    let world = World::new().await;
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
async fn refusals_carry_the_headers_of_a_cors_layer_outside() {
    let world = World::new().await;
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
    let world = World::new().await;
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
    let world = World::new().await;
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
fn the_answers_body_has_a_default_where_the_inner_one_has() {
    let body = ResponseBody::<Empty<Bytes>>::default();
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn the_same_keys_twice_are_judged_once_and_asked_for_all() {
    let world = World::new().await;
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
async fn other_keys_do_not_speak_for_these() {
    let world = World::new().await;
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
async fn without_the_layer_the_answer_names_the_mistake() {
    let service = RequireScope::new(READ).layer(EchoService);
    let answer = call(service, with_key("anything")).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(answer).await.contains("ApiKeys::layer()"));

    let request = with_key("anything");
    let rejection = Caller::of(request.extensions()).unwrap_err();
    assert_eq!(rejection, Rejection::LayerMissing);
}

#[tokio::test]
async fn the_reason_is_in_the_extensions_of_the_answer() {
    use tower_api_key::http::NotFound;
    let world = World::new().await;
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
    let world = World::new().await;
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
async fn what_describes_a_replaced_body_goes_with_it() {
    let world = World::new().await;
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
async fn an_answer_that_a_layer_in_between_made_its_own_is_left_alone() {
    let world = World::new().await;
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
async fn an_answer_to_head_has_no_body_and_tells_its_length() {
    let world = World::new().await;
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
async fn what_the_service_says_of_its_own_end_is_left_alone() {
    let world = World::new().await;
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
async fn an_error_of_the_inner_service_is_its_own() {
    let world = World::new().await;
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
        let world = World::new().await;
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
    async fn a_rejection_of_a_handler_is_written_as_those_of_the_layer() {
        let world = World::new().await;
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
