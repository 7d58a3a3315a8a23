//! The testkit: keys on a clock that stands still, over a store and a limiter that do as they are
//! told, and what tests do with them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{LazyLock, OnceLock};

use futures_util::FutureExt;
use http::Request;
use tower_api_key::clock::ManualClock;
use tower_api_key::http::PeerAddr;
use tower_api_key::key::AllowedNetworks;
use tower_api_key::limit::LimiterOutage;
use tower_api_key::observe::Observer;
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, Cache, Environment, IssuedKey, KeyId, KeyRecord, Limits,
};

use super::trouble::{TroubledLimiter, TroubledStore};
use super::{
    Answered, DAY, READ, WRITE, answer, asking, at_once, change_in, create_in, revoke_in, stranger,
    today,
};

/// Keys, and all that they depend on. What is not said otherwise is the default of [`ApiKeys`].
pub struct World {
    pub keys: ApiKeys,
    pub clock: ManualClock,
    pub store: TroubledStore,
    /// Decides nothing unless [`WorldBuilder::remote_limiter`] was called.
    pub limiter: TroubledLimiter,
    /// The keys of [`World::with_named_keys`].
    pub plaintexts: BTreeMap<&'static str, String>,
    key: OnceLock<IssuedKey>,
}

/// A request on its way, and in the end the status of its answer.
pub type Status = Pin<Box<dyn Future<Output = u16> + Send>>;

impl World {
    pub fn new() -> Self {
        Self::builder().build()
    }

    pub fn with_cache(cache: Cache) -> Self {
        Self::builder().cache(cache).build()
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self::builder().limits(limits).build()
    }

    pub fn builder() -> WorldBuilder {
        let clock = ManualClock::at(today());
        let store = TroubledStore::new(&clock);
        WorldBuilder {
            keys: ApiKeys::builder(store.clone()).clock(clock.clone()),
            limiter: TroubledLimiter::new(&clock),
            store,
            clock,
        }
    }

    // Keys.

    /// Issues a key to `acme`.
    pub fn issue(&self) -> IssuedKey {
        at_once(self.keys.issue("acme")).unwrap()
    }

    /// Issues a key to an account in a plan.
    pub fn issue_to(&self, account: &str, plan: &str) -> IssuedKey {
        at_once(self.keys.issue(account).plan(plan)).unwrap()
    }

    /// The key of this world, for tests that need but one: issued to `acme` when it is first used.
    pub fn key(&self) -> &IssuedKey {
        self.key.get_or_init(|| self.issue())
    }

    /// The text of [`key`](Self::key).
    pub fn secret(&self) -> &str {
        self.key().expose_secret()
    }

    /// From now on, [`key`](Self::key) is another one.
    pub fn use_key(&mut self, key: IssuedKey) {
        self.key = OnceLock::from(key);
    }

    /// Issues a key that is cached from this instant on.
    pub fn issue_cached(&self) -> IssuedKey {
        let key = self.issue();
        assert_eq!(self.ask(&key), 200);
        self.store.asked();
        key
    }

    // Requests, which go through the default layer in this process.

    pub fn asking(&self, sent: &(impl Sent + ?Sized)) -> Status {
        let answer = asking(&self.keys.layer(), sent.request());
        Box::pin(answer.map(|answer| answer.status().as_u16()))
    }

    /// The answer, which must not be waited for.
    pub fn answer(&self, sent: &(impl Sent + ?Sized)) -> Answered {
        answer(&self.keys.layer(), sent.request())
    }

    /// The status of the answer, which must not be waited for.
    pub fn ask(&self, sent: &(impl Sent + ?Sized)) -> u16 {
        self.answer(sent).status().as_u16()
    }

    /// The status of the answer, and how often the store was asked for it.
    pub fn look(&self, sent: &(impl Sent + ?Sized)) -> (u16, usize) {
        self.store.asked();
        (self.ask(sent), self.store.asked())
    }

    // Changes behind the back of `keys`.

    pub fn change_elsewhere(&self, id: KeyId, change: impl FnOnce(KeyRecord) -> KeyRecord) {
        change_in(&self.store.kept, id, change);
    }

    pub fn revoke_elsewhere(&self, id: KeyId) {
        revoke_in(&self.store.kept, id);
    }

    pub fn create_elsewhere(&self, record: KeyRecord) {
        create_in(&self.store.kept, record);
    }

    // One key of each kind, by name.

