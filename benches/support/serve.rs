//! A stack of layers, served without sockets.

use std::convert::Infallible;
use std::hint::black_box;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use http::response::Parts;
use http::{Response, StatusCode};
use tokio::runtime::{Builder, Runtime};
use tower::Service;

use super::requests::Request;

/// For stacks whose answers are not ready at once, and for what they may spawn. Enter it first.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
});

/// A stack of layers around the inner service, whatever its type.
pub(crate) trait Stack {
    /// Answers these requests, and drops each answer. Returns how many did not have this status.
    fn serve(&mut self, requests: &mut Vec<Request>, expected: StatusCode) -> usize;

    /// The answer to this request, without its body.
    fn answer(&mut self, request: Request) -> Parts;
}

pub(crate) fn stack<S, B>(service: S) -> Box<dyn Stack>
where
    S: Service<Request, Response = Response<B>, Error = Infallible> + 'static,
    B: 'static,
{
    Box::new(Mounted(service, PhantomData))
}

struct Mounted<S, B>(S, PhantomData<fn() -> B>);

impl<S, B> Stack for Mounted<S, B>
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
{
    fn serve(&mut self, requests: &mut Vec<Request>, expected: StatusCode) -> usize {
        let mut unexpected = 0;
        for request in requests.drain(..) {
            let response = black_box(answer(&mut self.0, request));
            unexpected += usize::from(response.status() != expected);
        }
        unexpected
    }

    fn answer(&mut self, request: Request) -> Parts {
        answer(&mut self.0, request).into_parts().0
    }
}

/// Nothing here has to wait for anything, so one poll is enough as a rule.
fn answer<S, B>(service: &mut S, request: Request) -> Response<B>
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    let mut future = pin!(service.call(request));
    let answer = match future.as_mut().poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => RUNTIME.block_on(future),
    };
    answer.unwrap_or_else(|never| match never {})
}
