//! Endpoints: puts, finds, lists and deletions.

use crate::conformance::outbox::harness::{ANSWERS, Suite, at, kind};
use crate::conformance::promise::Promise;
use crate::store::{
    Cursor, Disabled, Endpoint, ManagedKeyStore, Paging, SecretName, StoreErrorKind, Target,
};
use crate::util::join_all::join_all;

const KEPT: Promise = Promise("an endpoint is found as it was put");
const CREATED_ONCE: Promise = Promise("an endpoint that exists is not created again");
const VERSIONS: Promise = Promise("only the preceding version of an endpoint is replaced");
const ONE_REPLACES: Promise = Promise("of replacements of one version at once, one is carried out");
const CAPPED: Promise =
    Promise("an account gets no more endpoints than the cap, by many calls at once");
const OF_KIND: Promise = Promise("an endpoint remains a webhook or a sink");
const REFUSED: Promise = Promise("an endpoint that not every store can keep is refused");
const LISTED: Promise = Promise("endpoints are listed once, in the order of their ids");
const CURSORS: Promise = Promise("a cursor of another list is refused");
const DELETED: Promise = Promise("an endpoint is deleted once");

/// The number of concurrent writers of one endpoint.
const RIVALS: usize = 8;

/// The cap on the endpoints of an account, and the number of those that are created at once.
const CAP: u32 = 8;
const AT_ONCE: usize = 30;

pub(super) async fn suite<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    keeps_endpoints(suite).await;
    checks_versions(suite).await;
    caps_accounts(suite).await;
    refuses_what_not_every_store_can_keep(suite).await;
    lists_endpoints(suite).await;
}

/// Returns endpoints of all shapes.
fn shapes<S: ManagedKeyStore>(suite: &Suite<'_, S>) -> Vec<Endpoint> {
    let mut rotated = suite.webhook("b_rotated");
    if let Target::Webhook(webhook) = &mut rotated.target {
        let previous = (webhook.secret.clone(), at(7));
        webhook.secret = SecretName::new("2027 ünïcode", u32::MAX);
        webhook.previous = Some(previous);
    }
    let kinds = (0..32).map(|number| format!("acme.kind_{number}"));
    let mut of_all = suite.sink("d");
    of_all.account = None;
    vec![
        suite.webhook("a").with_kinds(kinds),
        rotated.with_disabled(Disabled::new(at(9), "it answered 410 Gone")),
        suite.sink("C"),
        of_all.with_kinds([format!("acme.{}", suite.run)]),
    ]
}

async fn keeps_endpoints<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let outbox = &suite.outbox;
    for endpoint in shapes(suite) {
        let missing = ANSWERS.answer(outbox.find_endpoint(&endpoint.id).await, "find_endpoint");
        KEPT.holds(missing.is_none(), format_args!("{missing:?} before it was"));
        suite.put(&endpoint).await;
        let found = ANSWERS.answer(outbox.find_endpoint(&endpoint.id).await, "find_endpoint");
        KEPT.holds(
            found.as_ref() == Some(&endpoint),
            format_args!("{found:?} instead of {endpoint:?}"),
        );
        let again = kind(outbox.put_endpoint(&endpoint).await);
        CREATED_ONCE.holds(
            again == Err(StoreErrorKind::AlreadyExists),
            format_args!("{again:?}"),
        );
        for is_there in [true, false] {
            let deleted = outbox.delete_endpoint(&endpoint.id).await;
            let deleted = ANSWERS.answer(deleted, "delete_endpoint");
            DELETED.holds(deleted == is_there, format_args!("{deleted}"));
        }
        let gone = ANSWERS.answer(outbox.find_endpoint(&endpoint.id).await, "find_endpoint");
        DELETED.holds(gone.is_none(), format_args!("{gone:?} is found"));
    }
}

