//! Names and addresses that lead into the network of the sender.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
#[cfg(target_os = "linux")]
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tower_api_key::webhook::{HttpsClient, SendErrorKind, WebhookClient};

use super::receiver::Receiver;
use super::resolvers::{Answers, Ignorant, Silent};
use super::{OK, SECOND, local, request, send};

/// A public address that belongs to nobody (the former 6bone), so that nothing is sent to anybody.
const NOBODY: &str = "3ffe:ffff::1";

/// A client that may send to a port, but to public addresses only.
fn guarded(receiver: &Receiver) -> HttpsClient {
    HttpsClient::new()
        .allow_ports([receiver.port])
        .dangerous_allow_http()
        .time_limit(SECOND)
}

#[tokio::test]
async fn a_name_of_private_addresses_is_refused() {
    let receiver = Receiver::answering(OK).await;
    for address in [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "10.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "fe80::1",
    ] {
        let answers = Answers::new(&[&[address]]);
        let client = guarded(&receiver).resolver(answers.clone());
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://hooks.example:{}/s3cret", receiver.port);
            let kind = send(&client, &url).await.unwrap_err();
            assert_eq!(kind, SendErrorKind::AddressRefused, "{address}");
        }
        assert_eq!(answers.lookups(), 2);
    }
    let all = Answers::new(&[&["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"]]);
    let client = guarded(&receiver).resolver(all);
    let url = format!("http://hooks.example:{}/", receiver.port);
    let kind = send(&client, &url).await.unwrap_err();
    assert_eq!(kind, SendErrorKind::AddressRefused);
    assert_eq!(receiver.connections().await, 0);
}

#[tokio::test]
async fn beside_a_public_address_a_private_one_is_not_used() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://hooks.example:{}/", receiver.port);
    let lists = [
        ["127.0.0.1", NOBODY],
        [NOBODY, "127.0.0.1"],
        [NOBODY, "::ffff:127.0.0.1"],
    ];
    let clients = lists.map(|list| guarded(&receiver).resolver(Answers::new(&[&list])));
    for sent in join_all(clients.iter().map(|client| send(client, &url))).await {
        let kind = sent.unwrap_err();
        let is_tried = [SendErrorKind::ConnectFailed, SendErrorKind::TimeLimit].contains(&kind);
        assert!(is_tried, "{kind}");
    }
    assert_eq!(receiver.connections().await, 0);
}

#[tokio::test]
async fn a_name_that_changes_is_looked_up_once() {
    let receiver = Receiver::answering(OK).await;
    let rebinding = Answers::new(&[&[NOBODY], &["127.0.0.1"]]);
    let client = guarded(&receiver).resolver(rebinding.clone());
    let url = format!("http://hooks.example:{}/", receiver.port);
    assert!(send(&client, &url).await.is_err());
    assert_eq!(rebinding.lookups(), 1);
    assert_eq!(receiver.connections().await, 0);
    // The other way around, the first answer is the one that is used.
    let rebinding = Answers::new(&[&["127.0.0.1"], &[NOBODY]]);
    let client = local([receiver.port]).resolver(rebinding.clone());
    assert!(send(&client, &url).await.is_ok());
    assert_eq!(rebinding.lookups(), 1);
}

#[tokio::test]
async fn a_private_address_in_a_url_is_refused() {
    let receiver = Receiver::answering(OK).await;
    let answers = Answers::new(&[&[NOBODY]]);
    let client = guarded(&receiver).resolver(answers.clone());
    for host in [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:7f00:1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ] {
        let url = format!("http://{host}:{}/s3cret", receiver.port);
        let kind = send(&client, &url).await.unwrap_err();
        assert_eq!(kind, SendErrorKind::AddressRefused, "{host}");
    }
    assert_eq!(answers.lookups(), 0);
    assert_eq!(receiver.connections().await, 0);
}

