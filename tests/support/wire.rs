//! Real servers, and a client that sends exactly what it is told to.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service};
use tower_api_key::http::{ApiKeyService, PeerAddr};
use tower_api_key::{ApiKeyLayer, Caller};

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

/// [`echo`] as a service that is at once ready.
#[derive(Clone, Debug)]
pub struct EchoService;

impl<B> Service<Request<B>> for EchoService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(echo(&request)))
    }
}

pub type Echoing = ApiKeyService<EchoService>;

/// Serves with axum, on a free port.
pub async fn serve_axum(app: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Serves the echo service behind a layer, on plain hyper.
pub async fn serve(layer: ApiKeyLayer) -> SocketAddr {
    serve_hyper(layer.layer(EchoService)).await
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

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
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

impl Answer {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code of a refusal.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
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
