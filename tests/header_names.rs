//! The headers that keys may be read from, held against IANA's registry of HTTP field names.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use tower_api_key::KeySource;

/// The registry as of May 2026: permanent, provisional, deprecated and obsoleted names.
#[rustfmt::skip]
const REGISTERED: &[&str] = &[
    "A-IM", "Accept", "Accept-Additions", "Accept-CH", "Accept-Datetime", "Accept-Encoding",
    "Accept-Features", "Accept-Language", "Accept-Patch", "Accept-Post", "Accept-Query",
    "Accept-Ranges", "Accept-Signature", "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers", "Access-Control-Max-Age", "Access-Control-Request-Headers",
    "Access-Control-Request-Method", "Age", "Allow", "ALPN", "Alt-Svc", "Alt-Used", "Alternates",
    "Apply-To-Redirect-Ref", "Authentication-Control", "Authentication-Info", "Authorization",
    "Available-Dictionary", "Cache-Control", "Cache-Group-Invalidation", "Cache-Groups",
    "Cache-Status", "Cal-Managed-ID", "CalDAV-Timezones", "Capsule-Protocol", "CDN-Cache-Control",
    "CDN-Loop", "Cert-Not-After", "Cert-Not-Before", "Clear-Site-Data", "Client-Cert",
    "Client-Cert-Chain", "Close", "Concealed-Auth-Export", "Connect-UDP-Bind", "Connection",
    "Content-Digest", "Content-Disposition", "Content-Encoding", "Content-Language",
    "Content-Length", "Content-Location", "Content-Range", "Content-Security-Policy",
    "Content-Security-Policy-Report-Only", "Content-Type", "Cookie", "Cross-Origin-Embedder-Policy",
    "Cross-Origin-Embedder-Policy-Report-Only", "Cross-Origin-Opener-Policy",
    "Cross-Origin-Opener-Policy-Report-Only", "Cross-Origin-Resource-Policy", "DASL", "Date", "DAV",
    "Delta-Base", "Deprecation", "Depth", "Destination", "Detached-JWS", "Dictionary-ID", "DPoP",
    "DPoP-Nonce", "Early-Data", "ETag", "Expect", "Expires", "Forwarded", "From", "Hobareg", "Host",
    "If", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Schedule-Tag-Match",
    "If-Unmodified-Since", "IM", "Include-Referred-Token-Binding-ID", "Incremental", "Keep-Alive",
    "Label", "Last-Event-ID", "Last-Modified", "Link", "Link-Template", "Location", "Lock-Token",
    "Max-Forwards", "Memento-Datetime", "Meter", "MIME-Version", "Negotiate", "NEL",
    "OData-EntityId", "OData-Isolation", "OData-MaxVersion", "OData-Version",
    "Optional-WWW-Authenticate", "Ordering-Type", "Origin", "Origin-Agent-Cluster", "OSCORE",
    "OSLC-Core-Version", "Overwrite", "Ping-From", "Ping-To", "Position", "Prefer",
    "Preference-Applied", "Priority", "Proxy-Authenticate", "Proxy-Authentication-Info",
    "Proxy-Authorization", "Proxy-Status", "Public-Key-Pins", "Public-Key-Pins-Report-Only",
    "Range", "Redirect-Ref", "Referer", "Referrer-Policy", "Refresh", "Replay-Nonce", "Repr-Digest",
    "Retry-After", "Schedule-Reply", "Schedule-Tag", "Sec-Fetch-Dest", "Sec-Fetch-Mode",
    "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-Purpose", "Sec-Token-Binding", "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version", "Server", "Server-Timing", "Set-Cookie", "Set-Txn", "Signature",
    "Signature-Input", "SLUG", "SoapAction", "Status-URI", "Strict-Transport-Security", "Sunset",
    "TCN", "TE", "Timeout", "Topic", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding",
    "TTL", "Upgrade", "Urgency", "Use-As-Dictionary", "User-Agent", "Variant-Vary", "Vary", "Via",
    "Want-Content-Digest", "Want-Repr-Digest", "WWW-Authenticate", "X-Content-Type-Options",
    "X-Frame-Options",
    "Activate-Storage-Access", "AMP-Cache-Transform", "CMCD-Object", "CMCD-Request", "CMCD-Session",
    "CMCD-Status", "CMSD-Dynamic", "CMSD-Static", "Configuration-Context",
    "CTA-Common-Access-Token", "EDIINT-Features", "Isolation", "Permissions-Policy",
    "Repeatability-Client-ID", "Repeatability-First-Sent", "Repeatability-Request-ID",
    "Repeatability-Result", "Reporting-Endpoints", "Sec-Fetch-Storage-Access", "Sec-GPC",
    "Surrogate-Capability", "Surrogate-Control", "Timing-Allow-Origin",
    "Accept-Charset", "C-PEP-Info", "Content-MD5", "P3P", "Pragma", "Protocol-Info",
    "Protocol-Query", "X-Device-Accept-Ranges", "Access-Control", "C-Ext", "C-Man", "C-Opt",
    "C-PEP", "Compliance", "Content-Base", "Content-Identifier", "Content-ID",
    "Content-Script-Type", "Content-Style-Type", "Content-Version", "Cookie2", "Cost",
    "Default-Style", "Delta-Link", "Derived-From", "Differential-ID", "Digest", "Expect-CT", "Ext",
    "GetProfile", "HTTP2-Settings", "Man", "Method-Check", "Method-Check-Expires", "Non-Compliance",
    "Opt", "Optional", "P", "PEP", "PEP-Info", "PICS-Label", "ProfileObject", "Protocol",
    "Protocol-Request", "Proxy-Features", "Proxy-Instruction", "Public", "Referer-Root",
    "Resolution-Hint", "Resolver-Location", "Safe", "Security-Scheme", "Set-Cookie2", "SetProfile",
    "SubOK", "Subst", "Surrogate", "Title", "UA-Color", "UA-Media", "UA-Pixels", "UA-Resolution",
    "UA-Windowpixels", "URI", "Version", "Want-Digest", "Warning", "X-Pad", "X-XSS-Protection",
];

