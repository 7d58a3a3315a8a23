//! Refunds: of the application, and of what was taken for requests that were denied after all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::budget_key;
use super::call_error::CallError;
use super::denials::Denials;
use super::request::PackedRefund;
use super::script::Script;
use super::servers::Servers;
use super::slots::slot_of;
use crate::util::join_all::join_all;
use crate::util::on_drop::OnDrop;

/// The life of the note that a refund was done, in milliseconds. A refund is carried out in the
/// first quarter of a second, or never.
const NOTE_LIFE: u32 = 60_000;

/// What a refund needs, also after its caller has gone.
#[derive(Debug, Clone)]
pub(super) struct Refunds {
    pub(super) servers: Servers,
    pub(super) script: Arc<Script>,
    pub(super) denials: Arc<Denials>,
    /// For tests: the time of the caller.
    pub(super) time: Option<u64>,
}

impl Refunds {
    /// Refunds units of budgets that one call can reach, until the time limit, and once.
    pub(super) async fn run(&self, refunds: &[PackedRefund]) -> Result<(), CallError> {
        let Some(first) = refunds.first() else {
            return Ok(());
        };
        let nonce = crate::store::ChangeId::unique();
        let note = budget_key::note(&first.key, &nonce.to_string());
        let call = |name: &str, script: &str, not_after: i64| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(refunds.len() + 1).arg(&note);
            for refund in refunds {
                command.arg(&refund.key);
            }
            command.arg(self.time.map_or(not_after, |_| 0));
            command.arg(NOTE_LIFE);
            for refund in refunds {
                command.arg(refund.packed.as_slice());
            }
            command.arg(self.time);
            command
        };
        // Also if the answer is lost, or nobody waits for it: the refund may be carried out.
        let keys = || refunds.iter().map(|refund| refund.key.as_str());
        let _forget = OnDrop(|| self.denials.forget(keys()));
        let servers = &self.servers;
        let until = servers.now() + servers.limit();
        servers
            .run_in_time(&note, &self.script, until, call)
            .await?;
        Ok(())
    }

    /// Refunds units of budgets of a cluster, with a call for each slot. If one fails, the others
    /// are carried out.
    pub(super) async fn run_apart(&self, refunds: Vec<PackedRefund>) -> Result<(), CallError> {
        let mut slots = BTreeMap::<u16, Vec<PackedRefund>>::new();
        for refund in refunds {
            slots.entry(slot_of(&refund.key)).or_default().push(refund);
        }
        let refunded = join_all(slots.values().map(|refunds| self.run(refunds))).await;
        refunded.into_iter().collect()
    }
}
