//! The client of webhooks over real sockets: good receivers, bad ones, and names that lead
//! elsewhere.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "this is a program")]

mod addresses;
mod answers;
mod proxies;
mod receiver;
mod resolvers;
mod tls;
mod trouble;

use std::time::{Duration, SystemTime};

use standardwebhooks::Webhook;
use tower_api_key::webhook::{
    HttpsClient, SendErrorKind, WebhookClient, WebhookRequest, WebhookResponse, WebhookSecret,
};

use receiver::{Received, Receiver};

const ID: &str = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";
const BODY: &str = r#"{"type":"api_key.expiring","data":{"name":"Grüße"}}"#;
/// The shortest limit of a client.
const SECOND: Duration = Duration::from_secs(1);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn secret(byte: u8) -> WebhookSecret {
    WebhookSecret::new(&[byte; 32]).unwrap()
}

/// A request that is signed now.
fn request(url: &str) -> WebhookRequest {
    let (url, id) = (url.parse().unwrap(), ID.parse().unwrap());
    WebhookRequest::new(url, &id, SystemTime::now(), BODY, &secret(1))
}

/// A client that may send to receivers of this machine, at once.
fn local(ports: impl IntoIterator<Item = u16>) -> HttpsClient {
    HttpsClient::new()
        .allow_ports(ports)
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .time_limit(SECOND)
}

/// Sends a request to a receiver of this machine.
async fn send_to(receiver: &Receiver) -> Result<WebhookResponse, SendErrorKind> {
    send(&local([receiver.port]), &receiver.url()).await
}

async fn send(client: &HttpsClient, url: &str) -> Result<WebhookResponse, SendErrorKind> {
    let sent = client.send(request(url)).await;
    sent.map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains("s3cret"), "{text}");
        error.kind()
    })
}

/// Verifies a request as a receiver does, with an implementation that is not ours.
fn is_signed(received: &Received, secret: &WebhookSecret) -> bool {
    let webhook = Webhook::new(&secret.expose_secret()).unwrap();
    webhook.verify(&received.body, &received.headers).is_ok()
}
