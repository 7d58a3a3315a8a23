//! The answer on its way: being decided, forwarded, or denied.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::key::lifecycle::Lifecycle;
use crate::response::body::ResponseBody;
use crate::response::headers::keep_from_caches;
use crate::response::rate_limit::{self, Notice};
use crate::response::rejection::{Manner, Unrendered, keep_headers};
use crate::source::Carriers;
use crate::verify::wait::Waiting;
use crate::verify::{Admission, Denial, Gate, Progress};

const POLLED_AGAIN: &str = "polled after it was ready";

pin_project! {
    /// The answer of an [`ApiKeyService`](crate::ApiKeyService).
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
        },
        Refused { refusal: Option<Response<Bytes>> },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn deciding(
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

    /// The call is made in here, so that its future is put where it will stay.
    #[inline]
    pub(crate) fn forwarding(
        call: impl FnOnce() -> S::Future,
        admission: Admission,
        gate: Arc<Gate>,
        manner: Manner,
    ) -> Self {
        Self {
            state: State::Forwarding {
                future: call(),
                admission,
                gate,
                manner,
            },
        }
    }

    pub(crate) fn refused(refusal: Response<Bytes>) -> Self {
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
                    let (head, progress) = ready!(waiting.as_mut().poll(cx));
                    let decision = match progress {
                        Progress::Decided(decision) => decision,
                        Progress::Waiting(wait) => {
                            *waiting = Arc::clone(gate).wait(head, wait);
                            continue;
                        }
                    };
                    let (mut service, body) = readied.take().expect(POLLED_AGAIN);
                    match decision {
                        Ok(admission) => State::Forwarding {
                            future: service.call(head.map(|()| body)),
                            admission,
                            gate: Arc::clone(gate),
                            manner: *manner,
                        },
                        Err(denial) => State::Refused {
                            refusal: Some(gate.refuse(&denial, *manner)),
                        },
                    }
                }
                StateProjection::Forwarding {
                    future,
                    admission,
                    gate,
                    manner,
                } => {
                    let mut answer = future.poll(cx);
                    if let Poll::Ready(Ok(response)) = &mut answer
                        && let Some(rendered) = gate.forward(response, admission, *manner)
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

impl Gate {
    /// Adds what the caller is told about the key to the answer of the inner service, or to what
    /// takes its place.
    fn forward<B>(
        &self,
        response: &mut Response<B>,
        admission: &Admission,
        manner: Manner,
    ) -> Option<Response<Bytes>> {
        let (lifecycle, carriers, limits) = match admission {
            Admission::SpokenFor => return None,
            Admission::Anonymous { limits } => (None, Carriers::NONE, limits),
            Admission::Key {
                lifecycle,
                carriers,
                limits,
            } => (Some(lifecycle), *carriers, limits),
        };
        if let Some(mut rendered) = self.render_what_is_not(response, manner) {
            self.inform(rendered.headers_mut(), lifecycle, carriers, limits.as_ref());
            return Some(rendered);
        }
        let refused_within =
            rate_limit::is_refused_within(response.status(), response.headers(), manner.grpc);
        let limits = limits.as_ref().filter(|_| !refused_within);
        self.inform(response.headers_mut(), lifecycle, carriers, limits);
        None
    }

    /// What an answer says of the key, its limits, and who may keep it.
    fn inform(
        &self,
        headers: &mut HeaderMap,
        lifecycle: Option<&Lifecycle>,
        carriers: Carriers,
        limits: Option<&Notice>,
    ) {
        let settings = &self.settings;
        if let Some(lifecycle) = lifecycle {
            settings.key_headers.write(headers, lifecycle);
        }
        if let Some(limits) = limits {
            limits.write(headers, settings.rate_limit_headers);
        }
        keep_from_caches(headers, &settings.sources, carriers, settings.optional);
    }

    /// A rejection from a handler is rendered as if it were from this layer.
    fn render_what_is_not<B>(
        &self,
        response: &mut Response<B>,
        manner: Manner,
    ) -> Option<Response<Bytes>> {
        let status = response.status();
        let Unrendered(rejection) = response.extensions_mut().remove()?;
        if rejection.status() != status {
            return None; // a layer in between made another answer of it
        }
        let mut rendered = self.settings.render(&rejection, manner);
        keep_headers(
            rendered.headers_mut(),
            std::mem::take(response.headers_mut()),
        );
        let mut extensions = std::mem::take(response.extensions_mut());
        extensions.extend(std::mem::take(rendered.extensions_mut()));
        *rendered.extensions_mut() = extensions;
        Some(rendered)
    }

    /// The answer to a request that goes no further.
    pub(crate) fn refuse(&self, denial: &Denial, manner: Manner) -> Response<Bytes> {
        let settings = &self.settings;
        let render = || settings.render(&denial.rejection, manner);
        let mut response =
            self.rendered
                .or_render(&denial.rejection, &settings.errors, manner, render);
        self.inform(
            response.headers_mut(),
            denial.lifecycle.as_ref(),
            denial.carriers,
            denial.limits.as_deref(),
        );
        response
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
