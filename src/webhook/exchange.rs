//! One request and the head of its answer, in HTTP/1.1.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::bounded::is_too_much;
use super::error::{SendError, SendErrorKind};
use super::request::WebhookRequest;
use super::response::WebhookResponse;

/// The most header fields of an answer.
const MOST_HEADERS: usize = 64;

/// The largest head of an answer, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// Sends a request over a new connection, and reads the head of the answer. Closes the connection,
/// whatever else the receiver may have to say.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &WebhookRequest,
) -> Result<WebhookResponse, SendError> {
    let mut http = http1::Builder::new();
    http.max_headers(MOST_HEADERS).max_buf_size(LARGEST_HEAD);
    let connected = http.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| failed(&error))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(as_http(request)));
    let head: Response<Incoming> = poll_fn(|context| {
        let has_ended = connection.as_mut().poll(context).is_ready();
        match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(|error| failed(&error))),
            Poll::Pending if has_ended => Poll::Ready(Err(malformed("there was none"))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok(WebhookResponse::from_head(
        head.status(),
        head.headers(),
        request.sent_at(),
    ))
}

fn as_http(request: &WebhookRequest) -> Request<Full<Bytes>> {
    let url = request.url();
    let mut sent = Request::new(Full::new(request.body().clone()));
    *sent.method_mut() = Method::POST;
    *sent.uri_mut() = Uri::from(url.target().clone());
    let headers = sent.headers_mut();
    *headers = request.headers();
    let host = HeaderValue::from_str(url.authority());
    headers.insert(
        header::HOST,
        host.expect("a parsed host is a field's value"),
    );
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    sent
}

/// Describes an error in words of ours, which say nothing of what the receiver sent.
fn failed(error: &hyper::Error) -> SendError {
    malformed(match error {
        _ if is_too_much(error) => "more than 128 KiB came before it",
        _ if error.is_parse() => {
            "it is not HTTP/1.1, or its head is larger than 64 fields or 16 KiB"
        }
        _ if error.is_incomplete_message() => "the connection was closed before its end",
        _ => "the connection was lost",
    })
}

fn malformed(reason: &str) -> SendError {
    let detail = format!("no answer could be read: {reason}");
    SendError::new(SendErrorKind::MalformedAnswer, detail)
}
