//! What the suites share: a world of keys on a clock that stands still, a store and a limiter that
//! do as they are told, real servers, and a client that sends exactly what it is told to.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each suite uses its part"
)]

pub mod process;
#[path = "../../benches/support/random.rs"]
pub mod random;
pub mod records;
pub mod testkit;
pub mod trouble;
pub mod wire;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode};
use tower::{Layer, Service};
use tower_api_key::http::ResponseBody;
use tower_api_key::{ApiKeyLayer, Scope};

pub use records::{
    Down, change_in, create_in, creates, imported, revoke_in, stranger, strangers, updates,
};
pub use testkit::{Sent, World, from, to, with_key, world};
pub use wire::{Answer, EchoService, Echoing, echo, send, serve, serve_axum, serve_hyper};

pub const READ: Scope = Scope::from_static("reports:read");
pub const WRITE: Scope = Scope::from_static("reports:write");
pub const DAY: Duration = Duration::from_secs(86_400);

/// Where the clock stands: 2026-01-01T00:00:00Z.
pub fn today() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// A text with every byte percent-encoded.
pub fn percent_encoded(text: &[u8]) -> String {
    text.iter().fold(String::new(), |mut encoded, byte| {
        use std::fmt::Write;
        write!(encoded, "%{byte:02X}").unwrap();
        encoded
    })
}

/// The echo service behind a layer, in this process.
pub fn echoing<L>(layer: &L) -> L::Service
where
    L: Layer<EchoService>,
{
    layer.layer(EchoService)
}

/// Calls a service in this process, which must answer without waiting.
pub async fn call<S, B, R>(service: S, request: Request<B>) -> Response<R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: std::fmt::Debug,
{
    use tower::ServiceExt;
    service.oneshot(request).await.unwrap()
}

/// The answer of a layer in this process.
pub type Answered = Response<ResponseBody<Full<Bytes>>>;

/// A request on its way through a layer, in this process.
pub type Asking = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// Sends a request to the echo service behind a layer; it sets out when it is first polled.
pub fn asking(layer: &ApiKeyLayer, request: Request<()>) -> Asking {
    Box::pin(call(echoing(layer), request))
}

/// The answer of the echo service behind a layer, which must not be waited for.
pub fn answer(layer: &ApiKeyLayer, request: Request<()>) -> Answered {
    at_once(asking(layer, request))
}

/// The status of such an answer, and its text.
pub fn status_and_text(layer: &ApiKeyLayer, request: Request<()>) -> (StatusCode, String) {
    let answer = answer(layer, request);
    (answer.status(), at_once(text(answer)))
}

/// The text of a body.
pub async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The JSON of a body.
pub async fn json<B>(response: Response<B>) -> serde_json::Value
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    serde_json::from_str(&text(response).await).unwrap()
}

/// What is left of each limit, as the field `RateLimit` says it.
pub fn left(field: &str) -> Vec<u64> {
    let left = |item: &str| {
        let left = item.split(';').find_map(|part| part.strip_prefix("r="));
        left.unwrap().parse().unwrap()
    };
    let items = field.split(", ").filter(|item| !item.is_empty());
    items.map(left).collect()
}

/// Headers, as an [`Answer`] has them.
pub fn sorted_headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut headers: Vec<_> = pairs.iter().map(owned).collect();
    headers.sort();
    headers
}

/// The output of a future that must not be waited for.
pub fn at_once<F: IntoFuture>(future: F) -> F::Output {
    let output = future.into_future().now_or_never();
    output.expect("an answer at once")
}

/// Lets a future go on as far as it can, which is not to its end.
pub fn is_waiting<F: Future + Unpin>(future: &mut F) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(future).poll(&mut cx).is_pending()
}

/// Runs a future to its end on a small runtime, for property tests.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().unwrap().block_on(future)
}
