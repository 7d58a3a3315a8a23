//! Keys that leak: keep them out of logs and errors.
//!
//! # Redact the logs
//!
//! The layer takes the key out of the request, and the logs of this crate never contain one. Your
//! own logs may, for example if a proxy or a middleware in front of the layer logs URLs and headers,
//! or if an error repeats what a client sent. Let all logs of the application pass through a
//! [`Redactor`]:
//!
//! ```no_run
//! use std::io;
//! use tower_api_key::ApiKeys;
//!
//! let keys = ApiKeys::in_memory();
//! let redactor = keys.redactor(); // knows the formats of the keys
//! tracing_subscriber::fmt()
//!     .with_writer(move || redactor.writer(io::stderr()))
//!     .init();
//! ```
//!
//! A key in a message, a field, a span or an error then becomes `sk_live_[REDACTED]`, and a token
//! after `Bearer` becomes `Bearer [REDACTED]`. The module [`redact`](crate::redact) lists what is
//! found. All other bytes are the same.
//!
//! If the layer reads keys from a header or a query parameter whose name does not end with `api_key`,
//! `api-key` or `apiKey`, add that name. The redactor cannot know it, since layers are configured
//! after [`ApiKeys`](crate::ApiKeys). A scheme needs no name: after `Authorization:`, all are known.
//!
//! ```
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! let redactor = keys.redactor().add_name("X-Acme-Token");
//! # let text = redactor.redact("x-acme-token: correct-horse-battery-staple");
//! # assert_eq!(text, "x-acme-token: [REDACTED]");
//! ```
//!
//! Log ids of keys under a name such as `key_id`. They look like keys, and become `[REDACTED]` after
//! `api_key=`, `api_key:` and `api_key `.
//!
//! The writer above is created for each event. A writer that lives longer, such as one around a
//! file, also finds keys that are split over two writes. At the end, call
//! [`finish`](crate::redact::RedactingWriter::finish), which reports errors.
//!
//! # Redact errors, dumps and other logs
//!
//! [`Redactor::redact`] redacts a text before it goes to an error tracker, and
//! [`Redactor::redact_json`] a JSON value:
//!
//! ```
//! use serde_json::json;
//! use tower_api_key::redact::Redactor;
//!
//! let redactor = Redactor::new();
//! let error = "cannot parse \"sk_live_0123456789abcdefGHIJ\"";
//! assert_eq!(redactor.redact(error), "cannot parse \"sk_live_[REDACTED]\"");
//!
//! let mut report = json!({
//!     "message": error,
//!     "headers": {"authorization": "Bearer correct-horse-battery-staple"},
//! });
//! redactor.redact_json(&mut report);
//! assert_eq!(report["headers"]["authorization"], "Bearer [REDACTED]");
//! ```
//!
//! For logs that exist already, and for programs that are not in Rust, there is a filter:
//!
//! ```sh
//! cargo run --features sqlite --example keys -- redact --format acme_live < old.log > clean.log
//! ```
//!
//! It knows the keys of the prefixes that `--format` names, or else `sk_live` and `sk_test`.
//!
//! # What redaction does not replace
//!
//! A key that was written to a log has leaked: revoke it, as the chapter
//! [`rotation`](crate::guide::rotation) describes. The redactor finds keys by their lead, and other
//! credentials by what stands before them. It does not find passwords, keys of other shapes, and
//! keys that are broken over lines; the module [`redact`](crate::redact#what-is-not-found) lists
//! more. Keys of an [imported format](crate::key::KeyFormat::imported)
//! without a lead look like digests, and are found only after a scheme or a name. So log ids, and no
//! keys.
//!
//! [`Redactor`]: crate::redact::Redactor
//! [`Redactor::redact`]: crate::redact::Redactor::redact
//! [`Redactor::redact_json`]: crate::redact::Redactor::redact_json
