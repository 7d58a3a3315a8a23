//! The service: decides, then forwards or refuses.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::http::render::response_body::ResponseBody;
use crate::middleware::future::ResponseFuture;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::Outcome;

/// A service that requires API keys: see [`ApiKeyLayer`](crate::ApiKeyLayer).
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
        let mode = gate
            .config
            .response_mode(request.method(), request.headers());
        let pending = match gate.decide(&mut request, None) {
            Outcome::Admit(admission) => {
                let gate = Arc::clone(gate);
                let copy = gate.config.copy_for_errors(&request, &gate.shared.formats);
                let call = || self.inner.call(request);
                return ResponseFuture::forwarding(call, admission, gate, mode, copy);
            }
            Outcome::Deny(denial) => {
                drop(take_readied(&mut self.inner));
                return ResponseFuture::refused(self.gate.render_denial(&denial, mode, &request));
            }
            Outcome::Pending(pending) => pending,
        };
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let gate = Arc::clone(gate);
        let decision = Arc::clone(&gate).resume(head, pending);
        ResponseFuture::deciding(decision, take_readied(&mut self.inner), body, gate, mode)
    }
}

/// Takes the service that `poll_ready` made ready, and leaves a clone that is not ready. Dropping
/// the readied service releases its resources, such as a permit.
pub(super) fn take_readied<S: Clone>(inner: &mut S) -> S {
    let clone = inner.clone();
    mem::replace(inner, clone)
}