    pub fn with_named_keys() -> Self {
        let mut world = Self::new();
        let keys = world.keys.clone();
        let mut add = |name, key: IssuedKey| {
            let plaintext = key.expose_secret().to_owned();
            world.plaintexts.insert(name, plaintext);
        };
        let issue = |account: &str| keys.issue(account);

        // Last year…
        world.clock.set(today() - 355 * DAY);
        let year = issue("globex").scopes([READ]).expires_in(365 * DAY);
        add("expiring", at_once(year).unwrap());
        let quarter = issue("initech").expires_in(90 * DAY);
        add("expired", at_once(quarter).unwrap());

        // …and today.
        world.clock.set(today());
        let active = issue("acme").organization("Acme Inc.").scopes([READ]);
        add("active", at_once(active).unwrap());
        let yearling = issue("acme").expires_in(365 * DAY);
        add("yearling", at_once(yearling).unwrap());
        let admin = issue("acme").scopes([READ, WRITE]);
        add("admin", at_once(admin).unwrap());
        let revoked = at_once(issue("hooli").expires_in(10 * DAY)).unwrap();
        at_once(keys.revoke(revoked.id()).reason("leaked")).unwrap();
        add("revoked", revoked);
        let suspended = at_once(issue("umbrella")).unwrap();
        at_once(keys.suspend(suspended.id())).unwrap();
        add("suspended", suspended);
        let early = issue("acme").not_before(today() + DAY);
        add("early", at_once(early).unwrap());
        let test = issue("acme").environment(Environment::TEST);
        add("test", at_once(test).unwrap());
        let here = AllowedNetworks::only(["127.0.0.0/8"]).unwrap();
        add("here", at_once(issue("acme").networks(here)).unwrap());
        let there = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
        add("there", at_once(issue("acme").networks(there)).unwrap());

        // Keys that were never issued here, and texts that are no keys.
        let plaintexts = &mut world.plaintexts;
        plaintexts.insert("unknown", stranger());
        let good = plaintexts["active"].clone();
        plaintexts.insert("truncated", good[..good.len() - 1].to_owned());
        let last = if good.ends_with('A') { "B" } else { "A" };
        plaintexts.insert("typo", format!("{}{last}", &good[..good.len() - 1]));
        plaintexts.insert("junk", "sk_live_junk".to_owned());
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
        plaintexts.insert("jwt", jwt.to_owned());
        world
    }

    /// Replaces `{name}` by the key of that name, and `{basic:name}` by its Basic credentials.
    pub fn fill(&self, template: &str) -> String {
        use base64::Engine;
        let base64 = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        let mut text = template.to_owned();
        for (name, key) in &self.plaintexts {
            let basic = |password: &str| base64(format!("{key}:{password}"));
            text = text.replace(&format!("{{{name}}}"), key);
            text = text.replace(&format!("{{basic:{name}}}"), &basic(""));
            text = text.replace(&format!("{{basic-with-password:{name}}}"), &basic("secret"));
            text = text.replace(&format!("{{basic-in-both:{name}}}"), &basic(key));
            let token = base64(format!("__token__:{key}"));
            text = text.replace(&format!("{{basic-as-password:{name}}}"), &token);
        }
        assert!(!text.contains('{'), "no such key: {text}");
        text
    }
}

/// A world of named keys that the tests of a file share.
pub fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(World::with_named_keys);
    &WORLD
}

/// What a world is to be like.
pub struct WorldBuilder {
    keys: ApiKeysBuilder,
    clock: ManualClock,
    store: TroubledStore,
    limiter: TroubledLimiter,
}

impl WorldBuilder {
    pub fn cache(self, cache: Cache) -> Self {
        self.set(|keys| keys.cache(cache))
    }

    pub fn limits(self, limits: Limits) -> Self {
        self.set(|keys| keys.limits(limits))
    }

    pub fn observer(self, observer: impl Observer) -> Self {
        self.set(|keys| keys.add_observer(observer))
    }

    /// Budgets are elsewhere, and waited for each time.
    pub fn remote_limiter(self) -> Self {
        let limiter = self.limiter.clone();
        self.set(|keys| keys.limiter(limiter))
    }

    pub fn limiter_outage(self, outage: LimiterOutage) -> Self {
        self.set(|keys| keys.limiter_outage(outage))
    }

    /// Whatever else can be set.
    pub fn set(mut self, set: impl FnOnce(ApiKeysBuilder) -> ApiKeysBuilder) -> Self {
        self.keys = set(self.keys);
        self
    }

    pub fn build(self) -> World {
        World {
            keys: self.keys.build().unwrap(),
            clock: self.clock,
            store: self.store,
            limiter: self.limiter,
            plaintexts: BTreeMap::new(),
            key: OnceLock::new(),
        }
    }
}

/// What can be sent: a key, in `X-API-Key`, or a whole request.
pub trait Sent {
    fn request(&self) -> Request<()>;
}

impl Sent for str {
    fn request(&self) -> Request<()> {
        with_key(self)
    }
}

impl Sent for String {
    fn request(&self) -> Request<()> {
        with_key(self)
    }
}

impl Sent for IssuedKey {
    fn request(&self) -> Request<()> {
        with_key(self.expose_secret())
    }
}

impl Sent for Request<()> {
    fn request(&self) -> Request<()> {
        self.clone()
    }
}

/// A request with a key.
pub fn with_key(key: &str) -> Request<()> {
    let request = Request::builder().header("x-api-key", key);
    request.body(()).unwrap()
}

/// The same to a path.
pub fn to(path: &str, sent: &(impl Sent + ?Sized)) -> Request<()> {
    let mut request = sent.request();
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// The same from an address.
pub fn from(address: &str, sent: &(impl Sent + ?Sized)) -> Request<()> {
    let mut request = sent.request();
    let peer = SocketAddr::from((address.parse::<IpAddr>().unwrap(), 80));
    request.extensions_mut().insert(PeerAddr(peer));
    request
}
