//! What the suites share: keys of every kind on a clock that stands still, real servers, and a
//! client that sends exactly what it is told to.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each suite uses its part"
)]

pub mod trouble;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::{ApiKeyService, PeerAddr, ResponseBody};
use tower_api_key::key::AllowedNetworks;
use tower_api_key::store::{Action, Actor, Change, StoreError};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Caller, Environment, KeyRecord, KeyStore, MemoryStore, Scope,
};

pub const READ: Scope = Scope::from_static("reports:read");
pub const WRITE: Scope = Scope::from_static("reports:write");
pub const DAY: Duration = Duration::from_hours(24);

/// Where the clock stands: 2026-01-01T00:00:00Z.
pub fn today() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// A change that creates a record.
pub fn creates(record: KeyRecord) -> Change {
    let change = Change::new(Actor::default(), today());
    change.create(Action::IMPORTED, record).unwrap()
}

/// A change that updates the version before that of a record.
pub fn updates(record: KeyRecord) -> Change {
    let seen = record.clone().with_version(record.version() - 1);
    let change = Change::new(Actor::default(), today());
    change.update(Action::UPDATED, &seen, record).unwrap()
}

/// One key of each kind, by name, and what knows them.
pub struct World {
    pub keys: ApiKeys,
    pub store: MemoryStore,
    pub clock: ManualClock,
    pub plaintexts: BTreeMap<&'static str, String>,
}

impl World {
    pub async fn new() -> Self {
        let store = MemoryStore::new();
        let clock = ManualClock::at(today() - 355 * DAY);
        let keys = ApiKeys::builder(store.clone())
            .clock(clock.clone())
            .build()
            .unwrap();
        let mut plaintexts = BTreeMap::new();
        let mut add = |name, key: tower_api_key::IssuedKey| {
            plaintexts.insert(name, key.expose_secret().to_owned());
        };

        // Last year…
        let year = keys.issue("globex").scopes([READ]).expires_in(365 * DAY);
        add("expiring", year.await.unwrap());
        let quarter = keys.issue("initech").expires_in(90 * DAY);
        add("expired", quarter.await.unwrap());

        // …and today.
        clock.set(today());
        let active = keys.issue("acme").organization("Acme Inc.").scopes([READ]);
        add("active", active.await.unwrap());
        let yearling = keys.issue("acme").expires_in(365 * DAY);
        add("yearling", yearling.await.unwrap());
        let admin = keys.issue("acme").scopes([READ, WRITE]);
        add("admin", admin.await.unwrap());
        let revoked = keys.issue("hooli").expires_in(10 * DAY).await.unwrap();
        keys.revoke(revoked.id()).reason("leaked").await.unwrap();
        add("revoked", revoked);
        let suspended = keys.issue("umbrella").await.unwrap();
        keys.suspend(suspended.id()).await.unwrap();
        add("suspended", suspended);
        let early = keys.issue("acme").not_before(today() + DAY);
        add("early", early.await.unwrap());
        let test = keys.issue("acme").environment(Environment::TEST);
        add("test", test.await.unwrap());
        let here = AllowedNetworks::only(["127.0.0.0/8"]).unwrap();
        add("here", keys.issue("acme").networks(here).await.unwrap());
        let there = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
        add("there", keys.issue("acme").networks(there).await.unwrap());

        // Keys that were never issued here: another world's, and texts that are no keys.
        let stranger = ApiKeys::in_memory().issue("nobody").await.unwrap();
        plaintexts.insert("unknown", stranger.expose_secret().to_owned());
        let good = plaintexts["active"].clone();
        plaintexts.insert("truncated", good[..good.len() - 1].to_owned());
        let last = if good.ends_with('A') { "B" } else { "A" };
        plaintexts.insert("typo", format!("{}{last}", &good[..good.len() - 1]));
        plaintexts.insert("junk", "sk_live_junk".to_owned());
        plaintexts.insert(
            "jwt",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln".to_owned(),
        );
        Self {
            keys,
            store,
            clock,
            plaintexts,
        }
    }

