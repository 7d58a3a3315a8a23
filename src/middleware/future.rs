//! The answer on its way: being decided, forwarded, or denied. It only polls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::http::render::body::ResponseBody;
use crate::http::render::rejection::Manner;
use crate::middleware::gate::Gate;
use crate::middleware::outcome::{Admission, Outcome};
use crate::middleware::resume::Waiting;

const POLLED_AGAIN: &str = "polled after it was ready";

pin_project! {
    /// Response future of [`ApiKeyService`](crate::http::ApiKeyService).
    ///
    /// The inner service is called only once the decision is in the request's favour.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        Deciding {
            waiting: Waiting,
            // The service that is ready, to be used exactly once or to be dropped, and the body.
            readied: Option<(S, B)>,
            gate: Arc<Gate>,
            manner: Manner,
        },
        Forwarding {
            #[pin]
            future: F,
            admission: Admission,
            gate: Arc<Gate>,
            manner: Manner,
            // A copy of the request, if errors are written from it.
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
        waiting: Waiting,
        readied: S,
        body: B,
        gate: Arc<Gate>,
        manner: Manner,
    ) -> Self {
        Self {
            state: State::Deciding {
                waiting,
                readied: Some((readied, body)),
                gate,
                manner,
            },
        }
    }

    /// Takes a closure, so that the inner future is built in place and not moved.
    #[inline]
    pub(super) fn forwarding(
        call: impl FnOnce() -> S::Future,
        admission: Admission,
        gate: Arc<Gate>,
        manner: Manner,
        request: Option<Box<Request<()>>>,
    ) -> Self {
        Self {
            state: State::Forwarding {
                future: call(),
                admission,
                gate,
                manner,
                request,
            },
        }
    }

    pub(super) fn refused(refusal: Response<Bytes>) -> Self {
        let refusal = Some(refusal);
        Self {
            state: State::Refused { refusal },
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
                    waiting,
                    readied,
                    gate,
                    manner,
                } => {
                    let (head, outcome) = ready!(waiting.as_mut().poll(cx));
                    match outcome {
                        Outcome::Admit(admission) => {
                            let (mut service, body) = readied.take().expect(POLLED_AGAIN);
                            let request = gate.config.copy_for_errors(&head, &gate.keyring.formats);
                            State::Forwarding {
                                future: service.call(head.map(|()| body)),
                                admission,
                                gate: Arc::clone(gate),
                                manner: *manner,
                                request,
                            }
                        }
                        Outcome::Deny(denial) => {
                            // What the readied service holds, such as a permit, is released here.
                            drop(readied.take());
                            let refusal = Some(gate.render_denial(&denial, *manner, &head));
                            State::Refused { refusal }
                        }
                        Outcome::Wait(wait) => {
                            *waiting = Arc::clone(gate).resume(head, wait);
                            continue;
                        }
                    }
                }
                StateProjection::Forwarding {
                    future,
                    admission,
                    gate,
                    manner,
                    request,
                } => {
                    let request = request.as_deref();
                    let mut answer = future.poll(cx);
                    if let Poll::Ready(Ok(response)) = &mut answer
                        && let Some(rendered) =
                            gate.finish_response(response, admission, *manner, request)
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
