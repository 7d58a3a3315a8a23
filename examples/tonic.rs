//! API keys in front of a gRPC service: refusals arrive as gRPC statuses.
//!
//! `cargo run --example tonic` starts tonic's health service behind keys, calls it with and without
//! one, and prints what the client saw. With the feature `tonic`, handlers can turn a `Rejection`
//! into a `Status`, and allow-lists of networks see the peer's address.

use tonic::metadata::MetadataValue;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower_api_key::ApiKeys;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("acme").await?;

    let (_reporter, health) = tonic_health::server::health_reporter();
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
    let address = format!("http://{}", incoming.local_addr()?);
    let server = Server::builder().layer(keys.layer()).add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));

    let channel = Channel::from_shared(address)?.connect().await?;

    let mut stranger = HealthClient::new(channel.clone());
    let refused = stranger.check(HealthCheckRequest::default()).await;
    println!(
        "without a key: {:?}",
        refused.map_err(|status| (status.code(), status.message().to_owned()))
    );

    let bearer: MetadataValue<_> = format!("Bearer {}", key.expose_secret()).parse()?;
    let mut client = HealthClient::with_interceptor(channel, move |mut request: Request<()>| {
        request
            .metadata_mut()
            .insert("authorization", bearer.clone());
        Ok::<_, Status>(request)
    });
    let answer = client.check(HealthCheckRequest::default()).await?;
    println!("with a key:    {:?}", answer.into_inner());
    Ok(())
}
