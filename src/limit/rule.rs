//! One limit of an application, and the rule that it makes.

use std::sync::Arc;
use std::time::Duration;

use crate::key::quota::{Calendar, Quota, Shape};
use crate::limit::charge::{LimitName, REQUESTS};

/// A quota with a name, for rules that should have another than the one made of their words.
///
/// The name is what callers read in headers and errors, and what a record
/// [overrides](crate::KeyRecord::with_limit): 1 to 64 characters of visible ASCII and spaces,
/// without `"` and `\`. Without one, a limit is called by whom and in what time it limits:
///
/// | limit | name |
/// |---|---|
/// | `per_key(Quota::per_second(…))` | `key_per_second` |
/// | `per_account(Quota::per_utc_month(…))`, of a plan or of all | `account_per_utc_month` |
/// | `per_ip(Quota::per(…, 10 seconds))` | `ip_per_10s` |
/// | `global(….smooth())` | `global_rate` |
/// | `per_account(Quota::per_hour(…))` of the endpoint `POST /v1/reports` | `POST /v1/reports account_per_hour` |
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
}

impl Limit {
    /// A quota with a name.
    pub fn named(name: impl Into<String>, quota: Quota) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::from(quota)
        }
    }

    /// Sets the unit that the limit counts: 1 to 64 characters of visible ASCII and spaces, without
    /// `"` and `\`. Default: [`requests`](crate::limit::REQUESTS).
    ///
    /// A request takes nothing of another unit, unless its endpoint
    /// [costs](crate::limit::Endpoint::cost_in) some. What the work took is charged after it, with
    /// [`Caller::charge`](crate::Caller::charge). When nothing is left, requests are denied.
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

    /// Limits only requests without a key. Default: requests with a key, too. Such requests are
    /// let through by an [optional](crate::ApiKeyLayer::optional) layer, and have no key or account
    /// to limit by, so this is for limits by address and global ones.
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

    /// Lets the limit only report: it denies nothing, and callers are told nothing of it. Default:
    /// it denies.
    ///
    /// What it would have denied is told to the logs, at most once a minute for each limit, and to
    /// [observers](crate::observe::Decision::report_only_hits). It is charged whenever the request is
    /// admitted, also beyond its quota. So a limit can be tried before it binds.
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

    /// Gives an account one budget for its keys of all environments. Default: one for each
    /// environment, so that tests do not use up what live callers need. Only limits by account make
    /// that difference.
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
        }
    }
}

/// One quota, and what it counts by.
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
    /// Units of each request that the rule binds, and how many must be left.
    pub(super) cost: u64,
    pub(super) need: u64,
}

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
    /// Without a name of its own, a rule is called by what it says: `account_per_minute`.
    pub(super) fn new(by: By, limit: Limit, place: Option<&str>) -> Self {
        Self::of(by, None, limit, place)
    }

    /// Creates a rule that counts by the application's own subject.
    pub(super) fn per(subject: Arc<str>, limit: Limit) -> Self {
        Self::of(By::Subject, Some(subject), limit, None)
    }

    fn of(by: By, subject: Option<Arc<str>>, limit: Limit, place: Option<&str>) -> Self {
        let name = limit.name.unwrap_or_else(|| {
            let subject = match by {
                By::Subject => subject.as_deref().unwrap_or_default(),
                By::Key => "key",
                By::AccountIn | By::Account => "account",
                By::Address => "ip",
                By::Global => "global",
            };
            let place = place.map(|place| format!("{place} ")).unwrap_or_default();
            let who = if limit.is_anonymous { "anonymous_" } else { "" };
            let unit = limit.unit.as_deref().filter(|unit| *unit != REQUESTS);
            let unit = unit.map(|unit| format!("{unit}_")).unwrap_or_default();
            format!("{place}{who}{subject}_{unit}{}", period_name(limit.quota))
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
            cost: 1,
            need: 1,
        }
    }
}

fn period_name(quota: Quota) -> String {
    match quota.form() {
        Shape::Rate { .. } => "rate".to_owned(),
        Shape::Calendar(Calendar::Day) => "per_utc_day".to_owned(),
        Shape::Calendar(Calendar::Month) => "per_utc_month".to_owned(),
        Shape::Window { period } => match Duration::from_nanos(period) {
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

/// Rules that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// There are plans, and keys without one would have no limit.
    #[error("there are plans but no default: say which one binds keys without a plan")]
    NoDefaultPlan,
    /// The default plan is none of the plans.
    #[error("the default plan {0:?} is none of the plans")]
    UnknownPlan(String),
    /// Two plans of one name.
    #[error("there are two plans of the name {0:?}")]
    SamePlan(String),
    /// A unit that cannot stand in a header.
    #[error("{0:?} cannot name a unit: use 1 to 64 characters of ASCII without '\"' and '\\'")]
    Unit(String),
    /// An endpoint that costs units which no limit counts.
    #[error("an endpoint costs {0:?}, which no limit counts: see Limit::unit")]
    UnknownUnit(String),
    /// A limit counts by a subject that the application does not say.
    #[error("limits count by {0:?}, which is unknown: see ApiKeysBuilder::add_subject")]
    UnknownSubject(String),
    /// A limit of requests without a key that counts by key or account.
    #[error("the limit {0:?} is for requests without a key, which have neither key nor account")]
    Anonymous(String),
    /// Two limits of one name that bind the same request.
    #[error("two limits of the name {0:?} bind the same request: name them with Limit::named")]
    SameName(String),
    /// A name that cannot stand in a header.
    #[error(
        "{0:?} cannot name a limit: use 1 to 64 characters of ASCII without '\"' and '\\', and give a limit \
         of a long endpoint a name with Limit::named"
    )]
    Name(String),
    /// An endpoint that no request would ever be charged as.
    #[error("the endpoint {endpoint:?} matches no request: {advice}")]
    #[non_exhaustive]
    Endpoint {
        /// The method and the path.
        endpoint: String,
        /// How to mend it.
        advice: &'static str,
    },
    /// Two endpoints of one method and path, of which only one could be found.
    #[error("there are two endpoints {0:?}: state the cost and all limits in one of them")]
    SameEndpoint(String),
    /// Limits were replaced 65,534 times in the life of one [`ApiKeys`](crate::ApiKeys).
    #[error(
        "limits were replaced too often: restart, and replace them only when a configuration changes"
    )]
    TooManyChanges,
    /// More than 65,535 plans.
    #[error("more than 65,535 plans")]
    TooManyPlans,
    /// More than 16 limits bind one request.
    #[error("more than 16 limits bind the same request")]
    TooMany,
}
