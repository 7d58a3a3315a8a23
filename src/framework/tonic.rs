//! tonic: `Rejection` as a `Status`.

use std::net::SocketAddr;

use ::tonic::transport::server::TcpConnectInfo;
use ::tonic::{Code, Status};
use http::Extensions;

use crate::rejection::Rejection;
use crate::response::grpc;

pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    let connection = extensions.get::<TcpConnectInfo>();
    connection.and_then(TcpConnectInfo::remote_addr)
}

/// ```
/// use tower_api_key::Rejection;
///
/// let status = tonic::Status::from(Rejection::Revoked);
/// assert_eq!(status.code(), tonic::Code::Unauthenticated);
/// ```
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        Self::new(
            Code::from_i32(grpc::code(&rejection)),
            rejection.to_string(),
        )
    }
}
