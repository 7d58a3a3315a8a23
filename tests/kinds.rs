//! Publishable keys, and secret keys in browsers, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;

use http::Request;
use support::{READ, WRITE, World, send, serve};
use tower_api_key::key::{AllowedOrigins, KeyFormat, KeyKind};
use tower_api_key::manage::{FieldError, IssueError, IssueKey};
use tower_api_key::{ApiKeys, Environment, IssuedKey, KeyRecord};

/// A world with publishable keys.
fn world() -> World {
    let format = |prefix| KeyFormat::new(prefix, Environment::LIVE).unwrap();
    let formats = [format("acme_pub").publishable(), format("acme_live")];
    let set = World::builder().set(|keys| keys.formats(formats).publishable_scopes([READ]));
    set.build()
}

fn change(world: &World, key: &IssuedKey, change: impl FnOnce(KeyRecord) -> KeyRecord) {
    world.change_elsewhere(key.id(), change);
    world.keys.invalidate(&key.id());
}

/// The status of an answer, and the code of a refusal.
async fn ask(address: SocketAddr, key: &IssuedKey, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::builder().header("x-api-key", key.expose_secret());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = send(address, request.body(()).unwrap()).await;
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let code = body["error"]["code"].as_str().unwrap_or_default();
    (answer.status, code.to_owned())
}

fn refused(code: &str) -> (u16, String) {
    (403, code.to_owned())
}

fn passed() -> (u16, String) {
    (200, String::new())
}

#[tokio::test]
async fn a_key_passes_only_layers_that_accept_its_kind() {
    let World { keys, .. } = world();
    let secret = keys.issue("acme").await.unwrap();
    let publishable = keys.issue("acme").publishable().await.unwrap();
    assert!(secret.expose_secret().starts_with("acme_live_"));
    assert!(publishable.expose_secret().starts_with("acme_pub_"));
    let by_prefix = keys.issue("acme").prefix("acme_pub").await.unwrap();
    for (kinds, opens) in [
        (None, [true, false]),
        (Some(vec![KeyKind::Secret]), [true, false]),
        (Some(vec![KeyKind::Publishable]), [false, true]),
        (
            Some(vec![KeyKind::Publishable, KeyKind::Secret]),
            [true, true],
        ),
        (Some(vec![]), [false, false]),
    ] {
        let layer = keys.layer();
        let layer = match kinds {
            Some(kinds) => layer.kinds(kinds),
            None => layer,
        };
        let address = serve(layer).await;
        for (key, opens) in [
            (&secret, opens[0]),
            (&publishable, opens[1]),
            (&by_prefix, opens[1]),
        ] {
            let expected = if opens {
                passed()
            } else {
                refused("wrong_key_kind")
            };
            // Loaded, and then cached.
            for _ in 0..2 {
                assert_eq!(ask(address, key, &[]).await, expected);
            }
        }
    }
    let caller = keys.verify(publishable.expose_secret()).await.unwrap();
    assert_eq!(caller.kind(), KeyKind::Publishable);
    let caller = keys.verify(secret.expose_secret()).await.unwrap();
    assert_eq!(
        (caller.kind(), KeyKind::Secret.to_string()),
        (KeyKind::Secret, "secret".into())
    );
}

#[tokio::test]
async fn a_publishable_key_never_holds_a_scope_that_is_not_publishable() {
    let world = world();
    let keys = &world.keys;
    let refused_scope = keys.issue("acme").publishable().scopes([READ, WRITE]).await;
    let error = refused_scope.unwrap_err();
    assert!(
        matches!(&error, IssueError::Field(FieldError::NotPublishable(scope)) if *scope == WRITE),
        "{error}"
    );
    let key = keys
        .issue("acme")
        .publishable()
        .scopes([READ])
        .await
        .unwrap();
    let layer = || keys.layer().kinds([KeyKind::Publishable]);
    let (reads, writes) = (
        serve(layer().require(READ)).await,
        serve(layer().require(WRITE)).await,
    );
    assert_eq!(ask(reads, &key, &[]).await, passed());
    assert_eq!(ask(writes, &key, &[]).await, refused("insufficient_scope"));
    let both = [READ, WRITE].into_iter().collect();
    change(&world, &key, |record| record.with_scopes(both));
    assert_eq!(ask(reads, &key, &[]).await, passed());
    assert_eq!(ask(writes, &key, &[]).await, refused("insufficient_scope"));
    let caller = keys.verify(key.expose_secret()).await.unwrap();
    assert_eq!(caller.scopes().to_string(), READ.as_str());
    // A change by this process, which the cache takes over without a look into the store.
    let id = key.id();
    keys.suspend(id).await.unwrap();
    keys.resume(id).await.unwrap();
    assert_eq!(ask(writes, &key, &[]).await, refused("insufficient_scope"));
    // A secret key holds what its record says.
    let secret = keys.issue("acme").scopes([WRITE]).await.unwrap();
    assert_eq!(
        ask(serve(keys.layer().require(WRITE)).await, &secret, &[]).await,
        passed()
    );
}

