//! The redactor of texts.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde_json::Value;

use crate::key::KeyFormat;
use crate::key::formats::KeyFormats;
use crate::redact::json;
use crate::redact::search::Search;
use crate::redact::text;
use crate::redact::writer::RedactingWriter;

/// Replaces API keys and other credentials in text: `sk_live_…` becomes `sk_live_[REDACTED]`.
///
/// A redactor knows the formats of keys that it was created with, and well-known shapes; the
/// [module](crate::redact) lists them. Clones share everything.
///
/// ```
/// use tower_api_key::ApiKeys;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::in_memory();
/// let redactor = keys.redactor();
///
/// let key = keys.issue("acme").await?;
/// let error = format!("no answer to GET /?api_key={}&page=2", key.expose_secret());
/// assert_eq!(redactor.redact(&error), "no answer to GET /?api_key=sk_live_[REDACTED]&page=2");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Redactor {
    search: Arc<Search>,
}

impl Redactor {
    /// Creates a redactor of keys in the default formats, `sk_live` and `sk_test`, and of
    /// well-known shapes.
    ///
    /// [`ApiKeys::redactor`](crate::ApiKeys::redactor) creates one of the formats of a layer.
    pub fn new() -> Self {
        Self::of(KeyFormats::default().iter().cloned())
    }

    /// Creates a redactor of keys in these formats, and of well-known shapes.
    ///
    /// Keys of an imported format without a lead cannot be told from digests and ids (the ids of
    /// keys are 32 hexadecimal digits themselves). Such keys are redacted only after a scheme or a
    /// name, such as `Bearer` and `X-API-Key:`. There, all characters of their alphabet are
    /// redacted, and if the shortest key has less than 16 characters, all words of its length are.
    ///
    /// ```
    /// use tower_api_key::Environment;
    /// use tower_api_key::key::KeyFormat;
    /// use tower_api_key::redact::Redactor;
    ///
    /// let format = KeyFormat::new("acme_live", Environment::LIVE)?;
    /// let key = format.generate()?;
    /// let text = format!("the key \"{}\" is wrong", key.expose_secret());
    ///
    /// let redactor = Redactor::of([format]);
    /// assert_eq!(redactor.redact(&text), "the key \"acme_live_[REDACTED]\" is wrong");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(formats: impl IntoIterator<Item = KeyFormat>) -> Self {
        Self {
            search: Arc::new(Search::new(formats)),
        }
    }

    /// Adds the name of a header, a field or a query parameter that carries credentials, such as
    /// `X-Acme-Token`. Credentials of 16 or more characters after the name and a `:` or `=` are
    /// redacted.
    ///
    /// Name each header and query parameter that the layer reads keys from, unless its name ends
    /// with `api_key`, `api-key` or `apiKey`: the layer is configured after
    /// [`ApiKeys`](crate::ApiKeys), so [`ApiKeys::redactor`](crate::ApiKeys::redactor) does not know
    /// them. Case does not matter, and `-` and `_` are the same. The name counts as a whole word and
    /// at the end of a longer name, such as `HTTP_X_ACME_TOKEN`. Only the last 64 bytes of a longer
    /// name count, and an empty one adds nothing. Clones that exist already do not know the name.
    ///
    /// ```
    /// use tower_api_key::redact::Redactor;
    ///
    /// let redactor = Redactor::new().add_name("X-Acme-Token");
    /// let header = "x-acme-token: correct-horse-battery-staple";
    /// assert_eq!(redactor.redact(header), "x-acme-token: [REDACTED]");
    /// ```
    #[must_use]
    pub fn add_name(mut self, name: &str) -> Self {
        Arc::make_mut(&mut self.search).words_mut().add_name(name);
        self
    }

    /// Returns a text without its secrets. A text without secrets is borrowed, and nothing is
    /// allocated.
    ///
    /// ```
    /// use std::borrow::Cow;
    /// use tower_api_key::redact::Redactor;
    ///
    /// let redactor = Redactor::new();
    /// let token = "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl";
    /// assert_eq!(redactor.redact(token), "Authorization: Bearer [REDACTED]");
    ///
    /// let clean = redactor.redact("the bearer of bad news");
    /// assert!(matches!(clean, Cow::Borrowed(_)));
    /// ```
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        text::redact(&self.search, text, false)
    }

    /// Returns bytes without the secrets in them, such as a text that is not UTF-8. All other bytes
    /// are the same.
    pub fn redact_bytes<'t>(&self, bytes: &'t [u8]) -> Cow<'t, [u8]> {
        text::redact_bytes(&self.search, bytes, false)
    }

    /// Redacts the strings in a JSON value, and the names of its fields.
    ///
    /// A string in a field whose name is `authorization`, or ends with `api_key`, `api-key` or
    /// `apiKey` in any case, or that [was added](Self::add_name), is read as the value of that
    /// header, and so are the strings in an array or an object in such a field, but for fields
    /// `id` and `…_id`. Two names that become the same are numbered, so that no field is lost. The
    /// depth of the value does not matter.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_api_key::redact::Redactor;
    ///
    /// let mut headers = json!({"x-api-key": "0af6b3a81f0e4a639b9e6f1d4c1e2a77", "accept": "*/*"});
    /// Redactor::new().redact_json(&mut headers);
    /// assert_eq!(headers, json!({"x-api-key": "[REDACTED]", "accept": "*/*"}));
    /// ```
    pub fn redact_json(&self, value: &mut Value) {
        json::redact(&self.search, value);
    }

    /// Creates a writer that passes on to `inner` what is written to it, without the secrets.
    ///
    /// ```no_run
    /// use std::io;
    /// use tower_api_key::redact::Redactor;
    ///
    /// let redactor = Redactor::new();
    /// tracing_subscriber::fmt()
    ///     .with_writer(move || redactor.writer(io::stderr()))
    ///     .init();
    /// ```
    pub fn writer<W: io::Write>(&self, inner: W) -> RedactingWriter<W> {
        RedactingWriter::new(Arc::clone(&self.search), inner)
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leads: Vec<_> = self.search.leads().collect();
        f.debug_struct("Redactor").field("leads", &leads).finish()
    }
}
