//! How connections are made.

use std::sync::Arc;
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::time::timeout;

use super::call_error::CallError;
use super::connection::Connection;

/// The time limit of dialing. Less than the second after which TCP tries again by itself, so that
/// an attempt that was swallowed does not take up the second in which we are back.
pub(super) const DIAL_LIMIT: Duration = Duration::from_millis(750);

/// The time after which the kernel gives up on bytes that are not acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// The source of connections.
pub(super) enum Source {
    /// We dial.
    Client(Client),
    /// A test dials.
    #[cfg(feature = "testing")]
    Dialed(super::connection::Dial),
    /// The application's connection, which reconnects by itself.
    Given(Arc<dyn Connection>),
}

impl Source {
    /// Returns the name of the server, for logs.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Client(client) => client.get_connection_info().addr().to_string(),
            #[cfg(feature = "testing")]
            Self::Dialed(_) => "the server of a test".to_owned(),
            Self::Given(_) => "the connection of the application".to_owned(),
        }
    }

    /// Makes a connection, or returns that of the application.
    pub(super) async fn dial(&self) -> Result<Arc<dyn Connection>, CallError> {
        let client = match self {
            Self::Given(connection) => return Ok(Arc::clone(connection)),
            #[cfg(feature = "testing")]
            Self::Dialed(dial) => {
                let connection = timeout(DIAL_LIMIT, dial()).await;
                return Ok(connection.map_err(|_| CallError::Late(DIAL_LIMIT))??);
            }
            Self::Client(client) => client,
        };
        Ok(Arc::new(dial(client).await?))
    }
}

/// Makes a connection.
pub(super) async fn dial(client: &Client) -> Result<MultiplexedConnection, CallError> {
    // Our own limits apply to each call, and to dialing.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(DIAL_LIMIT));
    let dialing = client.get_multiplexed_async_connection_with_config(&config);
    let dialed = timeout(DIAL_LIMIT, dialing).await;
    Ok(dialed.map_err(|_| CallError::Late(DIAL_LIMIT))??)
}

/// Returns a client that dials as we need it: without the delay of small packets, and with a
/// connection that the kernel gives up when its other end is gone.
pub(super) fn client(info: redis::ConnectionInfo) -> Result<Client, RedisError> {
    let tcp = redis::io::tcp::TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(USER_TIMEOUT);
    Client::open(info.set_tcp_settings(tcp))
}

/// Returns whether an error means that the connection is gone, or leads to the wrong server: a
/// master that was demoted refuses writes.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Returns a pause, or up to half as long again.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = SysRng.try_next_u32().unwrap_or(u32::MAX / 2);
    pause + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}