async fn checks_versions<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let outbox = &suite.outbox;
    let first = suite.webhook("versions");
    let next = |version: u64| {
        let next = first.clone().with_version(version);
        next.with_kinds([format!("acme.kind_{version}")])
    };
    let missing = kind(outbox.put_endpoint(&next(2)).await);
    VERSIONS.holds(
        missing == Err(StoreErrorKind::Conflict),
        format_args!("{missing:?} for an endpoint that does not exist"),
    );
    suite.put(&first).await;
    for (version, expected) in [
        (3, Err(StoreErrorKind::Conflict)),
        (2, Ok(())),
        (2, Err(StoreErrorKind::Conflict)),
        (4, Err(StoreErrorKind::Conflict)),
        (1, Err(StoreErrorKind::AlreadyExists)),
        (3, Ok(())),
    ] {
        let put = kind(outbox.put_endpoint(&next(version)).await);
        VERSIONS.holds(
            put == expected,
            format_args!("{put:?} instead of {expected:?} for version {version}"),
        );
    }
    let found = ANSWERS.answer(outbox.find_endpoint(&first.id).await, "find_endpoint");
    VERSIONS.holds(
        found.as_ref() == Some(&next(3)),
        format_args!("{found:?} instead of the last that was put"),
    );
    let rivals = (0..RIVALS).map(|rival| next(4).with_account(format!("rival {rival}")));
    let rivals: Vec<Endpoint> = rivals.collect();
    let puts = join_all(rivals.iter().map(|rival| outbox.put_endpoint(rival))).await;
    let puts: Vec<_> = puts.into_iter().map(kind).collect();
    let replaced = puts.iter().filter(|put| put.is_ok()).count();
    let conflicts = puts
        .iter()
        .filter(|put| **put == Err(StoreErrorKind::Conflict));
    ONE_REPLACES.holds(
        replaced == 1 && conflicts.count() == RIVALS - 1,
        format_args!("{puts:?}"),
    );
    let sink = suite.sink("versions").with_version(5);
    let put = kind(outbox.put_endpoint(&sink).await);
    OF_KIND.holds(put == Err(StoreErrorKind::Refused), format_args!("{put:?}"));
    suite.delete(&first.id).await;
}

async fn caps_accounts<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let outbox = &suite.outbox;
    let sinks = (0..AT_ONCE).map(|number| suite.sink(&format!("capped-{number}")));
    let sinks: Vec<Endpoint> = sinks.collect();
    // One that was put counts, too, and those of others do not.
    suite.put(&sinks[0]).await;
    let mut others = suite.sink("capped-of-another");
    others.account = Some(format!("another {}", suite.run));
    suite.put(&others).await;
    let created = sinks[1..]
        .iter()
        .map(|sink| outbox.create_endpoint(sink, CAP));
    let created: Vec<_> = join_all(created).await.into_iter().map(kind).collect();
    let (done, refused): (Vec<_>, Vec<_>) = created.iter().partition(|it| it.is_ok());
    let is_capped = |it: &&Result<(), StoreErrorKind>| **it == Err(StoreErrorKind::CapReached);
    CAPPED.holds(
        done.len() + 1 == CAP as usize && refused.iter().all(is_capped),
        format_args!("{created:?}"),
    );
    let (account, paging) = (suite.account(), Paging::first(100));
    let listed = outbox.endpoints(Some(&account), &paging).await;
    let listed = ANSWERS.answer(listed, "endpoints").items;
    CAPPED.holds(
        listed.len() == CAP as usize,
        format_args!("{} endpoints", listed.len()),
    );
    // The next one has room when one is deleted, or the cap is raised.
    let next = suite.sink("capped-next");
    suite.delete(&sinks[0].id).await;
    for (cap, expected) in [
        (CAP - 1, Err(StoreErrorKind::CapReached)),
        (CAP, Ok(())),
        (CAP + 1, Err(StoreErrorKind::AlreadyExists)),
        (0, Err(StoreErrorKind::AlreadyExists)),
    ] {
        let created = kind(outbox.create_endpoint(&next, cap).await);
        CAPPED.holds(
            created == expected,
            format_args!("{created:?} with a cap of {cap}"),
        );
    }
    // An endpoint of no account is not counted.
    let mut of_all = suite.sink("capped-of-all");
    of_all.account = None;
    let of_all = of_all.with_kinds([format!("acme.{}", suite.run)]);
    let created = kind(outbox.create_endpoint(&of_all, 0).await);
    CAPPED.holds(created == Ok(()), format_args!("{created:?} of no account"));
    let later = suite.sink("capped-later").with_version(2);
    let created = kind(outbox.create_endpoint(&later, 100).await);
    REFUSED.holds(
        created == Err(StoreErrorKind::Refused),
        format_args!("{created:?} in version 2"),
    );
    for sink in sinks.iter().chain([&others, &next, &of_all]) {
        suite.delete(&sink.id).await;
    }
}