#[tokio::test]
async fn a_publishable_key_can_be_restricted_to_web_origins() {
    let world = world();
    let keys = &world.keys;
    let app =
        || AllowedOrigins::only(["https://app.example.com", "http://localhost:3000"]).unwrap();
    let bound = keys
        .issue("acme")
        .publishable()
        .origins(app())
        .await
        .unwrap();
    let free = keys.issue("acme").publishable().await.unwrap();
    let address = serve(keys.layer().kinds([KeyKind::Publishable])).await;
    let no = refused("origin_not_allowed");
    for (headers, expected) in [
        (vec![("origin", "https://app.example.com")], passed()),
        (vec![("origin", "http://localhost:3000")], passed()),
        (vec![("origin", "http://localhost:3001")], no.clone()),
        (
            vec![("origin", "https://app.example.com.evil.example")],
            no.clone(),
        ),
        (vec![("origin", "null")], no.clone()),
        (vec![("origin", "")], no.clone()),
        (
            vec![
                ("origin", "https://app.example.com"),
                ("origin", "https://app.example.com"),
            ],
            no.clone(),
        ),
        (vec![], no.clone()),
        (vec![("sec-fetch-site", "cross-site")], no.clone()),
        // A page of another host than those of the list.
        (vec![("sec-fetch-site", "same-origin")], no.clone()),
    ] {
        assert_eq!(
            ask(address, &bound, &headers).await,
            expected,
            "{headers:?}"
        );
        assert_eq!(ask(address, &free, &headers).await, passed(), "{headers:?}");
    }
    // A page of this very host, which leaves out its origin.
    let own = AllowedOrigins::only([format!("http://{address}")]).unwrap();
    let own = keys.issue("acme").publishable().origins(own).await.unwrap();
    let same = [("sec-fetch-site", "same-origin")];
    assert_eq!(ask(address, &own, &same).await, passed());
    assert_eq!(ask(address, &own, &[]).await, no);
    let never = |issue: IssueKey| issue.origins(app());
    let error = never(keys.issue("acme")).await.unwrap_err();
    assert!(
        matches!(error, IssueError::Field(FieldError::OriginsOfSecretKey)),
        "{error}"
    );
    // A secret key is not bound by them, or whoever reads a record would think that it is.
    let secret = keys.issue("acme").await.unwrap();
    change(&world, &secret, |record| record.with_origins(app()));
    assert_eq!(ask(serve(keys.layer()).await, &secret, &[]).await, passed());
}

#[tokio::test]
async fn a_secret_key_in_a_browser_can_be_refused() {
    let World { keys, .. } = world();
    let (secret, publishable) = (
        keys.issue("acme").await.unwrap(),
        keys.issue("acme").publishable().await.unwrap(),
    );
    let layer = keys.layer().kinds([KeyKind::Secret, KeyKind::Publishable]);
    let (lax, strict) = (
        serve(layer.clone()).await,
        serve(layer.refuse_secret_keys_in_browsers()).await,
    );
    for (headers, is_browser) in [
        (vec![("sec-fetch-site", "cross-site")], true),
        (vec![("sec-fetch-dest", "empty")], true),
        (
            vec![("sec-fetch-site", "none"), ("sec-fetch-dest", "document")],
            true,
        ),
        // Node.js sends the mode, and many clients an origin.
        (vec![("sec-fetch-mode", "cors")], false),
        (vec![("origin", "https://app.example.com")], false),
        (vec![], false),
    ] {
        let expected = if is_browser {
            refused("secret_key_in_browser")
        } else {
            passed()
        };
        assert_eq!(
            ask(strict, &secret, &headers).await,
            expected,
            "{headers:?}"
        );
        assert_eq!(
            ask(strict, &publishable, &headers).await,
            passed(),
            "{headers:?}"
        );
        assert_eq!(ask(lax, &secret, &headers).await, passed(), "{headers:?}");
    }
}

#[tokio::test]
async fn a_publishable_key_needs_a_publishable_format() {
    let keys = ApiKeys::in_memory();
    let error = keys.issue("acme").publishable().await.unwrap_err();
    assert!(error.to_string().contains("kind: publishable"), "{error}");
}
