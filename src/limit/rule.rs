//! Limits of an application, and the rules that they make.

use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::{Calendar, Quota, QuotaKind};
use crate::limit::charge::{LimitName, REQUESTS};

/// A quota with settings: a name, a unit, and the requests that it applies to.
///
/// Callers see the name in headers and errors, and a record
/// [overrides](crate::KeyRecord::with_limit) the limit by its name. A name has 1 to 64 characters
/// of visible ASCII and spaces, without `"` and `\`. The default name has the subject, the unit if
/// it is not `requests`, and the period:
///
/// | limit | name |
/// |---|---|
/// | `per_key(Quota::per_second(…))` | `key_per_second` |
/// | `per_account(Quota::per_utc_month(…))`, of a plan or of `Limits` | `account_per_utc_month` |
/// | `per_ip(Quota::per(…, 10 seconds))` | `ip_per_10s` |
/// | `global(….smooth())` | `global_rate` |
/// | `per_key(Quota::per_hour(…))` of `POST /v1/reports` | `POST /v1/reports key_per_hour` |
/// | `per_account(Quota::per_hour(…))` of `Endpoint::any_path("POST")` | `POST account_per_hour` |
/// | `per_key(Limit::from(Quota::per_minute(…)).unit("tokens"))` | `key_tokens_per_minute` |
/// | `per_ip(Limit::from(Quota::per_minute(…)).anonymous())` | `anonymous_ip_per_minute` |
///
/// ```
/// use tower_api_key::limit::Limit;
/// use tower_api_key::{Limits, Quota};
///
/// let limits = Limits::new().per_key(Limit::named("burst", Quota::per_second(10)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    name: Option<String>,
    quota: Quota,
    unit: Option<String>,
    across_environments: bool,
    is_anonymous: bool,
    is_report_only: bool,
    /// 0 for a limit that tells nothing.
    tell_at: u8,
}

impl Limit {
    /// Creates a limit with a name.
    pub fn named(name: impl Into<String>, quota: Quota) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::from(quota)
        }
    }

    /// Sets the unit that the limit counts: 1 to 64 characters of visible ASCII and spaces, without
    /// `"` and `\`. Default: [`requests`](crate::limit::REQUESTS).
    ///
    /// A request takes no units other than requests in advance, unless its endpoint has a
    /// [cost](crate::limit::Endpoint::cost_in) in them. Charge the units after the work, with
    /// [`Caller::charge`](crate::Caller::charge). While no unit remains, requests are denied.
    ///
    /// ```
    /// use tower_api_key::limit::Limit;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .per_key(Quota::per_minute(10))
    ///     .per_key(Limit::named("tokens", Quota::per_minute(100)).unit("tokens"));
    /// ```
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = Some(unit.into());
        self
    }

    /// Limits only requests without a key, which an [optional](crate::ApiKeyLayer::optional) layer
    /// admits. Default: requests with a key, too. They have no key and no account, so such a limit
    /// is by address, by a subject of the application's own, or global.
    ///
    /// ```
    /// use tower_api_key::limit::Limit;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .per_ip(Limit::from(Quota::per_minute(20)).anonymous())
    ///     .per_account(Quota::per_minute(600));
    /// ```
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.is_anonymous = true;
        self
    }

    /// Makes the limit report-only: it denies nothing, and callers are not told of it. Default: it
    /// denies.
    ///
    /// Denials that it would have caused are reported to the logs, at most once a minute for each
    /// limit, and to [observers](crate::observe::Decision::report_only_hits). The limit is charged
    /// whenever the request is admitted, even beyond its quota. Use it to try a limit before it is
    /// enforced.
    ///
    /// ```
    /// use tower_api_key::limit::Limit;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let trial = Limit::named("trial", Quota::per_minute(60)).report_only();
    /// let limits = Limits::new().per_key(Quota::per_minute(600)).per_key(trial);
    /// ```
    #[must_use]
    pub fn report_only(mut self) -> Self {
        self.is_report_only = true;
        self
    }

    /// Tells the owner of a budget by the event `limit.nearly_used` when so many percent of the quota
    /// are used: once a month for a quota by month, and once a day for all others. Default: nobody
    /// is told. The number is clamped to 1 to 100.
    ///
    /// Only limits by key and by account have an owner. The [worker](crate::ApiKeys::worker) stores
    /// the event within a minute, if the store has an [outbox](crate::store::Outbox).
    ///
    /// ```
    /// use tower_api_key::limit::Limit;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limit = Limit::from(Quota::per_utc_month(10_000)).tell_at(80);
    /// let limits = Limits::new().per_account(limit);
    /// ```
    #[must_use]
    pub fn tell_at(mut self, percent: u8) -> Self {
        self.tell_at = percent.clamp(1, 100);
        self
    }

    /// Gives an account one budget for its keys of all environments. Default: one budget for each
    /// environment, so that test keys do not use the budget of live keys. Only limits by account
    /// depend on this.
    ///
    /// ```
    /// use tower_api_key::limit::Limit;
    /// use tower_api_key::{Limits, Quota};
    ///
    /// let limit = Limit::from(Quota::per_utc_month(10_000)).across_environments();
    /// let limits = Limits::new().per_account(limit);
    /// ```
    #[must_use]
    pub fn across_environments(mut self) -> Self {
        self.across_environments = true;
        self
    }
}

impl From<Quota> for Limit {
    fn from(quota: Quota) -> Self {
        Self {
            name: None,
            quota,
            unit: None,
            across_environments: false,
            is_anonymous: false,
            is_report_only: false,
            tell_at: 0,
        }
    }
}

