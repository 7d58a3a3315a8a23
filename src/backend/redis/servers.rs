//! The servers of Redis: one, or the masters of a cluster.
//!
//! A call is about a key, which decides where it is sent. A server of a cluster that does not have
//! the key names the one that does. Nothing was carried out then, so the call is sent there. A call
//! without an answer is never sent again.

use std::sync::Arc;
use std::time::Duration;

use redis::{Client, Cmd, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind};
use tokio::runtime::Handle;

use super::call_error::CallError;
use super::cluster::{Cluster, Master};
use super::dialing::Source;
use super::link::Link;
use super::script::{Answer, Script};
use super::slot_map::Address;
use super::slots::slot_of;

/// The most redirections of a call: by a server that gave a slot away, and by one that is about to.
const REDIRECTIONS: u8 = 2;

/// One server, or the masters of a cluster. Clones share the connections.
#[derive(Debug, Clone)]
pub(super) enum Servers {
    One(Link),
    Cluster(Arc<Cluster>),
}

/// The way of a call to the server that has its key.
pub(super) struct Route {
    link: Link,
    cluster: Option<InCluster>,
}

struct InCluster {
    cluster: Arc<Cluster>,
    slot: u16,
    master: Arc<Master>,
    redirections: u8,
}

impl Servers {
    pub(super) fn one(source: Source, limit: Duration) -> Self {
        Self::One(Link::new(source, limit))
    }

    /// Creates the servers of a cluster, of which some are named.
    pub(super) fn cluster(seeds: Vec<ConnectionInfo>, limit: Duration) -> Self {
        Self::Cluster(Arc::new(Cluster::new(seeds, limit)))
    }

    /// Returns the time since the servers were made. The times of all links count from then.
    pub(super) fn now(&self) -> Duration {
        match self {
            Self::One(link) => link.now(),
            Self::Cluster(cluster) => cluster.now(),
        }
    }

    /// Returns the time limit of a call.
    pub(super) fn limit(&self) -> Duration {
        match self {
            Self::One(link) => link.limit(),
            Self::Cluster(cluster) => cluster.limit(),
        }
    }

    /// Sets the time limit of a call.
    pub(super) fn set_limit(&self, limit: Duration) {
        match self {
            Self::One(link) => link.set_limit(limit),
            Self::Cluster(cluster) => cluster.set_limit(limit),
        }
    }

    /// Returns the way to the server that has a key.
    pub(super) async fn route(&self, key: &str, until: Duration) -> Result<Route, CallError> {
        let cluster = match self {
            Self::One(link) => {
                return Ok(Route {
                    link: link.clone(),
                    cluster: None,
                });
            }
            Self::Cluster(cluster) => cluster,
        };
        let slot = slot_of(key);
        let master = cluster.master_of(slot, until).await?;
        Ok(Route {
            link: master.link.clone(),
            cluster: Some(InCluster {
                cluster: Arc::clone(cluster),
                slot,
                master,
                redirections: 0,
            }),
        })
    }

    /// Runs a task on the runtime of the link to the server that has a key, or on that of the caller.
    pub(super) fn spawn(&self, key: &str, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = match self {
            Self::One(link) => link.runtime(),
            Self::Cluster(cluster) => cluster.runtime_of(slot_of(key)),
        };
        if let Some(runtime) = runtime.or_else(|| Handle::try_current().ok()) {
            runtime.spawn(task);
        }
    }

    /// Waits until a call about a key may be sent. An error if that will not be soon.
    pub(super) async fn ready(&self, key: &str, until: Duration) -> Result<(), CallError> {
        let mut route = self.route(key, until).await?;
        match route.link().ready(until).await {
            Err(error) => route.follow(error),
            ready => ready,
        }
    }

    /// Returns the client of the server that has a key, to dial by it. `None` if the connection is
    /// the application's.
    pub(super) async fn client_of(
        &self,
        key: &str,
        until: Duration,
    ) -> Result<Option<Client>, CallError> {
        let route = self.route(key, until).await?;
        Ok(route.link().client())
    }

    /// Runs a script as [`Script::run`] does, on the server that has a key.
    pub(super) async fn run(
        &self,
        key: &str,
        script: &Script,
        until: Duration,
        call: impl Fn(&str, &str) -> Cmd,
    ) -> Result<Answer, CallError> {
        let mut route = self.route(key, until).await?;
        let call = |name: &str, script: &str, _| call(name, script);
        loop {
            match script.run(route.link(), until, call).await {
                Err(error) => route.follow(error)?,
                Ok((_, answer)) => return Answer::read(answer),
            }
        }
    }

    /// Runs a script as [`Script::run_in_time`] does, on the server that has a key.
    pub(super) async fn run_in_time(
        &self,
        key: &str,
        script: &Script,
        until: Duration,
        call: impl Fn(&str, &str, i64) -> Cmd,
    ) -> Result<Answer, CallError> {
        if let Self::One(link) = self {
            let answer = script.run_in_time(link, until, &call).await;
            return answer.map_err(on_one_server);
        }
        let mut route = self.route(key, until).await?;
        loop {
            match script.run_in_time(route.link(), until, &call).await {
                Err(error) => route.follow(error)?,
                answer => return answer,
            }
        }
    }
}

impl Route {
    /// Returns the link to the server.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Goes on to another server, if an error names it. Returns any other error.
    pub(super) fn follow(&mut self, error: CallError) -> Result<(), CallError> {
        let Some(within) = &mut self.cluster else {
            return Err(on_one_server(error));
        };
        let Some(link) = within.next(&error) else {
            within.cluster.note(&error);
            return Err(error);
        };
        self.link = link?;
        Ok(())
    }
}

impl InCluster {
    /// Returns the link to the server that an error names, if any.
    fn next(&mut self, error: &CallError) -> Option<Result<Link, CallError>> {
        let CallError::Redis(error) = error else {
            return None;
        };
        let (address, _) = error.redirect_node()?;
        let address = Address::read(address, &self.master.address.host)?;
        if self.redirections == REDIRECTIONS {
            return None;
        }
        self.redirections += 1;
        let is_moving = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
        let named = if is_moving {
            self.cluster.named(address)
        } else {
            self.cluster.moved(self.slot, address)
        };
        let named = named.map(|master| {
            self.master = Arc::clone(&master);
            if is_moving {
                master.link.asking()
            } else {
                master.link.clone()
            }
        });
        Some(named)
    }
}

/// Says what is wrong, if one server is asked that is one of a cluster.
fn on_one_server(error: CallError) -> CallError {
    let is_of_cluster = |error: &RedisError| {
        let kind = error.kind();
        error.redirect_node().is_some() || kind == ErrorKind::Server(ServerErrorKind::CrossSlot)
    };
    match error {
        CallError::Redis(error) if is_of_cluster(&error) => CallError::OfCluster(error),
        error => error,
    }
}
