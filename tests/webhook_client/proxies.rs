//! Proxies of the environment, which would resolve names themselves.

use std::process::Command;

use super::OK;
use super::receiver::Receiver;

/// Runs tests of this suite in a process whose environment names a proxy for everything.
#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_of_the_environment_is_used() {
    let proxy = Receiver::answering(OK).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([
        "--exact",
        "answers::a_signed_request_arrives",
        "tls::a_request_arrives_over_tls_at_the_host_of_the_name",
    ]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        again.env(name, &url).env(name.to_lowercase(), &url);
    }
    again.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || again.output());
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("2 passed"),
        "{text}"
    );
    assert_eq!(proxy.connections().await, 0);
}
