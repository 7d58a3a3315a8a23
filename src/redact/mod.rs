//! Redaction of keys and other credentials in logs, errors and JSON.
//!
//! A [`Redactor`] replaces secrets by `[REDACTED]`, and changes nothing else:
//!
//! | secret | becomes |
//! |---|---|
//! | a key of a format: its lead, and 16 or more of its characters | `sk_live_[REDACTED]` |
//! | `sk_live_`, `sk_test_`, and the same with `pk` and `rk`, and 16 or more letters and digits | `pk_live_[REDACTED]` |
//! | `whsec_` and 16 or more characters of base64 | `whsec_[REDACTED]` |
//! | a token of 16 or more characters after `Bearer`, `Basic` or `ApiKey`, in any case, with a digit or an upper case letter after its first character | `Bearer [REDACTED]` |
//! | a token of 16 or more characters after `authorization`, `api_key`, `api-key` or `apiKey`, in any case, and a `:` or `=`; with `authorization`, also after any scheme | `X-Api-Key: [REDACTED]` |
//! | the same in the parameter `key` of a URL, with a digit or an upper case letter | `?key=[REDACTED]` |
//!
//! The rules in full:
//!
//! - A lead counts at the beginning of a word: not after a letter or a digit, unless that ends an
//!   escape (`%20`, `\n`, `\u0020`) or a colour (`ESC[31m`). All letters and digits after it are
//!   redacted, so a key that is cut short, too long or mistyped is, too.
//! - A whole issued key, with a good checksum, is redacted wherever it stands.
//! - `%5F` and `\u005f` are an underscore.
//! - A token is token68 (RFC 9110 §11.2), also with `%2B`, `\/` and the like in it. A lead at its
//!   start stays: `Bearer sk_live_[REDACTED]`. Between a name and its value may be quotes, blanks,
//!   brackets, colours and `Some(`.
//! - A key of an imported format whose lead ends with a letter or a digit is redacted only as a
//!   whole word, since digests may begin so. One without a lead is redacted only after a scheme or
//!   a name.
//!
//! What was redacted is not changed by a second redaction.
//!
//! # What is not found
//!
//! Shorter beginnings of keys; keys that are broken over lines, encoded in base64 outside of
//! `Basic`, or percent-encoded letter by letter; passwords and keys of other shapes. A redactor is
//! a net below, and no reason to log secrets.
//!
//! The chapter [`guide::leaks`](crate::guide::leaks) shows how to redact all logs of an application.

mod classes;
mod escape;
mod json;
mod redactor;
mod run;
mod search;
mod shape;
mod stream;
mod text;
mod value;
mod word;
mod writer;

pub use redactor::Redactor;
pub use writer::RedactingWriter;
