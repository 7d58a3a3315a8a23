//! API keys in front of a plain hyper server, without a framework.
//!
//! `cargo run --example hyper`, then `curl -i http://127.0.0.1:3000/ -H 'X-API-Key: KEY'`.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_api_key::http::PeerAddr;
use tower_api_key::key::AllowedNetworks;
use tower_api_key::{ApiKeys, Caller};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = ApiKeys::in_memory();
    let key = keys
        .issue("acme")
        .networks(AllowedNetworks::only(["127.0.0.0/8"])?)
        .await?;
    println!("active      {}", key.expose_secret());

    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);

    loop {
        let (connection, peer) = listener.accept().await?;
        let service = ServiceBuilder::new()
            // hyper does not tell who connected; allow-lists of networks need to know.
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            })
            .layer(keys.layer())
            .service_fn(hello);
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let io = TokioIo::new(connection);
            if let Err(error) = server
                .serve_connection(io, TowerToHyperService::new(service))
                .await
            {
                eprintln!("connection from {peer}: {error}");
            }
        });
    }
}

async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Behind the layer there always is a caller; without it, the answer would name the mistake.
    Ok(match Caller::of(request.extensions()) {
        Ok(caller) => Response::new(Full::from(format!("hello, {}\n", caller.account()))),
        Err(rejection) => rejection.to_response(),
    })
}
