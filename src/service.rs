//! The service: decide, then forward or refuse.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::response::body::ResponseBody;
use crate::verify::{Gate, Progress};

/// A service behind API keys; see [`ApiKeyLayer`](crate::ApiKeyLayer).
#[derive(Debug, Clone)]
pub struct ApiKeyService<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> ApiKeyService<S> {
    pub(crate) fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ApiKeyService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let gate = &self.gate;
        let manner = gate.settings.manner(request.method(), request.headers());
        match gate.begin(&mut request) {
            Progress::Decided(Ok(admission)) => {
                let gate = Arc::clone(gate);
                ResponseFuture::forwarding(|| self.inner.call(request), admission, gate, manner)
            }
            Progress::Decided(Err(denial)) => {
                // Whatever the readied service holds, such as a permit, is let go of here and now.
                drop(self.take_readied());
                ResponseFuture::refused(self.gate.refuse(&denial, manner))
            }
            Progress::Waiting(wait) => {
                let (parts, body) = request.into_parts();
                let gate = Arc::clone(gate);
                let waiting = Arc::clone(&gate).wait(Request::from_parts(parts, ()), wait);
                ResponseFuture::deciding(waiting, self.take_readied(), body, gate, manner)
            }
        }
    }
}

impl<S: Clone> ApiKeyService<S> {
    /// The service that `poll_ready` made ready; a clone that is not ready takes its place.
    fn take_readied(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}
