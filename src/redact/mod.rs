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
//!   escape (`%20`, `\n`, `\u0020`), a colour (`ESC[31m`) or what was just redacted. All letters
//!   and digits after it are redacted, so a key that is cut short, too long or mistyped is, too.
//! - A whole issued key, with a good checksum, is redacted wherever it stands.
//! - In a lead, all but letters and digits may be escaped: `%5F`, `%255F`, `\u005f`, `\x5f` and
//!   `\_` are an underscore. So may they in the body of an imported key.
//! - A token is token68 (RFC 9110 §11.2), also with `%2B`, `\/` and the like in it. A lead at its
//!   start stays, and the characters of its keys go on with the token, too:
//!   `Bearer sk_live_[REDACTED]`. Between a name and its value may be up to 96 bytes of quotes
//!   (also `&quot;`), blanks, brackets, colours, `Some(`, `String(` and the `b` of `b"…"`.
//! - After `authorization` and a scheme, a first parameter that ends with `token` counts as a name:
//!   `Token token="…"`.
//! - After a `:` without quotes, `api_key` at the end of a longer name other than `x_api_key` is
//!   taken for a module such as `tower_api_key`: there, the token must have a digit or an upper case
//!   letter.
//! - A key of an imported format whose lead ends with a letter or a digit is redacted only as a
//!   whole word, since digests may begin so. One without a lead is redacted only after a scheme or
//!   a name; there, its characters go on with a token, and its shortest length counts if that is
//!   less than 16.
//! - In JSON, the name of a field reaches into the arrays and objects below it, but for fields `id`
//!   and `…_id`.
//! - Names of other headers and parameters can be [added](Redactor::add_name).
//!
//! Ids of keys have 32 hexadecimal digits, and may be keys themselves: after `api_key=`, `api_key:`
//! and `api_key ` they are redacted. Log them under another name, such as `key_id`.
//!
//! What was redacted is not changed by a second redaction.
//!
//! # What is not found
//!
//! - shorter beginnings of keys, and keys that are broken over lines;
//! - keys in other encodings: in base64 outside of `Basic`, percent-encoded letter by letter, as
//!   lists of bytes (`[115, 107, …]`), in hex dumps, and with HTML's character references in them
//!   (`sk&#95;live`);
//! - leads in which a `%` or a `\` is escaped;
//! - keys of an imported format whose lead ends with a letter or a digit, glued to others;
//! - credentials in parameters of `Authorization` other than the first one, in signatures
//!   (`Digest`, `AWS4-HMAC-SHA256`), and in pairs such as `["x-api-key", "…"]`;
//! - passwords and keys of other shapes.
//!
//! A redactor is a net below, and no reason to log secrets.
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
