//! Signed webhooks ([Standard Webhooks] 1.0.0), and a client that is safe to point at addresses of
//! strangers.
//!
//! - [`Webhooks`] sends events to the [endpoints](crate::ApiKeys::endpoints) of accounts. It derives
//!   the [`WebhookSecret`] of each endpoint from [`WebhookMasters`]. No secret is stored.
//! - [`WebhookRequest`] is a signed message to a [`WebhookUrl`].
//! - [`WebhookClient`] is the port to the network. [`HttpsClient`] implements it: it connects to
//!   public addresses only, and gives up after a time limit.
//!
//! Receivers verify requests with a library of the standard, in any language.
//!
//! A message of your own, with a secret of your own:
//!
//! ```no_run
//! use std::time::SystemTime;
//! use tower_api_key::webhook::{HttpsClient, WebhookClient, WebhookRequest, WebhookSecret};
//!
//! # async fn deliver(from_a_secret_store: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let secret = WebhookSecret::new(from_a_secret_store)?;
//!
//! let url = "https://hooks.example.com/keys".parse()?;
//! let id = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W".parse()?;
//! let body = r#"{"type":"api_key.expiring","timestamp":"2026-11-28T09:00:00Z","data":{}}"#;
//! let request = WebhookRequest::new(url, &id, SystemTime::now(), body, &secret);
//!
//! let response = HttpsClient::new().send(request).await?;
//! println!("the receiver answered {}", response.status());
//! # Ok(())
//! # }
//! ```
//!
//! [Standard Webhooks]: https://www.standardwebhooks.com

mod address;
mod bounded;
mod client;
mod connect;
mod deadline;
mod error;
mod exchange;
mod https;
mod masters;
mod message_id;
mod payload;
mod request;
mod resolve;
mod response;
mod rules;
mod secret;
mod signature;
mod tls;
mod url;
mod webhooks;

pub use address::is_public;
pub use client::{BoxedWebhookClient, WebhookClient};
pub use error::{SendError, SendErrorKind};
pub use https::HttpsClient;
pub use masters::{MasterError, WebhookMasters};
pub use message_id::{MessageId, MessageIdError};
pub use request::WebhookRequest;
pub use resolve::{Resolve, SystemResolver};
pub use response::WebhookResponse;
pub use secret::{WebhookSecret, WebhookSecretError};
pub use tls::RootError;
pub use url::{WebhookUrl, WebhookUrlError};
pub use webhooks::Webhooks;
