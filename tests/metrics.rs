//! The example with metrics, scraped over a socket as Prometheus does.
#![cfg(all(feature = "metrics", feature = "axum"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../examples/metrics.rs"]
mod example;
mod support;

use std::collections::BTreeMap;

use http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use support::{send, serve_axum};

#[tokio::test]
async fn the_example_is_scraped_as_prometheus_text() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let keys = example::keys().unwrap();
    let key = keys.issue("acme").await.unwrap();
    let address = serve_axum(example::app(&keys, metrics)).await;
    let ask = async |key: Option<&str>| {
        let mut request = Request::builder().uri("/v1/whoami");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        send(address, request.body(()).unwrap()).await.status
    };
    let secret = key.expose_secret();
    let answers = [
        ask(Some(secret)).await,
        ask(Some(secret)).await,
        ask(Some(secret)).await,
        ask(Some(secret)).await,
        ask(None).await,
        ask(Some("sk_live_junk")).await,
    ];
    assert_eq!(answers, [200, 200, 200, 429, 401, 401]);
    let request = Request::builder().uri("/metrics").body(()).unwrap();
    let scraped = send(address, request).await;
    assert_eq!(scraped.status, 200);
    let lines = scraped
        .body
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let series: BTreeMap<_, _> = lines.filter_map(|line| line.rsplit_once(' ')).collect();
    for (name, value) in [
        (
            r#"api_key_requests_total{outcome="admitted",code="ok"}"#,
            "3",
        ),
        (
            r#"api_key_requests_total{outcome="denied",code="rate_limit_exceeded"}"#,
            "1",
        ),
        (
            r#"api_key_requests_total{outcome="denied",code="missing_api_key"}"#,
            "1",
        ),
        (
            r#"api_key_requests_total{outcome="denied",code="api_key_not_found"}"#,
            "1",
        ),
        (r#"api_key_lookups_total{result="miss"}"#, "1"),
        (r#"api_key_lookups_total{result="hit"}"#, "3"),
        (r#"api_key_answers_total{status="200"}"#, "3"),
        (r#"api_key_store_seconds_count{result="ok"}"#, "1"),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name} of {}", scraped.body);
    }
    // Nothing tells whose key it is.
    for told in [&key.id().to_string(), &secret[..16], "acme", "127.0.0.1"] {
        assert!(!scraped.body.contains(told), "{told} in {}", scraped.body);
    }
}