/// The names that are not registered, and that proxies, browsers and frameworks act on.
#[rustfmt::skip]
const DE_FACTO: &[&str] = &[
    "B3", "Baggage", "Client-IP", "Correlation-ID", "Device-Memory", "DNT", "Downlink", "DPR",
    "ECT", "Fastly-Client-IP", "Front-End-Https", "Idempotency-Key", "Method-Override", "Proxy",
    "RateLimit", "Request-ID", "RTT", "Save-Data", "Status", "Trailers", "True-Client-IP",
    "Uber-Trace-Id", "Upgrade-Insecure-Requests", "Viewport-Width", "Width", "X-Amzn-Trace-Id",
    "X-Client-IP", "X-Cloud-Trace-Context", "X-Cluster-Client-IP", "X-Correlation-ID",
    "X-CSRF-Token", "X-CSRFToken", "X-DNS-Prefetch-Control", "X-Download-Options", "X-Forwarded",
    "X-Host", "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override",
    "X-Original-Forwarded-For", "X-Original-Host", "X-Original-URI", "X-Original-URL",
    "X-Permitted-Cross-Domain-Policies", "X-Powered-By", "X-ProxyUser-IP", "X-RateLimit",
    "X-Real-IP", "X-Real-Port", "X-Remote-Addr", "X-Remote-IP", "X-Request-ID", "X-Requested-With",
    "X-Rewrite-URL", "X-Robots-Tag", "X-Sendfile", "X-UA-Compatible", "X-XSRF-Token",
    "CF-Connecting-IP", "CF-Ray", "Content-Anything-New", "Grpc-Timeout", "If-Anything-New",
    "Proxy-Connection", "RateLimit-Policy", "Sec-CH-UA", "X-Accel-Redirect", "X-B3-TraceId",
    "X-Envoy-Original-Path", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
];

/// The names that this library writes, beside registered ones.
const WRITTEN: &[&str] = &["X-Key-Status", "X-Key-Expires-At", "X-Key-Expired-At"];

/// The names that services do use for keys.
const IN_USE: &[&str] = &[
    "X-API-Key",
    "apikey",
    "api-key",
    "X-Acme-Api-Key",
    "X-Auth-Token",
    "X-Auth-Key",
    "X-Goog-Api-Key",
    "Ocp-Apim-Subscription-Key",
    "DD-API-KEY",
    "DD-APPLICATION-KEY",
    "X-Shopify-Access-Token",
    "Private-Token",
    "X-Vault-Token",
    "X-Access-Token",
    "X-Key",
    "X-Functions-Key",
    "xi-api-key",
    "Circle-Token",
    "X-Api-Token",
    "Token",
    "Access-Token",
    "Secret-Key",
    "X-Secret",
];

fn with_a_meaning() -> Vec<&'static str> {
    [REGISTERED, DE_FACTO, WRITTEN].concat()
}

/// A name with some letters in the other case.
fn in_some_case(name: &str, flips: &[bool]) -> String {
    let flips = flips.iter().cycle();
    let other = |(letter, flip): (char, &bool)| match (flip, letter.is_ascii_lowercase()) {
        (false, _) => letter,
        (true, true) => letter.to_ascii_uppercase(),
        (true, false) => letter.to_ascii_lowercase(),
    };
    name.chars().zip(flips).map(other).collect()
}

#[test]
fn a_header_with_another_meaning_is_refused_by_name() {
    for name in with_a_meaning() {
        let error = KeySource::header(name).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn header_names_that_services_use_for_keys_are_accepted() {
    for name in IN_USE {
        assert!(KeySource::header(name).is_ok(), "{name}");
    }
}

#[test]
fn header_constants_of_the_http_crate_are_refused() {
    use http::header;
    for name in [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE_INSECURE_REQUESTS,
        header::DNT,
        header::EXPECT,
        header::VIA,
        header::X_DNS_PREFETCH_CONTROL,
        header::REFERER,
    ] {
        assert!(KeySource::header(name.as_str()).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_header_with_another_meaning_is_refused_in_any_letter_case(
        name in proptest::sample::select(with_a_meaning()),
        flips in proptest::collection::vec(any::<bool>(), 1..12),
    ) {
        prop_assert!(KeySource::header(&in_some_case(name, &flips)).is_err());
    }

    #[test]
    fn a_header_name_used_for_keys_is_accepted_in_any_letter_case(
        name in proptest::sample::select(IN_USE),
        flips in proptest::collection::vec(any::<bool>(), 1..12),
    ) {
        prop_assert!(KeySource::header(&in_some_case(name, &flips)).is_ok());
    }

    #[test]
    fn every_header_with_a_reserved_prefix_is_refused(
        family in proptest::sample::select(vec![
            "Access-Control-", "Content-", "If-", "Proxy-", "Sec-", "X-Forwarded-", "X-RateLimit-",
        ]),
        member in "[a-zA-Z0-9]{1,12}",
    ) {
        let name = format!("{family}{member}");
        prop_assert!(KeySource::header(&name).is_err());
    }
}