#[tokio::test]
async fn the_system_resolves_names_and_the_addresses_are_checked() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://localhost:{}/", receiver.port);
    let kind = send(&guarded(&receiver), &url).await.unwrap_err();
    assert_eq!(kind, SendErrorKind::AddressRefused);
    assert_eq!(receiver.connections().await, 0);
    assert!(send(&local([receiver.port]), &url).await.is_ok());
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let receiver = Receiver::answering(OK).await;
    let answers = Answers::new(&[&["127.0.0.2", "::1", "127.0.0.1"]]);
    let client = local([receiver.port]).resolver(answers);
    let url = format!("http://hooks.example:{}/", receiver.port);
    assert!(send(&client, &url).await.is_ok());
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_an_error() {
    let start = Instant::now();
    let url = "https://hooks.example/s3cret";
    let kind = |client: HttpsClient| async move { send(&client, url).await.unwrap_err() };
    let client = local([]);
    assert_eq!(
        kind(client.clone().resolver(Ignorant)).await,
        SendErrorKind::DnsFailed
    );
    let nothing = Answers::new(&[&[]]);
    assert_eq!(
        kind(client.clone().resolver(nothing)).await,
        SendErrorKind::DnsFailed
    );
    assert!(start.elapsed() < SECOND);
    let error = client
        .resolver(Silent)
        .send(request(url))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::TimeLimit);
    assert!(error.to_string().ends_with("while resolving the name"));
    assert!(start.elapsed() < SECOND * 3);
}

#[tokio::test]
async fn a_scheme_or_a_port_that_is_not_allowed_is_refused() {
    let receiver = Receiver::answering(OK).await;
    let client = HttpsClient::new().dangerous_allow_private_addresses();
    let without_http = client.clone().allow_ports([receiver.port]);
    let without_port = client.dangerous_allow_http();
    for client in [without_http, without_port] {
        let kind = send(&client, &receiver.url()).await.unwrap_err();
        assert_eq!(kind, SendErrorKind::UrlRefused);
    }
    assert_eq!(receiver.connections().await, 0);
}

/// Linux drops what it has no room for.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_swallows_packets_leaves_time_for_the_next() {
    let receiver = Receiver::answering(OK).await;
    let full = TcpSocket::new_v4().unwrap();
    full.bind(([127, 0, 0, 2], receiver.port).into()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    let connect = || timeout(Duration::from_millis(200), TcpStream::connect(address));
    while let Ok(stream) = connect().await {
        waiting.push(stream.unwrap());
    }
    let answers = Answers::new(&[&["127.0.0.2", "127.0.0.1"]]);
    let client = local([receiver.port]).resolver(answers);
    let url = format!("http://hooks.example:{}/", receiver.port);
    assert!(send(&client, &url).await.is_ok());
}

/// Linux connects to itself then, which is not the address that was checked.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_leads_elsewhere_is_refused() {
    let receiver = Receiver::answering(OK).await;
    let url = format!("http://0.0.0.0:{}/s3cret", receiver.port);
    let kind = send(&local([receiver.port]), &url).await.unwrap_err();
    assert_eq!(kind, SendErrorKind::AddressRefused);
}

/// The limit that is set is the limit, between a second and a minute.
#[tokio::test(start_paused = true)]
async fn the_time_limit_is_from_one_second_to_a_minute() {
    for (set, limit) in [(0, 1), (1, 1), (15, 15), (60, 60), (3_600, 60)] {
        let start = tokio::time::Instant::now();
        let client = HttpsClient::new().resolver(Silent);
        let client = client.time_limit(Duration::from_secs(set));
        let sent = client.send(request("https://hooks.example/")).await;
        assert_eq!(sent.unwrap_err().kind(), SendErrorKind::TimeLimit);
        assert_eq!(start.elapsed().as_secs(), limit);
    }
    let start = tokio::time::Instant::now();
    let client = HttpsClient::new().resolver(Silent);
    let sent = client.send(request("https://hooks.example/")).await;
    assert!(sent.is_err());
    assert_eq!(start.elapsed().as_secs(), 20, "the default");
}
