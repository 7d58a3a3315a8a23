//! Decide between an API key, OAuth 2.0, a JWT and mTLS.
//!
//! An API key is a *bearer secret* that identifies an *application*: whoever holds the key is the
//! application. A key is the wrong tool if its holder cannot keep a secret, or if access depends on
//! the person.
//!
//! # A decision tree
//!
//! ```text
//! Who calls?
//! ├─ a person, in a browser
//! │    └─ a session cookie after a login (OpenID Connect)
//! ├─ an app on a person's device: mobile, desktop, single-page
//! │    └─ OAuth 2.0, authorization code with PKCE; no secret in the app
//! ├─ a program of another company
//! │    ├─ for its own account ............................ API KEY
//! │    └─ on behalf of users, with their consent
//! │         └─ OAuth 2.0, and an API key of the program in the same request
//! ├─ a program of your own, on machines that you run
//! │    ├─ all of them can have certificates .............. mTLS, or a workload identity
//! │    └─ they cannot, or there are few .................. API KEY
//! └─ your service calls a webhook of another company
//!      └─ sign the request; do not send a key
//!
//! How narrow must the grant be?
//! ├─ this application, these scopes, these networks ...... API KEY with scopes and an allow-list
//! ├─ this user's data, for this application .............. OAuth 2.0
//! └─ this one file, for ten minutes ...................... a signed URL
//!
//! How is it revoked?
//! ├─ for the application as a whole ...................... API KEY
//! ├─ for one login or one device ......................... a session, or a refresh token for each
//! └─ by itself, after minutes ............................ a short-lived JWT
//!
//! Is a stolen copy a disaster?
//! └─ bind the credential to a private key ................ mTLS, or DPoP
//! ```
//!
//! # A comparison
//!
//! | | API key | OAuth 2.0 token | JWT | mTLS |
//! |---|---|---|---|---|
//! | identifies | an application | a client, mostly a user | the subject | a machine |
//! | consists of | a random text | random text, or a JWT | signed claims | certificate and key |
//! | comes from | the service, once | a flow, repeatedly | an issuer | an authority |
//! | usual life | months | minutes to hours | minutes | days to a year |
//! | a stolen copy works | until revoked | until its end | until its end | with the private key |
//! | narrowed by | scopes, networks | scopes, consent | claims, audience | its names |
//! | verified by | a lookup, cached | introspection, signature | signature | TLS handshake |
//! | revoked | at the service | by its issuer | hardly | by a list |
//! | a client needs | one header | an OAuth library | a source of tokens | keys for TLS |
//! | best for | other servers | users' data, delegation | carrying facts | own machines |
//!
//! A JWT is a token format, and OAuth 2.0 is a protocol that can issue tokens in this format. A
//! request can have an API key and a token: see [a key and an OAuth
//! token](crate::guide::sources#a-key-and-an-oauth-token).
//!
//! # Not for mobile, desktop and browser apps
//!
//! A key in an app is public: everybody who downloads the app can extract the key, even if it is
//! obfuscated. A key in a web page is visible in the developer tools of the browser.
//!
//! - Let the app call your own service with the user's session or token, and keep the key in that
//!   service.
//! - Use OAuth 2.0 with PKCE (RFC 7636, RFC 8252) for calls on behalf of the user.
//! - For public operations, such as a search in public data, use a [publishable
//!   key](crate::guide::sources#browsers-and-publishable-keys) with origins and low limits.
//!
//! # Not for users' data
//!
//! A key identifies the application, and says nothing about the person who uses the application. A
//! header such as `X-User-Id` is a claim of the application, which can claim any user. Do not grant
//! access to a user's data by a key. Identify the user with a token from the user's login.
//!
//! Personal access tokens are an exception: if an account belongs to one person, a key can grant
//! access to the data of this person. Document the exception where keys are issued, and give each
//! key scopes and an expiry.
//!
//! # Not for delegated access
//!
//! "This calendar app may read my events" is a grant of a user to an application, with certain
//! scopes, which the user can revoke. OAuth 2.0 is made for such grants (RFC 6749, RFC 9700). If
//! the user copies a key into the calendar app instead, the app has all permissions of the key, and
//! the service cannot distinguish the app from the user.
//!
//! # Not for sessions that are revoked one by one
//!
//! "Log out my old phone" requires a credential for each session. A key identifies an application
//! on all of its machines, and a revocation stops all of them. Use sessions, or a refresh token for
//! each device, which can be revoked by itself (RFC 7009).
//!
//! # Not sufficient if a stolen secret must be useless
//!
//! Anybody who reads a bearer secret in a proxy, a log or a crash dump can use the secret. If a
//! stolen copy must be useless, bind the credential to a private key that never leaves the machine:
//! with mTLS, also for OAuth tokens (RFC 8705), or with DPoP (RFC 9449). An allow-list of networks
//! reduces the risk for API keys.
//!
//! # Good uses
//!
//! - A customer's server calls your API for the customer's own account.
//! - Limits, metering and billing by application, also together with a user's token.
//! - Command-line tools, build jobs and scripts have a key each, with scopes and an expiry.
//! - Clients without an OAuth library, such as `curl`, only have to send a header.
//!
//! The remaining risk is a leaked key. Scopes, networks, limits and an expiry limit the damage, and
//! revocation ends it. The chapter [`key_holders`] is about preventing leaks.
//!
//! [`key_holders`]: crate::guide::key_holders
