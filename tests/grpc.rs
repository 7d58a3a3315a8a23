//! gRPC, with tonic's own server and client on a real socket: refusals arrive as statuses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::{Down, World};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tower_api_key::{ApiKeyLayer, ApiKeys, RequireScope, Scope};

const NO_KEY: &str = "This request needs an API key. Send it as Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.";
const INVALID: &str = "The API key is not valid.";

/// tonic's health service behind a layer, and a channel to it.
async fn serve(layer: ApiKeyLayer, scope: Option<Scope>) -> Channel {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<HealthServer<tonic_health::server::HealthService>>()
        .await;
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = format!("http://{}", incoming.local_addr().unwrap());
    let required = RequireScope::all_of(scope);
    let server = Server::builder()
        .layer(layer)
        .layer(required)
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    let endpoint = Channel::from_shared(address).unwrap();
    endpoint.connect().await.unwrap()
}

async fn check(
    channel: &Channel,
    metadata: &[(&'static str, String)],
) -> Result<MetadataMap, Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    for (name, value) in metadata {
        let name = MetadataKey::<Ascii>::from_static(name);
        request.metadata_mut().append(name, value.parse().unwrap());
    }
    let answer = HealthClient::new(channel.clone()).check(request).await?;
    Ok(answer.metadata().clone())
}

fn text<'m>(metadata: &'m MetadataMap, name: &str) -> Option<&'m str> {
    metadata.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_good_key_reaches_the_service_and_a_bad_one_gets_a_grpc_status() {
    let world = World::with_named_keys();
    let channel = serve(world.keys.layer(), None).await;
    let bearer = |name| vec![("authorization", world.fill(&format!("Bearer {{{name}}}")))];

    let answer = check(&channel, &bearer("active")).await.unwrap();
    assert_eq!(text(&answer, "x-key-status"), Some("active"));
    let key = vec![("x-api-key", world.fill("{expiring}"))];
    let answer = check(&channel, &key).await.unwrap();
    assert_eq!(text(&answer, "x-key-status"), Some("deprecated"));
    assert_eq!(text(&answer, "deprecation"), Some("@1765497600"));

    for (key, code, message, status) in [
        (vec![], Code::Unauthenticated, NO_KEY, None),
        (bearer("jwt"), Code::Unauthenticated, NO_KEY, None),
        (bearer("unknown"), Code::Unauthenticated, INVALID, None),
        (bearer("typo"), Code::Unauthenticated, INVALID, None),
        (
            bearer("expired"),
            Code::Unauthenticated,
            "The API key has expired.",
            Some("expired"),
        ),
        (
            bearer("revoked"),
            Code::Unauthenticated,
            "The API key has been revoked.",
            Some("revoked"),
        ),
        (
            bearer("suspended"),
            Code::PermissionDenied,
            "The API key is suspended.",
            Some("suspended"),
        ),
        (
            bearer("early"),
            Code::PermissionDenied,
            "The API key is not active yet.",
            Some("not_yet_active"),
        ),
        (
            bearer("test"),
            Code::PermissionDenied,
            "The API key belongs to another environment. Use a key of: live.",
            Some("active"),
        ),
        (
            bearer("there"),
            Code::PermissionDenied,
            "The API key may not be used from this network address.",
            Some("active"),
        ),
        (
            [bearer("active"), bearer("active")].concat(),
            Code::InvalidArgument,
            "The request carries more than one API key. Send exactly one.",
            None,
        ),
    ] {
        let refused = check(&channel, &key).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, message));
        assert_eq!(
            text(refused.metadata(), "x-key-status"),
            status,
            "{message}"
        );
        assert_eq!(
            text(refused.metadata(), "cache-control"),
            Some("no-store"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_outage_is_unavailable_with_a_retry_pushback() {
    let world = World::with_named_keys();
    let channel = serve(ApiKeys::read_only(Down).build().unwrap().layer(), None).await;
    let key = [("authorization", world.fill("Bearer {active}"))];
    let refused = check(&channel, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(
        text(refused.metadata(), "grpc-retry-pushback-ms"),
        Some("5000")
    );
}

#[tokio::test]
async fn a_scope_missing_behind_the_layer_is_permission_denied() {
    let world = World::with_named_keys();
    let channel = serve(world.keys.layer(), Some(support::WRITE)).await;
    let key = |name: &str| [("authorization", world.fill(&format!("Bearer {{{name}}}")))];
    assert!(check(&channel, &key("admin")).await.is_ok());
    let refused = check(&channel, &key("active")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "The API key lacks a scope that this request needs."
    );
}

/// The peer's address comes from tonic's server by itself.
#[cfg(feature = "tonic")]
#[tokio::test]
async fn an_allow_list_sees_the_peer_address_from_tonic() {
    let world = World::with_named_keys();
    let channel = serve(world.keys.layer(), None).await;
    let key = |name: &str| [("authorization", world.fill(&format!("Bearer {{{name}}}")))];
    assert!(check(&channel, &key("here")).await.is_ok());
    let refused = check(&channel, &key("there")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[cfg(feature = "tonic")]
#[test]
fn a_rejection_converts_to_a_tonic_status() {
    use tower_api_key::Rejection;
    for (rejection, code) in [
        (Rejection::Ambiguous, Code::InvalidArgument),
        (Rejection::Missing, Code::Unauthenticated),
        (Rejection::Suspended, Code::PermissionDenied),
        (Rejection::LayerMissing, Code::Internal),
    ] {
        let message = rejection.to_string();
        let status = Status::from(rejection);
        assert_eq!((status.code(), status.message()), (code, message.as_str()));
    }
}
