//! Scopes: the permissions that keys hold, and that requests require.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A permission, such as `reports:read`.
///
/// A scope is a `scope-token` of RFC 6749 §3.3: visible ASCII without `"` and `\`, 1 to 128
/// characters. Scopes are compared as they are written; there are no wildcards and no hierarchy.
///
/// ```
/// use tower_api_key::Scope;
///
/// const REPORTS_READ: Scope = Scope::from_static("reports:read");
/// assert_eq!("reports:read".parse::<Scope>()?, REPORTS_READ);
/// assert!("two words".parse::<Scope>().is_err());
/// # Ok::<(), tower_api_key::key::ScopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Cow<'static, str>);

impl Scope {
    /// Creates a scope from a text that is known at compile time.
    ///
    /// # Panics
    /// If the scope is not valid; in a `const` that is a compile error.
    pub const fn from_static(scope: &'static str) -> Self {
        assert!(
            is_valid(scope),
            "a scope is 1 to 128 visible ASCII characters without '\"' and '\\'"
        );
        Self(Cow::Borrowed(scope))
    }

    /// Returns the scope as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(scope: &str) -> Result<Self, Self::Err> {
        if is_valid(scope) {
            Ok(Self(Cow::Owned(scope.to_owned())))
        } else {
            Err(ScopeError(scope.to_owned()))
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error for a text that is not a `scope-token` of RFC 6749.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a scope: use 1 to 128 visible ASCII characters without '\"' and '\\'")]
pub struct ScopeError(String);

const fn is_valid(scope: &str) -> bool {
    let scope = scope.as_bytes();
    let mut at = 0;
    while at < scope.len() {
        if !matches!(scope[at], 0x21 | 0x23..=0x5b | 0x5d..=0x7e) {
            return false;
        }
        at += 1;
    }
    !scope.is_empty() && scope.len() <= 128
}

/// A set of scopes, such as those that a key holds. An empty set grants nothing.
///
/// ```
/// use tower_api_key::key::ScopeSet;
/// use tower_api_key::Scope;
///
/// let held: ScopeSet = "reports:read users:read".parse()?;
/// assert!(held.contains(&Scope::from_static("users:read")));
/// assert!(!ScopeSet::default().contains(&Scope::from_static("users:read")));
/// assert_eq!(held.to_string(), "reports:read users:read");
/// # Ok::<(), tower_api_key::key::ScopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScopeSet(BTreeSet<Scope>);

impl ScopeSet {
    /// Returns whether exactly this scope is in the set.
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.contains(scope)
    }

    /// Returns the scopes in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// Returns whether every scope of this set is in the other, for example to check that nobody
    /// grants more than they hold.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Returns the number of scopes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the set is empty, and so grants nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for ScopeSet {
    type Item = Scope;
    type IntoIter = std::collections::btree_set::IntoIter<Scope>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Extend<Scope> for ScopeSet {
    fn extend<I: IntoIterator<Item = Scope>>(&mut self, scopes: I) {
        self.0.extend(scopes);
    }
}

/// Parses a list separated by spaces, as in OAuth. (A comma is a part of a scope.)
impl FromStr for ScopeSet {
    type Err = ScopeError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        list.split(' ')
            .filter(|scope| !scope.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.0.iter())
    }
}

/// The scopes that a request requires: all of a list, or at least one of them.
///
/// ```
/// use tower_api_key::key::{RequiredScopes, ScopeSet};
/// use tower_api_key::Scope;
///
/// const READ: Scope = Scope::from_static("reports:read");
/// const ADMIN: Scope = Scope::from_static("admin");
///
/// let held: ScopeSet = [READ].into_iter().collect();
/// assert!(RequiredScopes::any_of([READ, ADMIN]).are_held_by(&held));
/// assert!(!RequiredScopes::all_of([READ, ADMIN]).are_held_by(&held));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredScopes {
    scopes: Arc<[Scope]>,
    any: bool,
}

impl RequiredScopes {
    /// Requires all of these scopes. An empty list requires nothing.
    pub fn all_of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self {
            scopes: scopes.into_iter().collect(),
            any: false,
        }
    }

    /// Requires at least one of these scopes. No key satisfies an empty list.
    pub fn any_of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self {
            scopes: scopes.into_iter().collect(),
            any: true,
        }
    }

    /// Returns whether a key with the scopes `held` satisfies the requirement.
    pub fn are_held_by(&self, held: &ScopeSet) -> bool {
        if self.any {
            self.scopes.iter().any(|scope| held.contains(scope))
        } else {
            self.scopes.iter().all(|scope| held.contains(scope))
        }
    }

    /// Returns the required scopes, as they were given.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Returns whether one of the scopes is enough.
    pub fn is_any_of(&self) -> bool {
        self.any
    }
}

impl From<Scope> for RequiredScopes {
    fn from(scope: Scope) -> Self {
        Self::all_of([scope])
    }
}

/// Displays the scopes separated by spaces, as in the `scope` parameter of a Bearer challenge (RFC
/// 6750).
impl fmt::Display for RequiredScopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_list(f, self.scopes.iter())
    }
}

fn write_list<'a>(
    f: &mut fmt::Formatter<'_>,
    scopes: impl Iterator<Item = &'a Scope>,
) -> fmt::Result {
    for (at, scope) in scopes.enumerate() {
        if at > 0 {
            f.write_str(" ")?;
        }
        f.write_str(scope.as_str())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Scope = Scope::from_static("a");
    const B: Scope = Scope::from_static("b");

    #[test]
    fn an_empty_set_grants_nothing() {
        let none = ScopeSet::default();
        assert!(!RequiredScopes::from(A).are_held_by(&none));
        assert!(!RequiredScopes::any_of([A, B]).are_held_by(&none));
        assert!(RequiredScopes::all_of([]).are_held_by(&none));
        assert!(!RequiredScopes::any_of([]).are_held_by(&[A].into_iter().collect()));
    }

    #[test]
    fn scopes_are_compared_exactly() {
        let held: ScopeSet = "reports:read".parse().unwrap();
        for other in ["reports", "reports:*", "Reports:read", "reports:read2"] {
            assert!(!held.contains(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn an_invalid_scope_is_refused() {
        for bad in ["", "a b", "a\"b", "a\\b", "ä", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<Scope>().is_err(), "{bad:?}");
        }
    }
}
