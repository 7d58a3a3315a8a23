//! The stores in SQLite and `PostgreSQL` with a million keys: how long each call takes.
//!
//! `cargo bench --bench stores --features sqlite,postgres`; `STORES_KEYS` sets the keys, 1,000,000
//! unless set. It needs the programs of `PostgreSQL`, and about 5 GB of disk for each million. A
//! line is `NAME MEDIAN WORST` in milliseconds, where the worst is the 99th percentile of finds and
//! polls, and the maximum of all others. The last column compares with a target. Nothing fails on a
//! time.
//!
//! - Both are filled by commits of 1,000 keys: 30 % in the account `acme`, 2 % in `lapsed`, all of
//!   whose keys have expired, and the others in small accounts, one for each five keys. Of all
//!   keys, 10 % are revoked, 30 % expire, 10 % have the prefix `sk_test`, and 60 % have been used.
//!   The indexes are created again after 90 % of the keys, which takes less time.
//! - A list is asked for pages of 50: the first one, and one that is 2/3 into the list. The way
//!   there goes over pages of 1,000, which are reported, too. `none pass` is a filter by a state
//!   that no key is in.
//! - SQLite syncs each commit to disk. `PostgreSQL` does not here, so its commits would take the
//!   time of a sync longer. It is vacuumed and analyzed after the fill, as it does by itself later.

#[allow(dead_code, unreachable_pub, reason = "tests use the rest")]
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[allow(dead_code, reason = "each bench uses its part")]
#[path = "support/random.rs"]
mod random;

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Postgres;
use random::Random;
use tower_api_key::key::{KeyDigest, Revocation, ScopeSet};
use tower_api_key::store::sqlx::postgres::{PgPool, PgPoolOptions};
use tower_api_key::store::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tower_api_key::store::sqlx::{self, Connection};
use tower_api_key::store::{
    Action, Actor, Change, ChangeFeed, KeyOrder, KeyQuery, KeyState, KeyUsage, Migration, Paging,
    PostgresStore, SqliteStore, StoreError, UsageBatch, UsagePeriod,
};
use tower_api_key::{Environment, KeyId, KeyRecord, ManagedKeyStore, Scope};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The keys of a commit while a store is filled.
const AT_ONCE: usize = 1_000;

/// The keys of a batch of usage.
const USED_AT_ONCE: usize = 2_000;

/// The rows that a page looks at, if a filter passes few of them.
const SCANNED: usize = 2_000;

/// The most pages on the way into a list.
const MOST_PAGES: usize = 700;

/// The time limit of calls: none fails since it is slow.
const PATIENCE: Duration = Duration::from_secs(60);

const DAY: u64 = 86_400;
const TWO_YEARS: u64 = 2 * 365 * DAY;

const FIND_TARGET: f64 = 1.0;
const LIST_TARGET: f64 = 10.0;

const ACME: &str = "acme";
const LAPSED: &str = "lapsed";

const ORDERS: [KeyOrder; 4] = [
    KeyOrder::Newest,
    KeyOrder::EndingSoon,
    KeyOrder::LeastRecentlyUsed,
    KeyOrder::RecentlyRevoked,
];

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let total = match std::env::var("STORES_KEYS") {
        Err(_) => 1_000_000,
        Ok(text) => text.parse()?,
    };
    let title = format!("{total} keys, in milliseconds");
    println!("{title:<64}{:>9}{:>9}", "median", "worst");
    sqlite(total).await?;
    postgres(total).await
}

