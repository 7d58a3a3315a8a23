//! Ends idle keys as the policy says: a task of the worker.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use crate::manage::Manager;
use crate::manage::policy::IssuePolicy;
use crate::manage::retire::RetireIdle;
use crate::shared::Shared;
use crate::store::{Actor, ActorKind};
use crate::util::trace;

/// The time until the first look. A process that has just started first records its own uses.
const FIRST: Duration = Duration::from_secs(600);

/// The time between two looks.
const EVERY: Duration = Duration::from_secs(3_600);

/// Looks for idle keys forever, if the policy ends them.
pub(super) async fn end_idle(shared: &Arc<Shared>) -> Infallible {
    let idle = shared.idle;
    let Some(store) = &shared.managed_store else {
        return pending().await;
    };
    if idle.keys.is_none() && idle.rotated.is_none() {
        return pending().await;
    }
    let mut pause = FIRST;
    loop {
        shared.clock.sleep(pause).await;
        pause = EVERY;
        for (time, is_rotated) in [(idle.keys, false), (idle.rotated, true)] {
            let Some(time) = time else { continue };
            let policy = Arc::<IssuePolicy>::default();
            let manager = Manager::new(Arc::clone(shared), Arc::clone(store), policy);
            let by = Actor::new(ActorKind::System, "idle keys");
            let mut retire = RetireIdle::new(manager, time).by(by);
            if is_rotated {
                retire = retire.rotated_only();
            }
            if let Err(error) = retire.await {
                trace::idle_keys_not_ended(&error);
            }
        }
    }
}
