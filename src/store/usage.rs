//! Usage: what keys were used for, in numbered batches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;

/// Usage of keys, to be recorded once.
///
/// A process that counts usage is a node, with an id that it draws when it starts. It numbers its
/// batches from 1 and sends one at a time. If the answer to one is lost, it sends the same batch
/// again, and a store that has recorded it does not record it twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageBatch {
    /// The process that counted.
    pub node: [u8; 16],
    /// The number of the batch among those of the node: 1, 2, 3…
    pub number: u64,
    /// The usage, of each key and day at most once.
    pub usage: Vec<KeyUsage>,
}

impl UsageBatch {
    /// Creates a batch.
    pub fn new(node: [u8; 16], number: u64, usage: Vec<KeyUsage>) -> Self {
        Self {
            node,
            number,
            usage,
        }
    }
}

/// Usage of one key in one day, to be added to what is recorded of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// The key.
    pub key: KeyId,
    /// The account that it belongs to.
    pub account: String,
    /// The environment that it is of.
    pub environment: Option<Environment>,
    /// The UTC day, in days since 1 January 1970.
    pub day: u32,
    /// The first use in the batch.
    pub first_used_at: SystemTime,
    /// The last use in the batch.
    pub last_used_at: SystemTime,
    /// The address of the last use.
    pub last_address: Option<IpAddr>,
    /// Requests that were admitted.
    pub allowed: u64,
    /// Requests that were denied by a limit.
    pub limited: u64,
    /// Requests that were denied for another reason.
    pub refused: u64,
    /// Units that were charged, by their names.
    pub units: BTreeMap<String, u64>,
}

impl KeyUsage {
    /// Creates the usage of one use, of which nothing was counted yet.
    pub fn new(key: KeyId, account: impl Into<String>, day: u32, at: SystemTime) -> Self {
        Self {
            key,
            account: account.into(),
            environment: None,
            day,
            first_used_at: at,
            last_used_at: at,
            last_address: None,
            allowed: 0,
            limited: 0,
            refused: 0,
            units: BTreeMap::new(),
        }
    }
}
