//! Receivers that answer.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_api_key::webhook::{BoxedWebhookClient, SendErrorKind, WebhookClient};

use super::receiver::Receiver;
use super::{BODY, ID, OK, is_signed, local, request, secret, send_to};

#[tokio::test]
async fn a_signed_request_arrives() {
    let mut receiver = Receiver::answering(OK).await;
    let answer = send_to(&receiver).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.retry_after(), None);

    let arrived = receiver.next().await;
    assert_eq!(arrived.line, "POST /hooks?of=acme HTTP/1.1");
    assert_eq!(arrived.body, BODY.as_bytes());
    assert!(is_signed(&arrived, &secret(1)));
    assert!(!is_signed(&arrived, &secret(2)));
    let mut names: Vec<_> = arrived
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .collect();
    names.sort_unstable();
    let expected = [
        "connection",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    ];
    assert_eq!(names, expected);
    assert_eq!(arrived.headers["connection"], "close");
    assert_eq!(arrived.headers["webhook-id"], ID);
    assert_eq!(arrived.headers["content-type"], "application/json");
    let host = format!("127.0.0.1:{}", receiver.port);
    assert_eq!(arrived.headers["host"], host);
    assert_eq!(receiver.connections().await, 1);
}

#[tokio::test]
async fn while_a_secret_is_rotated_a_receiver_may_have_either() {
    let mut receiver = Receiver::answering(OK).await;
    let request = request(&receiver.url()).also_signed_with(&secret(2));
    local([receiver.port]).send(request).await.unwrap();
    let arrived = receiver.next().await;
    assert!(is_signed(&arrived, &secret(1)) && is_signed(&arrived, &secret(2)));
    assert!(!is_signed(&arrived, &secret(3)));
}

#[tokio::test]
async fn a_boxed_client_sends_too() {
    let mut receiver = Receiver::answering(OK).await;
    let client = BoxedWebhookClient::new(local([receiver.port]));
    client.send(request(&receiver.url())).await.unwrap();
    assert!(is_signed(&receiver.next().await, &secret(1)));
    let error = client.check(&"https://a.example:1".parse().unwrap());
    assert_eq!(error.unwrap_err().kind(), SendErrorKind::UrlRefused);
}

#[tokio::test]
async fn every_status_is_an_answer() {
    for status in [
        200, 202, 204, 299, 304, 400, 401, 404, 410, 429, 500, 502, 503, 504, 599,
    ] {
        let head = format!("HTTP/1.1 {status} s3cret\r\n\r\n");
        let receiver = Receiver::answering(head).await;
        let answer = send_to(&receiver).await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn a_receiver_may_ask_for_a_wait() {
    let in_an_hour = SystemTime::now() + Duration::from_secs(3_600);
    let in_an_hour = httpdate::fmt_http_date(in_an_hour);
    for (fields, least, most) in [
        ("Retry-After: 120", 120, 120),
        (&format!("Retry-After: {in_an_hour}"), 3_590, 3_600),
        (
            "Date: Sat, 28 Nov 2026 09:00:00 GMT\r\nRetry-After: Sat, 28 Nov 2026 09:00:30 GMT",
            30,
            30,
        ),
        ("Retry-After: 31536000", 86_400, 86_400),
    ] {
        let head = format!("HTTP/1.1 429 Too Many Requests\r\n{fields}\r\n\r\n");
        let answer = send_to(&Receiver::answering(head).await).await.unwrap();
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait = answer.retry_after().unwrap().as_secs();
        assert!((least..=most).contains(&wait), "{fields}: {wait}");
    }
}

#[tokio::test]
async fn an_absurd_wait_is_ignored() {
    for value in [
        "-5",
        "soon",
        "99999999999999999999999",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "",
    ] {
        let head = format!("HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\n\r\n");
        let answer = send_to(&Receiver::answering(head).await).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.retry_after(), None, "{value}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let other = Receiver::answering(OK).await;
    for status in [301, 302, 303, 307, 308] {
        let head = format!(
            "HTTP/1.1 {status} Moved\r\nLocation: {}\r\n\r\n",
            other.url()
        );
        let receiver = Receiver::answering(head).await;
        let client = local([receiver.port, other.port]);
        let answer = client.send(request(&receiver.url())).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(receiver.connections().await, 1);
    }
    assert_eq!(other.connections().await, 0);
}

#[tokio::test]
async fn interim_answers_come_before_the_answer() {
    let head = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n{OK}");
    let answer = send_to(&Receiver::answering(head).await).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_head_of_64_fields_is_read() {
    let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(64));
    assert!(send_to(&Receiver::answering(head).await).await.is_ok());
}
