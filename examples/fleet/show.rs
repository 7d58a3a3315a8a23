//! The demonstration: a limit that all servers share, and a revocation that reaches all of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_api_key::IssuedKey;

use crate::{Error, Node};

/// The requests of each server's client.
const REQUESTS: usize = 800;

pub(crate) async fn show(
    fleet: &[Node],
    active: &IssuedKey,
    exact: &IssuedKey,
) -> Result<(), Error> {
    show_limit(fleet, exact).await?;
    show_revocation(fleet, active).await
}

/// Sends more requests than the limit allows, to all servers at once.
async fn show_limit(fleet: &[Node], exact: &IssuedKey) -> Result<(), Error> {
    println!("\n1,000 requests per minute, on {} servers:", fleet.len());
    let requests = REQUESTS.max(1_500 / fleet.len());
    let begun = Instant::now();
    let clients = fleet.iter().map(|node| {
        let (address, key) = (node.address, exact.expose_secret().to_owned());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await?;
            let mut admitted = 0;
            for _ in 0..requests {
                admitted += usize::from(client.status(&key).await? == 200);
            }
            Ok::<_, Error>(admitted)
        })
    });
    let mut sum = 0;
    for (client, node) in clients.collect::<Vec<_>>().into_iter().zip(fleet) {
        let admitted = client.await??;
        sum += admitted;
        println!(
            "  {} admitted {admitted:>4} of {requests} requests",
            node.address
        );
    }
    println!("  together {sum}, in {:.1?}", begun.elapsed());
    if sum != 1_000 {
        return Err(format!("{sum} requests were admitted, not 1,000").into());
    }
    Ok(())
}

/// Revokes a key on one server, and measures when the others refuse it.
async fn show_revocation(fleet: &[Node], active: &IssuedKey) -> Result<(), Error> {
    println!(
        "\na key that all servers have cached is revoked on {}:",
        fleet[0].address
    );
    let mut clients = Vec::new();
    for node in fleet {
        let mut client = Client::connect(node.address).await?;
        let status = client.status(active.expose_secret()).await?;
        if status != 200 {
            return Err(format!("the key is refused with {status} before").into());
        }
        clients.push(client);
    }
    let path = format!("/admin/revoke/{}", active.id());
    let begun = Instant::now();
    let status = Client::connect(fleet[0].address).await?.post(&path).await?;
    if status != 200 {
        return Err(format!("the revocation failed with {status}").into());
    }
    println!("  the revocation took {:.1?}", begun.elapsed());
    let begun = Instant::now();
    for (client, node) in clients.iter_mut().zip(fleet) {
        while client.status(active.expose_secret()).await? == 200 {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} still admits the key", node.address).into());
            }
        }
        println!(
            "  {} refuses it {:.1?} later",
            node.address,
            begun.elapsed()
        );
    }
    Ok(())
}

/// A connection to a server.
struct Client(http1::SendRequest<Body>);

impl Client {
    async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        let (client, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// Returns the status of a request with a key.
    async fn status(&mut self, key: &str) -> Result<u16, Error> {
        let request = Request::get("/v1/whoami").header("host", "fleet");
        self.send(request.header("x-api-key", key).body(Body::empty())?)
            .await
    }

    async fn post(&mut self, path: &str) -> Result<u16, Error> {
        let request = Request::post(path).header("host", "fleet");
        self.send(request.body(Body::empty())?).await
    }

    async fn send(&mut self, request: Request<Body>) -> Result<u16, Error> {
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?;
        let status = answer.status().as_u16();
        axum::body::to_bytes(Body::new(answer.into_body()), 1 << 20).await?;
        Ok(status)
    }
}