async fn sqlite(total: usize) -> Result<()> {
    let folder = Folder::new("filled")?;
    let path = folder.0.join("keys.db");
    let options = SqliteConnectOptions::new().filename(&path);
    let mut bench = Bench::new("sqlite", total);
    let store = SqliteStore::open(&path).await?;
    store.migrate().await?;
    let store = store.time_limit(PATIENCE);
    let sql = async |sql: &str| {
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        sql.execute(&mut connection).await?;
        Ok(connection.close().await?)
    };
    let indexes = Indexes::of(&store.migrations(), "");
    bench.fill(&store, &indexes, sql).await?;
    store.close().await;
    // As in a process that is started later.
    let store = SqliteStore::open(&path).await?.time_limit(PATIENCE);
    bench.measure(&store).await?;
    store.close().await;
    bench.size(folder.size()?);

    let fresh = Folder::new("fresh")?;
    let path = fresh.0.join("keys.db");
    let migrate = async |path: PathBuf| Ok(SqliteStore::open(path).await?.migrate().await?);
    bench.migrate((0..10).map(|_| migrate(path.clone()))).await
}

async fn postgres(total: usize) -> Result<()> {
    let server = Postgres::start_fast();
    let url = server.create_database();
    let mut bench = Bench::new("postgres", total);
    let pool = PgPoolOptions::new().max_connections(10);
    let store = PostgresStore::new(pool.connect(&url).await?).time_limit(PATIENCE);
    store.migrate().await?;
    let sql = async |sql: &str| {
        server.sql(&url, sql);
        Ok(())
    };
    let indexes = Indexes::of(&store.migrations(), PostgresStore::SCHEMA);
    bench.fill(&store, &indexes, sql).await?;
    server.sql(&url, "VACUUM (ANALYZE)");
    bench.measure(&store).await?;
    let size = "SELECT pg_database_size(current_database())";
    bench.size(server.sql(&url, size).parse()?);

    let fresh = server.create_database();
    let migrate = async |url: String| {
        let pool = PgPool::connect(&url).await?;
        Ok(PostgresStore::new(pool).migrate().await?)
    };
    bench.migrate((0..10).map(|_| migrate(fresh.clone()))).await
}

/// The indexes of a store beside those of its primary keys.
struct Indexes {
    drop: String,
    create: String,
}

impl Indexes {
    fn of(migrations: &[Migration], schema: &str) -> Self {
        let (mut drop, mut create) = (String::new(), String::new());
        for migration in migrations {
            for statement in migration.sql.split(';') {
                let words = statement.trim().strip_prefix("CREATE INDEX ");
                let Some((name, _)) = words.and_then(|words| words.split_once(' ')) else {
                    continue;
                };
                let dot = if schema.is_empty() { "" } else { "." };
                drop.extend(["DROP INDEX ", schema, dot, name, ";"]);
                create.extend([statement, ";"]);
            }
        }
        Self { drop, create }
    }
}

/// A key that was created.
struct Known {
    id: KeyId,
    account: Account,
    /// In seconds since 1970.
    created_at: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Account {
    Acme,
    Lapsed,
    Small(usize),
}

impl Account {
    fn name(self) -> String {
        match self {
            Self::Acme => ACME.to_owned(),
            Self::Lapsed => LAPSED.to_owned(),
            Self::Small(number) => format!("account-{number}"),
        }
    }
}

/// The keys of a list.
#[derive(Default)]
struct Sizes {
    all: usize,
    expiring: usize,
    revoked: usize,
}

impl Sizes {
    fn add(&mut self, record: &KeyRecord) {
        self.all += 1;
        self.expiring += usize::from(record.expires_at().is_some());
        self.revoked += usize::from(record.revoked().is_some());
    }

    fn of(&self, order: KeyOrder) -> usize {
        match order {
            KeyOrder::EndingSoon => self.expiring,
            KeyOrder::RecentlyRevoked => self.revoked,
            _ => self.all,
        }
    }
}

struct Bench {
    database: &'static str,
    total: usize,
    random: Random,
    /// In seconds since 1970.
    now: u64,
    known: Vec<Known>,
    all: Sizes,
    acme: Sizes,
    /// The batches of usage so far.
    batches: u64,
}

impl Bench {
    fn new(database: &'static str, total: usize) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            database,
            total,
            random: Random::new(1),
            now: now.map_or(0, |now| now.as_secs()),
            known: Vec::with_capacity(total + 10 * AT_ONCE),
            all: Sizes::default(),
            acme: Sizes::default(),
            batches: 0,
        }
    }