/// A limit of one kind of subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) by: By,
    /// The name of the application's own subject.
    pub(super) subject: Option<Arc<str>>,
    pub(super) name: LimitName,
    pub(super) quota: Quota,
    pub(super) unit: Arc<str>,
    pub(super) is_anonymous: bool,
    pub(super) is_report_only: bool,
    pub(super) tell_at: u8,
    /// The cost of each request that the rule applies to, and the units that must remain.
    pub(super) cost: u64,
    pub(super) need: u64,
}

/// The kind of subject that a rule counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Key,
    /// An account in each environment.
    AccountIn,
    /// An account in all environments together.
    Account,
    Address,
    Global,
    /// The application's own subject.
    Subject,
}

impl Rule {
    /// Creates a rule. The default name is made of the subject, the unit and the period, such as
    /// `account_per_minute`, after the label of the endpoint if there is one.
    pub(super) fn new(by: By, limit: Limit, label: Option<&str>) -> Self {
        Self::of(by, None, limit, label)
    }

    /// Creates a rule that counts by the application's own subject.
    pub(super) fn per(subject: Arc<str>, limit: Limit) -> Self {
        Self::of(By::Subject, Some(subject), limit, None)
    }

    fn of(by: By, subject: Option<Arc<str>>, limit: Limit, label: Option<&str>) -> Self {
        let name = limit.name.unwrap_or_else(|| {
            let subject = match by {
                By::Subject => subject.as_deref().unwrap_or_default(),
                By::Key => "key",
                By::AccountIn | By::Account => "account",
                By::Address => "ip",
                By::Global => "global",
            };
            let label = label.map(|label| format!("{label} ")).unwrap_or_default();
            let who = if limit.is_anonymous { "anonymous_" } else { "" };
            let unit = limit.unit.as_deref().filter(|unit| *unit != REQUESTS);
            let unit = unit.map(|unit| format!("{unit}_")).unwrap_or_default();
            format!("{label}{who}{subject}_{unit}{}", period_name(limit.quota))
        });
        let by = match by {
            By::AccountIn if limit.across_environments => By::Account,
            by => by,
        };
        Self {
            by,
            subject,
            name: LimitName::new(name),
            quota: limit.quota,
            unit: limit.unit.as_deref().unwrap_or(REQUESTS).into(),
            is_anonymous: limit.is_anonymous,
            is_report_only: limit.is_report_only,
            tell_at: limit.tell_at,
            cost: 1,
            need: 1,
        }
    }
}

fn period_name(quota: Quota) -> String {
    match quota.kind() {
        QuotaKind::Rate { .. } => "rate".to_owned(),
        QuotaKind::Calendar(Calendar::Day) => "per_utc_day".to_owned(),
        QuotaKind::Calendar(Calendar::Month) => "per_utc_month".to_owned(),
        QuotaKind::Window { period } => match Duration::from_nanos(period) {
            SECOND => "per_second".to_owned(),
            MINUTE => "per_minute".to_owned(),
            HOUR => "per_hour".to_owned(),
            DAY => "per_day".to_owned(),
            other => format!("per_{other:?}"), // per_10s, per_1.5s
        },
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The reason why limits cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// There are plans but no default plan: keys without a plan would have no limit.
    #[error("there are plans but no default: say which one binds keys without a plan")]
    NoDefaultPlan,
    /// The default plan is not among the plans.
    #[error("the default plan {0:?} is none of the plans")]
    UnknownPlan(String),
    /// Two plans have the same name.
    #[error("there are two plans of the name {0:?}")]
    SamePlan(String),
    /// The name of a unit cannot be written in a header.
    #[error("{0:?} cannot name a unit: use 1 to 64 characters of ASCII without '\"' and '\\'")]
    Unit(String),
    /// An endpoint has a cost in a unit that no limit counts.
    #[error("an endpoint costs {0:?}, which no limit counts: see Limit::unit")]
    UnknownUnit(String),
    /// A limit counts by a subject without a function that returns it.
    #[error("limits count by {0:?}, which is unknown: see ApiKeysBuilder::add_subject")]
    UnknownSubject(String),
    /// A limit for requests without a key counts by key or account.
    #[error("the limit {0:?} is for requests without a key, which have neither key nor account")]
    Anonymous(String),
    /// Two limits with the same name apply to the same request.
    #[error("two limits of the name {0:?} bind the same request: name them with Limit::named")]
    SameName(String),
    /// The name of a limit cannot be written in a header.
    #[error(
        "{0:?} cannot name a limit: use 1 to 64 characters of ASCII without '\"' and '\\', and \
         give a limit of a long endpoint a name with Limit::named"
    )]
    Name(String),
    /// An endpoint matches no request.
    #[error("the endpoint {endpoint:?} matches no request: {advice}")]
    #[non_exhaustive]
    Endpoint {
        /// The method and the path.
        endpoint: String,
        /// The advice on how to correct it.
        advice: &'static str,
    },
    /// Two endpoints have the same method and path. Requests would match only one of them.
    #[error("there are two endpoints {0:?}: state the cost and all limits in one of them")]
    SameEndpoint(String),
    /// Limits were replaced 65,534 times in the life of one [`ApiKeys`](crate::ApiKeys).
    #[error(
        "limits were replaced too often: restart, and replace them only when a configuration \
         changes"
    )]
    TooManyChanges,
    /// There are more than 65,535 plans.
    #[error("more than 65,535 plans")]
    TooManyPlans,
    /// More than 16 limits apply to the same request.
    #[error("more than 16 limits bind the same request")]
    TooMany,
}
