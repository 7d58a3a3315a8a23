//! The servers that an application names.

use std::time::Duration;

use redis::{Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError};

use super::dialing::{self, Source};
use super::servers::Servers;

/// An error for a URL that names no Redis server.
#[derive(Debug, Clone, thiserror::Error)]
#[error("this is no URL of a Redis server, such as redis://:password@host:6379/0")]
pub struct RedisUrlError(#[source] RedisError);

/// One server, or some of a cluster.
#[derive(Debug)]
pub(super) enum Named {
    One(Client),
    Cluster(Vec<ConnectionInfo>),
}

impl Named {
    pub(super) fn one(server: impl IntoConnectionInfo) -> Result<Self, RedisUrlError> {
        let info = server.into_connection_info().map_err(RedisUrlError)?;
        let client = dialing::client(info).map_err(RedisUrlError)?;
        Ok(Self::One(client))
    }

    pub(super) fn cluster(
        servers: impl IntoIterator<Item = impl IntoConnectionInfo>,
    ) -> Result<Self, RedisUrlError> {
        let infos = servers
            .into_iter()
            .map(IntoConnectionInfo::into_connection_info);
        let seeds: Vec<_> = infos.collect::<Result<_, _>>().map_err(RedisUrlError)?;
        if seeds.is_empty() {
            let none = (ErrorKind::InvalidClientConfig, "no server is named");
            return Err(RedisUrlError(none.into()));
        }
        Ok(Self::Cluster(seeds))
    }

    /// Returns new connections to the servers, which are made when they are first needed.
    pub(super) fn servers(&self, limit: Duration) -> Servers {
        match self {
            Self::One(client) => Servers::one(Source::Client(client.clone()), limit),
            Self::Cluster(seeds) => Servers::cluster(seeds.clone(), limit),
        }
    }
}