    /// Draws the next key. Keys come in the order of their creation, in the past two years.
    fn record(&mut self) -> KeyRecord {
        let number = self.known.len();
        let age = TWO_YEARS * self.total.saturating_sub(number) as u64 / self.total as u64;
        let created_at = self.now - age;
        let account = match self.random.below(100) {
            0..=29 => Account::Acme,
            30..=31 => Account::Lapsed,
            _ => Account::Small(self.random.below(self.total.div_ceil(5))),
        };
        let is_test = self.random.below(10) == 0;
        let (prefix, environment) = if is_test {
            ("sk_test", Environment::TEST)
        } else {
            ("sk_live", Environment::LIVE)
        };
        let digest = KeyDigest::of(&format!("{prefix}_{:?}", self.random.bytes::<16>()));
        let scopes = [
            Scope::from_static("reports:read"),
            Scope::from_static("jobs"),
        ];
        let mut record = KeyRecord::imported(digest, account.name())
            .with_prefix(prefix)
            .with_environment(environment)
            .with_name(format!("nightly export {number}"))
            .with_plan(*self.random.pick(&["free", "pro", "business"]))
            .with_scopes(ScopeSet::from_iter(scopes))
            .with_created_at(at(created_at));
        if account == Account::Lapsed {
            let expires_at = created_at + self.random.next() % age.max(1);
            record = record.with_expires_at(at(expires_at));
        } else if self.random.below(10) < 3 {
            let expires_at = created_at + (30 + self.random.next() % 970) * DAY;
            record = record.with_expires_at(at(expires_at));
        }
        if self.random.below(10) == 0 {
            let revoked_at = created_at + self.random.next() % age.max(1);
            let revocation = Revocation::new(at(revoked_at)).with_reason("rotated".to_owned());
            record = record.with_revoked(revocation);
        }
        self.all.add(&record);
        if account == Account::Acme {
            self.acme.add(&record);
        }
        self.known.push(Known {
            id: record.id(),
            account,
            created_at,
        });
        record
    }

    /// Draws a change that creates keys.
    fn creates(&mut self, keys: usize) -> Result<Change> {
        let mut change = Change::new(Actor::service("import"), SystemTime::now());
        for _ in 0..keys {
            change = change.create(Action::IMPORTED, self.record())?;
        }
        Ok(change)
    }

    /// Draws the usage of keys.
    fn usage(&mut self, keys: &[usize]) -> Result<UsageBatch> {
        let mut usage = Vec::with_capacity(keys.len());
        for key in keys {
            let known = &self.known[*key];
            let age = self.now - known.created_at;
            let used_at = known.created_at + self.random.next() % age.max(1);
            let day = UsagePeriod::Day(u32::try_from(used_at / DAY)?);
            let mut of_key =
                KeyUsage::new(known.id, known.account.name(), day).used_at(at(used_at));
            of_key.counts.allowed = 1 + self.random.next() % 1_000;
            usage.push(of_key);
        }
        self.batches += 1;
        Ok(UsageBatch::new([1; 16], self.batches, usage)?)
    }

    /// Creates the keys, and records that some were used.
    ///
    /// The first 90 % go into tables with no index but that of their primary key. The others split
    /// the pages of the new indexes, so that these are as full as if they had grown key by key.
    async fn fill<S: ManagedKeyStore + Clone>(
        &mut self,
        store: &S,
        indexes: &Indexes,
        sql: impl AsyncFn(&str) -> Result<()>,
    ) -> Result<()> {
        let begun = Instant::now();
        sql(&indexes.drop).await?;
        self.create(store, self.total / 10 * 9).await?;
        sql(&indexes.create).await?;
        self.create(store, self.total).await?;
        self.seconds("fill with keys", begun);
        let begun = Instant::now();
        let used: Vec<usize> = (0..self.total)
            .filter(|_| self.random.below(10) < 6)
            .collect();
        for keys in used.chunks(200) {
            let batch = self.usage(keys)?;
            store.record_usage(&batch).await?;
        }
        self.seconds("fill with uses", begun);
        Ok(())
    }

