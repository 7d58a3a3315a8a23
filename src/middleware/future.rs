//! The response future: it polls the decision, the inner service, or a finished refusal.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::http::render::error_response::ResponseMode;
use crate::http::render::response_body::ResponseBody;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Outcome};
use crate::middleware::resume::ResumeFuture;

const POLLED_AGAIN: &str = "polled after it was ready";

pin_project! {
    /// Response future of [`ApiKeyService`](crate::http::ApiKeyService).
    ///
    /// The inner service is called only if the request is admitted.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: ResponseState<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum ResponseState<S, B, F> {
        Deciding {
            decision: ResumeFuture,
            // The readied service, to be called exactly once or dropped, and the request's body.
            readied: Option<(S, B)>,
            gate: Arc<Gate>,
            mode: ResponseMode,
        },
        Forwarding {
            #[pin]
            future: F,
            admission: Admission,
            gate: Arc<Gate>,
            mode: ResponseMode,
            // A copy of the request's head, if a custom format renders errors.
            request: Option<Box<Request<()>>>,
        },
        Refused { refusal: Option<Response<Bytes>> },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn deciding(
        decision: ResumeFuture,
        readied: S,
        body: B,
        gate: Arc<Gate>,
        mode: ResponseMode,
    ) -> Self {
        Self {
            state: ResponseState::Deciding {
                decision,
                readied: Some((readied, body)),
                gate,
                mode,
            },
        }
    }

    /// Takes a closure, so that the inner future is built in place and not moved.
    pub(super) fn forwarding(
        call: impl FnOnce() -> S::Future,
        admission: Admission,
        gate: Arc<Gate>,
        mode: ResponseMode,
        request: Option<Box<Request<()>>>,
    ) -> Self {
        Self {
            state: ResponseState::Forwarding {
                future: call(),
                admission,
                gate,
                mode,
                request,
            },
        }
    }

    pub(super) fn refused(refusal: Response<Bytes>) -> Self {
        let refusal = Some(refusal);
        Self {
            state: ResponseState::Refused { refusal },
        }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Deciding {
                    decision,
                    readied,
                    gate,
                    mode,
                } => {
                    let (head, outcome) = ready!(decision.as_mut().poll(cx));
                    match outcome {
                        Outcome::Admit(admission) => {
                            let (mut service, body) = readied.take().expect(POLLED_AGAIN);
                            let request = gate.config.copy_for_errors(&head, &gate.shared.formats);
                            ResponseState::Forwarding {
                                future: service.call(head.map(|()| body)),
                                admission,
                                gate: Arc::clone(gate),
                                mode: *mode,
                                request,
                            }
                        }
                        Outcome::Deny(denial) => {
                            // Release the resources of the readied service, such as a permit.
                            drop(readied.take());
                            let refusal = Some(gate.render_denial(&denial, *mode, &head));
                            ResponseState::Refused { refusal }
                        }
                        Outcome::Pending(pending) => {
                            *decision = Arc::clone(gate).resume(head, pending);
                            continue;
                        }
                    }
                }
                StateProjection::Forwarding {
                    future,
                    admission,
                    gate,
                    mode,
                    request,
                } => {
                    let request = request.as_deref();
                    let mut answer = future.poll(cx);
                    if let Poll::Ready(Ok(response)) = &mut answer
                        && let Some(rendered) =
                            gate.finish_response(response, admission, *mode, request)
                    {
                        return Poll::Ready(Ok(rendered.map(ResponseBody::refusal)));
                    }
                    return answer.map_ok(|response| response.map(ResponseBody::inner));
                }
                StateProjection::Refused { refusal } => {
                    let refusal = refusal.take().expect(POLLED_AGAIN);
                    return Poll::Ready(Ok(refusal.map(ResponseBody::refusal)));
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
