//! The names of headers that have a meaning of their own, and are refused as key sources.
//!
//! A key source with such a name would refuse requests that use the header for its own purpose, and
//! would remove it from all others.

/// Returns whether a header of this name, in lower case, has a meaning of its own.
pub(super) fn is_reserved(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || [PERMANENT, PROVISIONAL, OBSOLETE, DE_FACTO, WRITTEN_HERE]
            .iter()
            .any(|names| names.contains(&name))
}

/// Prefixes of families of names that still gain new members.
#[rustfmt::skip]
const PREFIXES: &[&str] = &[
    "accept-", "access-control-", "cdn-", "cf-", "connect-", "content-", "cross-origin-", "grpc-",
    "hx-", "if-", "odata-", "proxy-", "ratelimit-", "sec-", "service-worker", "tus-", "upload-",
    "wl-proxy-", "x-accel-", "x-amz-", "x-amzn-", "x-appengine-", "x-auth-request-", "x-azure-",
    "x-b3-", "x-content-", "x-datadog-", "x-envoy-", "x-forwarded-", "x-goog-authenticated-",
    "x-goog-iap-", "x-ms-client-principal", "x-nf-", "x-ot-span-", "x-ratelimit-", "x-rate-limit-",
    "x-ssl-", "x-vercel-",
];

/// The permanent names of IANA's "HTTP Field Name Registry" (May 2026), less those of a family.
#[rustfmt::skip]
const PERMANENT: &[&str] = &[
    "a-im", "accept", "age", "allow", "alpn", "alt-svc", "alt-used", "alternates",
    "apply-to-redirect-ref", "authentication-control", "authentication-info", "authorization",
    "available-dictionary", "cache-control", "cache-group-invalidation", "cache-groups",
    "cache-status", "cal-managed-id", "caldav-timezones", "capsule-protocol", "cert-not-after",
    "cert-not-before", "clear-site-data", "client-cert", "client-cert-chain", "close",
    "concealed-auth-export", "connect-udp-bind", "connection", "cookie", "dasl", "date", "dav",
    "delta-base", "deprecation", "depth", "destination", "detached-jws", "dictionary-id", "dpop",
    "dpop-nonce", "early-data", "etag", "expect", "expires", "forwarded", "from", "hobareg", "host",
    "if", "im", "include-referred-token-binding-id", "incremental", "keep-alive", "label",
    "last-event-id", "last-modified", "link", "link-template", "location", "lock-token",
    "max-forwards", "memento-datetime", "meter", "mime-version", "negotiate", "nel",
    "optional-www-authenticate", "ordering-type", "origin", "origin-agent-cluster", "oscore",
    "oslc-core-version", "overwrite", "ping-from", "ping-to", "position", "prefer",
    "preference-applied", "priority", "public-key-pins", "public-key-pins-report-only", "range",
    "redirect-ref", "referer", "referrer-policy", "refresh", "replay-nonce", "repr-digest",
    "retry-after", "schedule-reply", "schedule-tag", "server", "server-timing", "set-cookie",
    "set-txn", "signature", "signature-input", "slug", "soapaction", "status-uri",
    "strict-transport-security", "sunset", "tcn", "te", "timeout", "topic", "traceparent",
    "tracestate", "trailer", "transfer-encoding", "ttl", "upgrade", "urgency", "use-as-dictionary",
    "user-agent", "variant-vary", "vary", "via", "want-content-digest", "want-repr-digest",
    "www-authenticate", "x-frame-options",
];

/// The provisional names of the same registry.
#[rustfmt::skip]
const PROVISIONAL: &[&str] = &[
    "activate-storage-access", "amp-cache-transform", "cmcd-object", "cmcd-request", "cmcd-session",
    "cmcd-status", "cmsd-dynamic", "cmsd-static", "configuration-context",
    "cta-common-access-token", "ediint-features", "isolation", "permissions-policy",
    "repeatability-client-id", "repeatability-first-sent", "repeatability-request-id",
    "repeatability-result", "reporting-endpoints", "surrogate-capability", "surrogate-control",
    "timing-allow-origin",
];

/// The deprecated and obsoleted names of the same registry: some servers still act on them.
#[rustfmt::skip]
const OBSOLETE: &[&str] = &[
    "access-control", "c-ext", "c-man", "c-opt", "c-pep", "c-pep-info", "compliance", "cookie2",
    "cost", "default-style", "delta-link", "derived-from", "differential-id", "digest", "expect-ct",
    "ext", "getprofile", "http2-settings", "man", "method-check", "method-check-expires",
    "non-compliance", "opt", "optional", "p", "p3p", "pep", "pep-info", "pics-label", "pragma",
    "profileobject", "protocol", "protocol-info", "protocol-query", "protocol-request", "public",
    "referer-root", "resolution-hint", "resolver-location", "safe", "security-scheme",
    "set-cookie2", "setprofile", "subok", "subst", "surrogate", "title", "ua-color", "ua-media",
    "ua-pixels", "ua-resolution", "ua-windowpixels", "uri", "version", "want-digest", "warning",
    "x-device-accept-ranges", "x-pad", "x-xss-protection",
];

/// The names that proxies, browsers and frameworks act on without a registration.
#[rustfmt::skip]
const DE_FACTO: &[&str] = &[
    "b3", "baggage", "client-ip", "correlation-id", "device-memory", "dnt", "downlink", "dpr",
    "ect", "fastly-client-ip", "fastly-ssl", "fly-client-ip", "fly-forwarded-port",
    "fly-forwarded-proto", "fly-region", "front-end-https", "idempotency-key", "method-override", "proxy",
    "purpose", "ratelimit", "remote-user", "request-id", "rtt", "save-data", "status", "trailers", "true-client-ip",
    "uber-trace-id", "upgrade-insecure-requests", "viewport-width", "width", "x-amzn-trace-id",
    "x-client-ip", "x-cloud-trace-context", "x-cluster-client-ip", "x-correlation-id",
    "x-csrf-token", "x-csrftoken", "x-dns-prefetch-control", "x-download-options", "x-forwarded",
    "x-host", "x-http-method", "x-http-method-override", "x-method-override",
    "x-original-forwarded-for", "x-original-host", "x-original-uri", "x-original-url",
    "x-idempotency-key", "x-inertia", "x-original-method", "x-permitted-cross-domain-policies",
    "x-powered-by", "x-proxyuser-ip", "x-purpose", "x-ratelimit", "x-real-ip", "x-real-port",
    "x-remote-addr", "x-remote-ip", "x-remote-user", "x-request-id", "x-requested-by",
    "x-requested-with", "x-scheme", "x-url-scheme",
    "x-rewrite-url", "x-robots-tag", "x-sendfile", "x-ua-compatible", "x-xsrf-token",
];

/// The names that this library writes into responses and requests, beside registered ones.
const WRITTEN_HERE: &[&str] = &[
    "x-key-account",
    "x-key-environment",
    "x-key-expired-at",
    "x-key-expires-at",
    "x-key-id",
    "x-key-plan",
    "x-key-scopes",
    "x-key-status",
];