async fn refuses_what_not_every_store_can_keep<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let sink = |id: &str| Endpoint::new(id, Target::Sink, at(0));
    let mut long = suite.webhook("long");
    if let Target::Webhook(webhook) = &mut long.target {
        webhook.url = format!("https://example.com/{}", "a".repeat(2_048));
    }
    for endpoint in [
        sink(""),
        sink("a b"),
        sink("a\0"),
        sink(&"a".repeat(65)),
        suite.sink("version").with_version(0),
        suite.sink("kind").with_kinds(["acme kind"]),
        suite.sink("kinds").with_kinds(vec!["acme.kind"; 33]),
        suite.sink("account").with_account("a\0".to_owned()),
        long,
    ] {
        let put = kind(suite.outbox.put_endpoint(&endpoint).await);
        REFUSED.holds(
            put == Err(StoreErrorKind::Refused),
            format_args!("{put:?} for {endpoint:?}"),
        );
    }
}

async fn lists_endpoints<S: ManagedKeyStore>(suite: &Suite<'_, S>) {
    let shapes = shapes(suite);
    for endpoint in &shapes {
        suite.put(endpoint).await;
    }
    let account = suite.account();
    let mut expected: Vec<&Endpoint> = shapes
        .iter()
        .filter(|it| it.account.as_ref() == Some(&account))
        .collect();
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    let mut cursor = None;
    for limit in [1, 2, 100] {
        let mut paging = Paging::first(limit);
        let mut listed = Vec::new();
        loop {
            let page = suite.outbox.endpoints(Some(&account), &paging).await;
            let page = ANSWERS.answer(page, "endpoints");
            listed.extend(page.items);
            let Some(next) = page.next else { break };
            cursor = Some(next.clone());
            paging = paging.after(next);
            LISTED.holds(listed.len() < 100, "the list does not end");
        }
        LISTED.holds(
            listed.iter().eq(expected.iter().copied()),
            format_args!("{listed:?} instead of {expected:?}"),
        );
    }
    let all = suite.outbox.endpoints(None, &Paging::first(1_000)).await;
    let all = ANSWERS.answer(all, "endpoints");
    LISTED.holds(
        all.items.is_sorted_by(|a, b| a.id < b.id),
        format_args!("{:?}", all.items),
    );
    let is_listed = |endpoint: &&Endpoint| !all.items.contains(endpoint);
    let missing = shapes.iter().find(is_listed);
    LISTED.holds(
        missing.is_none() || all.next.is_some(),
        format_args!("{missing:?} is not among all endpoints"),
    );
    let mut foreign = vec![Cursor::new(""), Cursor::new("x"), Cursor::new("-")];
    foreign.extend(cursor);
    for (cursor, account) in foreign.iter().flat_map(|it| [(it, Some("x")), (it, None)]) {
        let paging = Paging::first(1).after(cursor.clone());
        let refused = kind(suite.outbox.endpoints(account, &paging).await);
        CURSORS.holds(
            refused == Err(StoreErrorKind::InvalidCursor),
            format_args!("{refused:?} for {cursor:?}"),
        );
    }
    for endpoint in &shapes {
        suite.delete(&endpoint.id).await;
    }
}
