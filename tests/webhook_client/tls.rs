//! Receivers with TLS, by authorities of their own.

use std::sync::{Arc, Mutex};

use http::StatusCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{ServerConfig, version};
use tower_api_key::webhook::{HttpsClient, SendErrorKind, WebhookClient};

use super::receiver::{Receiver, serve};
use super::resolvers::Answers;
use super::{OK, SECOND, is_signed, local, request, secret, send};

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn der(&self) -> &[u8] {
        self.0.der()
    }

    /// A receiver with a certificate for a name or an address.
    async fn receiver(&self, name: &str) -> Secure {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        self.receiver_of(params, OK).await
    }

    async fn receiver_of(&self, params: CertificateParams, answer: &str) -> Secure {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        Secure::answering(config.unwrap(), answer).await
    }
}

type Hellos = Arc<Mutex<Vec<(Option<String>, Option<Vec<u8>>)>>>;

/// A receiver with TLS.
struct Secure {
    receiver: Receiver,
    /// The names that clients asked for, and the protocols that were agreed on.
    hellos: Hellos,
}

impl Secure {
    async fn answering(mut config: ServerConfig, answer: &str) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let answer: Arc<[u8]> = answer.as_bytes().into();
        let hellos = Hellos::default();
        let seen = hellos.clone();
        let receiver = Receiver::doing(move |stream: TcpStream, received| {
            let (config, answer, seen) = (config.clone(), answer.clone(), seen.clone());
            async move {
                let Ok(hello) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else {
                    return;
                };
                let name = hello.client_hello().server_name().map(str::to_owned);
                if let Ok(stream) = hello.into_stream(config).await {
                    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                    seen.lock().unwrap().push((name, protocol));
                    serve(stream, answer, received).await;
                }
            }
        });
        Self {
            receiver: receiver.await,
            hellos,
        }
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/s3cret", self.receiver.port)
    }

    /// A client that finds the receiver under any name.
    fn client(&self) -> HttpsClient {
        local([self.receiver.port]).resolver(Answers::new(&[&["127.0.0.1"]]))
    }
}

#[tokio::test]
async fn a_request_arrives_over_tls_at_the_host_of_the_name() {
    let authority = Authority::new("One");
    let mut secure = authority.receiver("hooks.example").await;
    let client = secure.client().with_roots([authority.der()]).unwrap();
    for _ in 0..2 {
        let answer = send(&client, &secure.url("Hooks.example")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(is_signed(&secure.receiver.next().await, &secret(1)));
    }
    let hello = (Some("hooks.example".to_owned()), Some(b"http/1.1".to_vec()));
    assert_eq!(*secure.hellos.lock().unwrap(), [hello.clone(), hello]);
}

#[tokio::test]
async fn an_address_may_have_a_certificate() {
    let authority = Authority::new("One");
    let secure = authority.receiver("127.0.0.1").await;
    let client = secure.client().with_roots([authority.der()]).unwrap();
    assert!(send(&client, &secure.url("127.0.0.1")).await.is_ok());
    assert_eq!(secure.hellos.lock().unwrap()[0].0, None);
}

#[tokio::test]
async fn the_certificate_of_another_host_is_refused() {
    let authority = Authority::new("One");
    let secure = authority.receiver("hooks.example").await;
    let client = secure.client().with_roots([authority.der()]).unwrap();
    for host in ["other.example", "a.hooks.example", "example", "127.0.0.1"] {
        let sent = client.send(request(&secure.url(host))).await;
        let error = sent.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::TlsFailed, "{host}");
        assert_eq!(error.to_string(), "the certificate is for another host");
    }
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let secure = Authority::new("One").receiver("hooks.example").await;
    let other = Authority::new("Another");
    let strangers = secure.client().with_roots([other.der()]).unwrap();
    for client in [secure.client(), strangers] {
        let sent = client.send(request(&secure.url("hooks.example"))).await;
        let error = sent.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::TlsFailed);
        let expected = "the certificate is of an authority that is not trusted";
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_certificate_that_has_ended_or_not_begun_is_refused() {
    let authority = Authority::new("One");
    let mut ended = CertificateParams::new(["hooks.example".to_owned()]).unwrap();
    ended.not_before = date_time_ymd(2020, 1, 1);
    ended.not_after = date_time_ymd(2021, 1, 1);
    let mut not_begun = CertificateParams::new(["hooks.example".to_owned()]).unwrap();
    not_begun.not_before = date_time_ymd(4000, 1, 1);
    for (params, reason) in [(ended, "has expired"), (not_begun, "is not valid yet")] {
        let secure = authority.receiver_of(params, OK).await;
        let client = secure.client().with_roots([authority.der()]).unwrap();
        let sent = client.send(request(&secure.url("hooks.example"))).await;
        let error = sent.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::TlsFailed);
        assert_eq!(error.to_string(), format!("the certificate {reason}"));
    }
}

#[tokio::test]
async fn a_receiver_without_tls_is_refused() {
    let plain = Receiver::doing(|mut stream, _| async move {
        use tokio::io::AsyncWriteExt;
        let _ = stream.write_all(b"HTTP/1.1 400 s3cret\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let closing = Receiver::doing(|_, _| async {}).await;
    for receiver in [plain, closing] {
        let url = format!("https://127.0.0.1:{}/s3cret", receiver.port);
        let kind = send(&local([receiver.port]), &url).await.unwrap_err();
        assert_eq!(kind, SendErrorKind::TlsFailed);
    }
}

#[tokio::test]
async fn a_receiver_that_never_agrees_on_tls_is_given_up() {
    let silent = Receiver::doing(|stream, _| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let url = format!("https://127.0.0.1:{}/s3cret", silent.port);
    let error = local([silent.port]).send(request(&url)).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::TimeLimit);
    assert!(error.to_string().ends_with("while agreeing on TLS"));
}

#[tokio::test]
async fn a_receiver_that_agrees_on_tls_and_never_answers_is_given_up() {
    let authority = Authority::new("One");
    let params = CertificateParams::new(["hooks.example".to_owned()]).unwrap();
    let mut silent = authority.receiver_of(params, "").await;
    let client = silent.client().with_roots([authority.der()]).unwrap();
    let sent = client.send(request(&silent.url("hooks.example")));
    let sent = tokio::time::timeout(SECOND * 10, sent).await.unwrap();
    let error = sent.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::TimeLimit);
    assert!(error.to_string().ends_with("while waiting for the answer"));
    assert!(is_signed(&silent.receiver.next().await, &secret(1)));
}

#[tokio::test]
async fn a_receiver_that_closes_tls_gives_no_answer() {
    let authority = Authority::new("One");
    let params = CertificateParams::new(["hooks.example".to_owned()]).unwrap();
    let secure = authority.receiver_of(params, "HTTP/1.0 \r\n\r\n").await;
    let client = secure.client().with_roots([authority.der()]).unwrap();
    let kind = send(&client, &secure.url("hooks.example"))
        .await
        .unwrap_err();
    assert_eq!(kind, SendErrorKind::MalformedAnswer);
}

#[tokio::test]
async fn a_root_that_is_no_certificate_is_an_error() {
    let authority = Authority::new("One");
    let error = HttpsClient::new().with_roots([authority.der(), b"-----BEGIN"]);
    let expected = "the certificate number 1, counted from 0, is not an X.509 certificate in DER";
    assert_eq!(error.unwrap_err().to_string(), expected);
}