    /// Creates keys until there are so many.
    async fn create<S: ManagedKeyStore + Clone>(&mut self, store: &S, until: usize) -> Result<()> {
        let mut before: Option<tokio::task::JoinHandle<Result<(), StoreError>>> = None;
        while self.known.len() < until {
            let change = self.creates(AT_ONCE.min(until - self.known.len()))?;
            if let Some(before) = before.take() {
                before.await??;
            }
            // It is written while the next one is drawn.
            let store = store.clone();
            before = Some(tokio::spawn(async move { store.commit(&change).await }));
        }
        match before {
            None => Ok(()),
            Some(before) => Ok(before.await??),
        }
    }

    async fn measure<S: ManagedKeyStore + ChangeFeed>(&mut self, store: &S) -> Result<()> {
        let mut finds = Vec::new();
        for _ in 0..5_000 {
            let known = self.random.below(self.known.len());
            let id = self.known[known].id;
            let found = timed(&mut finds, store.find(&id)).await?;
            assert!(found.is_some());
        }
        self.report("find", finds, 99, Some(FIND_TARGET));
        for order in ORDERS {
            for account in [None, Some(ACME)] {
                self.list(store, order, account, "", SCANNED / 2).await?;
                self.list(store, order, account, "none pass", SCANNED)
                    .await?;
                self.list(store, order, account, "sk_test", SCANNED).await?;
            }
            self.other_accounts(store, order).await?;
        }
        self.writes(store).await
    }

    /// Measures a list with a filter, of whose rows so many are on a page of 1,000 keys.
    async fn list<S: ManagedKeyStore>(
        &self,
        store: &S,
        order: KeyOrder,
        account: Option<&str>,
        filter: &str,
        rows: usize,
    ) -> Result<()> {
        let query = KeyQuery::new()
            .with_order(order)
            .with_account(account.map(str::to_owned));
        let query = match filter {
            "" => query,
            "none pass" => query.with_state(KeyState::Suspended, SystemTime::now()),
            prefix => query.with_prefix(prefix.to_owned()),
        };
        let of = account.unwrap_or("all");
        let name = format!("list {} {of} {filter}", order.as_str());
        let name = name.trim_end();
        let first = Paging::first(50);
        let times = times_of_page(store, &query, &first).await?;
        self.report(&format!("{name}, first"), times, 100, Some(LIST_TARGET));

        let sizes = account.map_or(&self.all, |_| &self.acme);
        let pages = (sizes.of(order) * 2 / 3 / rows).clamp(1, MOST_PAGES);
        let mut walk = Vec::new();
        let mut paging = Paging::first(Paging::MOST);
        for _ in 0..pages {
            let page = timed(&mut walk, store.list(&query, &paging)).await?;
            let Some(next) = page.next else { break };
            paging = paging.after(next);
        }
        let name_of_walk = format!("{name}, {} pages of 1,000", walk.len());
        self.report(&name_of_walk, walk, 100, None);
        let deep = first.after(paging.cursor().cloned());
        let times = times_of_page(store, &query, &deep).await?;
        self.report(&format!("{name}, deep"), times, 100, Some(LIST_TARGET));
        Ok(())
    }

    /// Measures the first pages of small accounts, and of the account without a live key.
    async fn other_accounts<S: ManagedKeyStore>(
        &mut self,
        store: &S,
        order: KeyOrder,
    ) -> Result<()> {
        let query = KeyQuery::new().with_order(order);
        let first = Paging::first(50);
        let mut small = Vec::new();
        while small.len() < 11 {
            let known = self.random.below(self.known.len());
            let account = self.known[known].account;
            if let Account::Small(_) = account {
                let query = query.clone().with_account(account.name());
                timed(&mut small, store.list(&query, &first)).await?;
            }
        }
        let name = format!("list {} of small accounts, first", order.as_str());
        self.report(&name, small, 100, Some(LIST_TARGET));
        let live = query
            .with_account(LAPSED.to_owned())
            .with_state(KeyState::Live, SystemTime::now());
        let times = times_of_page(store, &live, &first).await?;
        let name = format!("list {} of {LAPSED} live, first", order.as_str());
        self.report(&name, times, 100, Some(LIST_TARGET));
        Ok(())
    }