    /// Replaces `{name}` by the key of that name, and `{basic:name}` by its Basic credentials.
    pub fn fill(&self, template: &str) -> String {
        use base64::Engine;
        let mut text = template.to_owned();
        for (name, key) in &self.plaintexts {
            let basic = |password: &str| {
                base64::engine::general_purpose::STANDARD.encode(format!("{key}:{password}"))
            };
            text = text.replace(&format!("{{{name}}}"), key);
            text = text.replace(&format!("{{basic:{name}}}"), &basic(""));
            text = text.replace(&format!("{{basic-with-password:{name}}}"), &basic("secret"));
            text = text.replace(&format!("{{basic-in-both:{name}}}"), &basic(key));
            let token =
                base64::engine::general_purpose::STANDARD.encode(format!("__token__:{key}"));
            text = text.replace(&format!("{{basic-as-password:{name}}}"), &token);
        }
        assert!(!text.contains('{'), "no such key: {text}");
        text
    }
}

/// A store that is down.
pub struct Down;

impl KeyStore for Down {
    async fn find(&self, _: &tower_api_key::KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
}

/// An inner service that answers with what it saw of the request.
pub fn echo<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let caller = Caller::of(request.extensions());
    let account = caller.map_or("nobody", Caller::account);
    let mut seen = format!("{account} {}", request.uri());
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        assert_eq!(
            original.0.query(),
            request.uri().query(),
            "OriginalUri keeps the key"
        );
    }
    for name in ["authorization", "x-api-key", "x-acme-api-key"] {
        for value in request.headers().get_all(name) {
            let mark = if value.is_sensitive() {
                "sensitive "
            } else {
                ""
            };
            let value = value.to_str().unwrap_or("?");
            seen.extend([" ", mark, name, "=", value]);
        }
    }
    Response::new(Full::from(seen))
}

/// Serves with axum, on a free port.
pub async fn serve_axum(app: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Serves with plain hyper, HTTP/1 and HTTP/2, on a free port.
pub async fn serve_hyper<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, peer)) = listener.accept().await {
            let service = WithPeer(service.clone(), peer);
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service);
                let _ = server
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    });
    address
}

/// hyper does not tell who connected.
#[derive(Clone)]
struct WithPeer<S>(S, SocketAddr);

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for WithPeer<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(PeerAddr(self.1));
        self.0.call(request)
    }
}

/// An answer, as it came over the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Sorted; without `date` and `content-length`.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Sends one request over a connection of its own.
pub async fn send(address: SocketAddr, request: Request<()>) -> Answer {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .unwrap();
    tokio::spawn(driver);
    let mut request = request.map(|()| Empty::<Bytes>::new());
    let host = address.to_string().parse().unwrap();
    request.headers_mut().insert("host", host);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .filter(|(name, _)| name != "date" && name != "content-length")
        .collect();
    headers.sort();
    Answer {
        status: parts.status.as_u16(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A text with every byte percent-encoded.
pub fn percent_encoded(text: &[u8]) -> String {
    text.iter().fold(String::new(), |mut encoded, byte| {
        use std::fmt::Write;
        write!(encoded, "%{byte:02X}").unwrap();
        encoded
    })
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

/// The echo service behind a layer, in this process.
pub fn echoing<L>(layer: &L) -> L::Service
where
    L: Layer<EchoService>,
{
    layer.layer(EchoService)
}

/// A request on its way through a layer, in this process.
pub type Asking = Pin<Box<dyn Future<Output = Response<ResponseBody<Full<Bytes>>>> + Send>>;

/// Sends a request to the echo service behind a layer; it sets out when it is first polled.
pub fn asking(layer: &ApiKeyLayer, request: Request<()>) -> Asking {
    Box::pin(call(echoing(layer), request))
}

/// A request with a key.
pub fn with_key(key: &str) -> Request<()> {
    let request = Request::builder().header("x-api-key", key);
    request.body(()).unwrap()
}

/// Lets a future go on as far as it can, which is not to its end.
pub fn is_waiting<F: Future + Unpin>(future: &mut F) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(future).poll(&mut cx).is_pending()
}

/// [`echo`] as a service that is at once ready.
#[derive(Clone, Debug)]
pub struct EchoService;

impl<B> Service<Request<B>> for EchoService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        std::future::ready(Ok(echo(&request)))
    }
}

pub type Echoing = ApiKeyService<EchoService>;

/// Runs a future to its end on a small runtime, for property tests.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
