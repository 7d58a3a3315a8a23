//! API keys for any tower service.
#![cfg_attr(docsrs, feature(doc_cfg))]

// The path, in its order.
mod future;
mod layer;
mod require_scope;
mod service;
mod settings;
mod verify;
// What is read, and what is answered.
mod caller;
mod framework;
mod request;
mod response;
mod source;
// What is managed.
mod api_keys;
mod manage;
// Ports, and what stands behind them.
mod backend;
mod keyring;
mod rejection;
mod store;
// What a key is.
mod key;
// Below everything.
mod clock;
mod secret;
mod timestamp;
mod trace;

pub use api_keys::{ApiKeys, ApiKeysBuilder, BuildError, Managed, ReadOnly};
pub use backend::memory::MemoryStore;
pub use caller::Caller;
pub use clock::{Clock, ManualClock, SystemClock};
pub use future::ResponseFuture;
pub use key::digest::{
    InvalidKeyId, KeyDigest, KeyId, PepperError, PepperId, PepperRing, Verifier,
};
pub use key::environment::{Environment, InvalidEnvironment};
pub use key::format::{Alphabet, GenerateError, KeyFormat, KeyFormatError, KeyFormats};
pub use key::lifecycle::{KeyStatus, Lifecycle, WarningWindow};
pub use key::network::{AllowedNetworks, InvalidNetwork, Network};
pub use key::record::{KeyRecord, Rotation, Stop};
pub use key::scope::{InvalidScope, RequiredScopes, Scope, ScopeSet};
pub use layer::ApiKeyLayer;
pub use manage::change::{ChangeError, ResumeKey, RevokeKey, SuspendKey};
pub use manage::issue::{IssueError, IssueKey, IssuedKey};
pub use rejection::{NotFound, Rejection};
pub use request::client_address::{ClientAddress, PeerAddr, TrustedProxies};
pub use require_scope::{RequireScope, RequireScopeFuture, RequireScopeService};
pub use response::body::ResponseBody;
pub use response::challenge::InvalidRealm;
pub use response::rejection::ErrorFormat;
pub use secret::PlaintextKey;
pub use service::ApiKeyService;
pub use source::{InvalidKeyHeader, KeySource};
pub use store::{Change, KeyStore, ManagedKeyStore, StoreError, StoreErrorKind};