    async fn writes<S: ManagedKeyStore + ChangeFeed>(&mut self, store: &S) -> Result<()> {
        let mut issues = Vec::new();
        for _ in 0..200 {
            let change = self.creates(1)?;
            timed(&mut issues, store.commit(&change)).await?;
        }
        self.report("commit of a key", issues, 100, None);
        let mut imports = Vec::new();
        for _ in 0..5 {
            let change = self.creates(AT_ONCE)?;
            timed(&mut imports, store.commit(&change)).await?;
        }
        self.report("commit of 1,000 keys", imports, 100, None);
        let mut flushes = Vec::new();
        for _ in 0..11 {
            let keys: Vec<usize> = (0..USED_AT_ONCE)
                .map(|_| self.random.below(self.total))
                .collect();
            let batch = self.usage(&keys)?;
            timed(&mut flushes, store.record_usage(&batch)).await?;
        }
        self.report("usage of 2,000 keys", flushes, 100, None);
        let next = store.changes_since(None, Duration::ZERO).await?.next;
        let mut polls = Vec::new();
        for _ in 0..1_000 {
            let poll = store.changes_since(Some(&next), Duration::ZERO);
            let changes = timed(&mut polls, poll).await?;
            assert!(changes.keys.is_empty() && !changes.gap);
        }
        self.report("poll of the feed without changes", polls, 99, None);
        Ok(())
    }

    /// Measures migrations of one database at once. An error fails the bench.
    async fn migrate(
        &self,
        migrations: impl Iterator<Item = impl Future<Output = Result<()>> + Send + 'static>,
    ) -> Result<()> {
        let begun = Instant::now();
        let tasks: Vec<_> = migrations.map(tokio::spawn).collect();
        for task in tasks {
            task.await??;
        }
        self.seconds("ten migrations at once", begun);
        Ok(())
    }

    /// Prints the median and a percentile, and whether they meet a target.
    fn report(&self, name: &str, mut times: Vec<f64>, percentile: usize, target: Option<f64>) {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let worst = times[(times.len() * percentile).div_ceil(100) - 1];
        let verdict = target.map_or(String::new(), |target| {
            let is = match () {
                () if worst <= target => "ok",
                () if median <= target => "worst over",
                () => "OVER",
            };
            format!("  <= {target} ms: {is}")
        });
        let name = format!("{} {name}", self.database);
        println!("{name:<64}{median:>9.3}{worst:>9.3}{verdict}");
    }

    fn seconds(&self, name: &str, begun: Instant) {
        let name = format!("{} {name}", self.database);
        println!("{name:<64}{:>10.1} s", begun.elapsed().as_secs_f64());
    }

    fn size(&self, bytes: u64) {
        let name = format!("{} size on disk", self.database);
        println!("{name:<64}{:>10} MB", bytes / 1_000_000);
    }
}

/// Times a call, in milliseconds.
async fn timed<T, E>(
    times: &mut Vec<f64>,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let begun = Instant::now();
    let result = call.await;
    times.push(begun.elapsed().as_secs_f64() * 1e3);
    result
}

/// Times a page eleven times.
async fn times_of_page<S: ManagedKeyStore>(
    store: &S,
    query: &KeyQuery,
    paging: &Paging,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..11 {
        timed(&mut times, store.list(query, paging)).await?;
    }
    Ok(times)
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(second)
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let name = format!("tower-api-key-stores-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Returns the size of its files.
    fn size(&self) -> Result<u64> {
        let mut size = 0;
        for file in std::fs::read_dir(&self.0)? {
            size += file?.metadata()?.len();
        }
        Ok(size)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
