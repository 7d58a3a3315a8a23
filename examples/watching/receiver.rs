//! The receiver of the key's owner, which prints what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tower_api_key::clock::ManualClock;

use crate::Error;

/// The longest wait for a webhook.
const PATIENCE: usize = 600;

/// The events that have arrived, verified.
pub(crate) struct Arrivals {
    events: mpsc::UnboundedReceiver<Value>,
    secret: watch::Sender<String>,
    pub(crate) address: SocketAddr,
}

#[derive(Clone)]
struct Receiver {
    events: mpsc::UnboundedSender<Value>,
    secret: watch::Receiver<String>,
}

impl Arrivals {
    /// Serves on a free port.
    pub(crate) async fn serve() -> Result<Self, Error> {
        let (sender, events) = mpsc::unbounded_channel();
        let (secret, of_receiver) = watch::channel(String::new());
        let receiver = Receiver {
            events: sender,
            secret: of_receiver,
        };
        let app = Router::new()
            .route("/alarm", post(receive))
            .with_state(receiver);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            events,
            secret,
            address,
        })
    }

    /// Sets the secret that verifies what arrives.
    pub(crate) fn trust(&self, secret: &str) {
        self.secret.send_replace(secret.to_owned());
    }

    /// Waits for an event of a kind. The worker waits on the clock that is moved by hand.
    pub(crate) async fn of_kind(
        &mut self,
        kind: &str,
        clock: &ManualClock,
    ) -> Result<Value, Error> {
        for step in 0..PATIENCE {
            if step % 20 == 0 {
                clock.advance(Duration::from_secs(1));
            }
            let wait = tokio::time::timeout(Duration::from_millis(20), self.events.recv());
            if let Ok(Some(event)) = wait.await
                && event["type"] == kind
            {
                println!("    webhook: {kind}");
                return Ok(event);
            }
        }
        Err(format!("no webhook {kind}").into())
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let secret = receiver.secret.borrow().clone();
    let verified = Webhook::new(&secret).and_then(|secret| secret.verify(&body, &headers));
    if verified.is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let event = serde_json::from_slice(&body).unwrap_or_default();
    let _ = receiver.events.send(event);
    StatusCode::NO_CONTENT
}
