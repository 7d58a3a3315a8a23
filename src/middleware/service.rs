//! The service: decide, then forward or refuse.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::decide::{Gate, Outcome};
use super::future::ResponseFuture;
use crate::http::render::body::ResponseBody;

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
        let manner = gate.config.manner(request.method(), request.headers());
        let waiting = match gate.decide(&mut request, None) {
            Outcome::Admit(admission) => {
                let gate = Arc::clone(gate);
                let call = || self.inner.call(request);
                return ResponseFuture::forwarding(call, admission, gate, manner);
            }
            Outcome::Deny(denial) => {
                // What the readied service holds, such as a permit, is released here and now.
                drop(self.take_readied());
                return ResponseFuture::refused(self.gate.refuse(&denial, manner));
            }
            waiting => waiting,
        };
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let gate = Arc::clone(gate);
        let waiting = Arc::clone(&gate).resume(head, waiting);
        ResponseFuture::deciding(waiting, self.take_readied(), body, gate, manner)
    }
}

impl<S: Clone> ApiKeyService<S> {
    /// The service that `poll_ready` made ready; a clone that is not ready takes its place.
    fn take_readied(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}
