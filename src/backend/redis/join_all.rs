//! Several calls at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Returns the outputs of futures that run at once, in their order.
pub(super) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    poll_fn(|context| {
        let all = running.iter_mut().zip(&mut outputs);
        for (future, output) in all.filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        if outputs.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
    outputs.into_iter().flatten().collect()
}
