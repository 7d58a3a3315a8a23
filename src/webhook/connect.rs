//! Connections to addresses that were checked.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

use super::bounded::BoundedStream;
use super::deadline::Deadline;
use super::error::{SendError, SendErrorKind};

/// Connects to one of the addresses, tried in order. The addresses are those that were checked: no
/// name is resolved here.
pub(super) async fn connect(
    addresses: &[IpAddr],
    port: u16,
    deadline: Deadline,
) -> Result<BoundedStream, SendError> {
    let mut kind = SendErrorKind::ConnectFailed;
    let mut detail = "no connection could be made".to_owned();
    for (at, address) in addresses.iter().enumerate() {
        let address = SocketAddr::new(*address, port);
        // An address that swallows packets leaves time for the next one.
        let share = deadline.share(addresses.len() - at);
        let connected = share.hold("connecting", TcpStream::connect(address)).await;
        let failure = match connected {
            Ok(Ok(stream)) => return checked(stream, address),
            Ok(Err(error)) => failed(address, &error),
            Err(error) => error,
        };
        kind = failure.kind();
        let _ = write!(detail, "; {failure}"); // a String takes everything
    }
    Err(SendError::new(kind, detail))
}

/// Compares the peer with the address that was checked, in case that something in between, such
/// as a wildcard address, led elsewhere.
fn checked(stream: TcpStream, address: SocketAddr) -> Result<BoundedStream, SendError> {
    let peer = stream
        .peer_addr()
        .map_err(|error| failed(address, &error))?;
    if (peer.ip().to_canonical(), peer.port()) != (address.ip().to_canonical(), address.port()) {
        let detail = format!("the connection to {address} led to {peer}");
        return Err(SendError::new(SendErrorKind::AddressRefused, detail));
    }
    // The head and the body are sent at once. Without it they would only be later.
    let _ = stream.set_nodelay(true);
    Ok(BoundedStream::new(stream))
}

fn failed(address: SocketAddr, error: &io::Error) -> SendError {
    let detail = format!("no connection to {address}: {error}");
    SendError::new(SendErrorKind::ConnectFailed, detail)
}
