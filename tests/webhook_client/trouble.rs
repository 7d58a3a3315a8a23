//! Receivers that fail, dawdle or never end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_api_key::webhook::{SendErrorKind, WebhookClient, WebhookRequest};

use super::receiver::{Receiver, read};
use super::{SECOND, local, request, secret, send, send_to};

/// Sends, and holds the client to its limit.
async fn kind_within_the_limit(receiver: &Receiver) -> SendErrorKind {
    let start = Instant::now();
    let kind = send_to(receiver).await.unwrap_err();
    let time = start.elapsed();
    assert!(time < SECOND * 3, "{time:?}");
    kind
}

/// A receiver that reads a request, writes a beginning, and then the same over and over.
async fn endless(begin: &'static str, again: &str, pause: Duration) -> Receiver {
    let again: Arc<str> = again.into();
    Receiver::doing(move |mut stream, _| {
        let again = again.clone();
        async move {
            read(&mut stream).await;
            let mut written = stream.write_all(begin.as_bytes()).await;
            while written.is_ok() {
                tokio::time::sleep(pause).await;
                written = stream.write_all(again.as_bytes()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let receiver = Receiver::answering("").await;
    let start = Instant::now();
    let client = local([receiver.port]);
    let error = client.send(request(&receiver.url())).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::TimeLimit);
    let expected = "the time limit of 1s was over while waiting for the answer";
    assert_eq!(error.to_string(), expected);
    assert!((SECOND..SECOND * 3).contains(&start.elapsed()));
}

#[tokio::test]
async fn a_receiver_that_drips_is_given_up() {
    let pause = Duration::from_millis(100);
    let receiver = endless("HTTP/1.1 200 OK\r\nA: ", "b", pause).await;
    assert_eq!(
        kind_within_the_limit(&receiver).await,
        SendErrorKind::TimeLimit
    );
}

#[tokio::test]
async fn interim_answers_without_end_are_given_up() {
    const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n";
    for (count, pause, expected) in [
        (1, Duration::from_millis(100), SendErrorKind::TimeLimit),
        (1_024, Duration::ZERO, SendErrorKind::MalformedAnswer),
    ] {
        let receiver = endless("", &INTERIM.repeat(count), pause).await;
        assert_eq!(kind_within_the_limit(&receiver).await, expected);
    }
    let receiver = endless("", &INTERIM.repeat(1_024), Duration::ZERO).await;
    let client = local([receiver.port]);
    let error = client.send(request(&receiver.url())).await.unwrap_err();
    let expected = "no answer could be read: more than 128 KiB came before it";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_head_without_end_is_not_read() {
    for again in ["b", "b\r\nA: "] {
        let again = again.repeat(512);
        let receiver = endless("HTTP/1.1 200 OK\r\nA: ", &again, Duration::ZERO).await;
        let kind = kind_within_the_limit(&receiver).await;
        assert_eq!(kind, SendErrorKind::MalformedAnswer);
    }
}

#[tokio::test]
async fn a_large_head_is_an_error() {
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(65));
    let bytes = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(64 * 1024));
    for head in [fields, bytes] {
        let receiver = Receiver::answering(head).await;
        let kind = kind_within_the_limit(&receiver).await;
        assert_eq!(kind, SendErrorKind::MalformedAnswer);
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read() {
    let receiver = endless("HTTP/1.1 200 OK\r\n\r\n", "s3cret", Duration::ZERO).await;
    let answer = send_to(&receiver).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_receiver_may_answer_before_it_has_read() {
    let receiver = Receiver::doing(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 413 Large\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let (url, id) = (receiver.url().parse().unwrap(), "msg_1".parse().unwrap());
    let body = vec![b' '; 8 * 1024 * 1024]; // more than fits into the buffers of sockets
    let now = std::time::SystemTime::now();
    let request = WebhookRequest::new(url, &id, now, body, &secret(1));
    let answer = local([receiver.port]).send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_receiver_that_closes_gives_no_answer() {
    let closing = Receiver::doing(|_, _| async {}).await;
    let later = Receiver::doing(|mut stream, _| async move {
        read(&mut stream).await;
    })
    .await;
    let halfway = Receiver::doing(|mut stream, _| async move {
        read(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nA").await;
    })
    .await;
    for receiver in [closing, later, halfway] {
        let kind = kind_within_the_limit(&receiver).await;
        assert_eq!(kind, SendErrorKind::MalformedAnswer);
    }
}

#[tokio::test]
async fn another_protocol_is_no_answer() {
    for answer in [
        "SSH-2.0-s3cret\r\n",
        "220 s3cret ESMTP\r\n",
        "-ERR s3cret\r\n",
        "HTTP/1.1 2000 s3cret\r\n\r\n",
        "HTTP/1.1 099 s3cret\r\n\r\n",
        "HTTP/1.1 200 OK\r\ns3cret s3cret\r\n\r\n",
        "<html>s3cret</html>\r\n\r\n",
    ] {
        let receiver = Receiver::answering(answer).await;
        let kind = kind_within_the_limit(&receiver).await;
        assert_eq!(kind, SendErrorKind::MalformedAnswer, "{answer}");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("http://127.0.0.1:{port}/s3cret");
    let kind = send(&local([port]), &url).await.unwrap_err();
    assert_eq!(kind, SendErrorKind::ConnectFailed);
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_connection() {
    let (arrived, arrival) = oneshot::channel();
    let (closed, closing) = oneshot::channel();
    let mut signals = Some((arrived, closed));
    let receiver = Receiver::doing(move |mut stream, _| {
        let signals = signals.take();
        async move {
            read(&mut stream).await;
            let (arrived, closed) = signals.unwrap();
            arrived.send(()).unwrap();
            let _ = stream.read(&mut [0]).await;
            let _ = closed.send(());
        }
    })
    .await;
    let client = local([receiver.port]).time_limit(SECOND * 60);
    let request = request(&receiver.url());
    let sending = tokio::spawn(async move { client.send(request).await });
    arrival.await.unwrap();
    sending.abort();
    closing.await.unwrap();
}
