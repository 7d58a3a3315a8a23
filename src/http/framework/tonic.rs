//! tonic: converts a `Rejection` into a `Status`.

use std::net::SocketAddr;
use std::sync::Arc;

use ::tonic::transport::server::TcpConnectInfo;
use ::tonic::{Code, Status};
use http::Extensions;

use crate::http::rejection::{Rejection, grpc_status};

pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    let connection = extensions.get::<TcpConnectInfo>();
    connection.and_then(TcpConnectInfo::remote_addr)
}

/// ```
/// use tonic::{Request, Response, Status};
/// use tower_api_key::{Caller, Scope};
///
/// const WRITE: Scope = Scope::from_static("reports:write");
///
/// async fn write(request: Request<()>) -> Result<Response<String>, Status> {
///     let caller = Caller::of(request.extensions())?;
///     caller.require(&WRITE)?;
///     Ok(Response::new(caller.account().to_owned()))
/// }
/// ```
impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let code = Code::from_i32(grpc_status(rejection.status()));
        let mut status = Self::new(code, rejection.to_string());
        status.set_source(Arc::new(rejection));
        status
    }
}
