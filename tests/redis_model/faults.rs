//! How faults begin and end.

use std::task::Waker;
use std::time::Duration;

use tokio::time::sleep;

use super::network::Network;
use super::plan::{DEAD, Fault, Keeps, Old, Source, TOLD};
use super::server::{Clock, Server};
use super::world::{Path, World};

/// Lets a fault happen.
pub async fn happen(network: &Network, fault: &Fault) {
    network.change(|world, now| {
        for node in fault.nodes(world.paths.len()) {
            world.ledger.disturb(node, now, now + fault.lasts());
        }
    });
    match fault {
        Fault::Hang(lasts) => {
            let hang = |hangs| move |it: &mut Server| it.hang(hangs);
            change_master(network, hang(true), *lasts, hang(false)).await;
        }
        Fault::Slow { each, lasts } => {
            let begin = |it: &mut Server| it.slowness = *each;
            let end = |it: &mut Server| (it.slowness, it.busy_until) = Default::default();
            change_master(network, begin, *lasts, end).await;
        }
        Fault::OutOfMemory(lasts) => {
            let is_full = |is| move |it: &mut Server| it.is_out_of_memory = is;
            change_master(network, is_full(true), *lasts, is_full(false)).await;
        }
        Fault::Kill {
            is_silent,
            keeps,
            down,
            loads,
        } => kill(network, *is_silent, *keeps, (*down, *loads)).await,
        Fault::Failover { lag, old, ahead } => fail_over(network, *lag, *old, *ahead).await,
        Fault::Step(step) => network.change(|world, now| {
            world.servers[world.master].clock.begun += step;
            world.ledger.clock_changes(*step, now);
        }),
        Fault::Flush(times) => flush(network, *times).await,
        Fault::Cut(nodes) => for_each(network, nodes, World::cut_all),
        Fault::CutAtReply(nodes) => for_each(network, nodes, World::cut_at_reply),
        Fault::HalfOpen(nodes) => for_each(network, nodes, World::half_open),
        Fault::Refuse { nodes, lasts } => {
            for_each(network, nodes, World::cut_all);
            let refuse = |refuses| move |it: &mut Path| it.refuses = refuses;
            change_paths(network, nodes, refuse(true));
            sleep(*lasts).await;
            change_paths(network, nodes, refuse(false));
        }
        Fault::Block {
            nodes,
            up,
            down,
            lasts,
        } => {
            let block = |up, down| move |it: &mut Path| (it.blocks_up, it.blocks_down) = (up, down);
            change_paths(network, nodes, block(*up, *down));
            sleep(*lasts).await;
            change_paths(network, nodes, block(false, false));
        }
        Fault::Far {
            nodes,
            up,
            down,
            unsteady,
            lasts,
        } => {
            let far = |it: &mut Path| (it.up, it.down, it.unsteady) = (*up, *down, *unsteady);
            change_paths(network, nodes, far);
            sleep(*lasts).await;
            for_each(network, nodes, near);
        }
        Fault::Pause { node, lasts } => pause(network, *node, *lasts).await,
        Fault::Burst { .. } => {}
    }
}

fn for_each(network: &Network, nodes: &[usize], change: impl Fn(&mut World, usize)) {
    network.change(|world, _| {
        for node in nodes {
            change(world, *node);
        }
    });
}

fn change_paths(network: &Network, nodes: &[usize], change: impl Fn(&mut Path)) {
    for_each(network, nodes, |world, node| change(&mut world.paths[node]));
}

/// Changes the master for a while, also if another one becomes the master meanwhile.
async fn change_master(
    network: &Network,
    begin: impl FnOnce(&mut Server),
    lasts: Duration,
    end: impl FnOnce(&mut Server),
) {
    let server = network.change(|world, _| {
        begin(&mut world.servers[world.master]);
        world.master
    });
    sleep(lasts).await;
    network.change(|world, _| end(&mut world.servers[server]));
}

/// Makes the way of a node as long as it was.
fn near(world: &mut World, node: usize) {
    let (path, plan) = (&mut world.paths[node], &world.ledger.plan.nodes[node]);
    (path.up, path.down, path.unsteady) = (plan.up, plan.down, plan.unsteady);
}

async fn flush(network: &Network, times: u32) {
    for _ in 0..times {
        network.change(|world, _| world.servers[world.master].flush_scripts());
        sleep(Duration::from_millis(7)).await;
    }
}

async fn pause(network: &Network, node: usize, lasts: Duration) {
    network.change(|world, _| world.processes[node].is_paused = true);
    sleep(lasts).await;
    let wakers = network.change(|world, now| {
        if world.is_half_open(node) {
            // It is noticed so long after the first call.
            world.ledger.disturb(node, now, now + DEAD);
        }
        world.processes[node].is_paused = false;
        std::mem::take(&mut world.processes[node].wakers)
    });
    wakers.into_iter().for_each(Waker::wake);
}

async fn kill(
    network: &Network,
    is_silent: bool,
    keeps: Keeps,
    (down, loads): (Duration, Duration),
) {
    let killed = network.change(|world, now| {
        let server = world.master;
        if !world.servers[server].is_up() {
            return None;
        }
        world.kill(now, server, is_silent);
        let until = match keeps {
            Keeps::All => now,
            Keeps::AllBut(time) => now.saturating_sub(time),
            Keeps::Nothing => Duration::ZERO,
        };
        if until < now {
            world.ledger.lose(until, now, None);
        }
        Some((server, now, until))
    });
    let Some((server, killed, until)) = killed else {
        return;
    };
    sleep(down).await;
    let is_back = network.change(|world, _| {
        if world.master == server {
            world.servers[server].restart(until);
            return true;
        }
        // Another one has its place, and perhaps nobody is told.
        for node in 0..world.paths.len() {
            if is_silent {
                world.ledger.disturb(node, killed, killed + DEAD);
            }
        }
        false
    });
    if is_back {
        sleep(loads).await;
        network.change(|world, _| world.servers[server].serve());
    }
}

async fn fail_over(network: &Network, lag: Duration, old: Old, ahead: i64) {
    let (server, failed) = network.change(|world, now| {
        if let Old::Ends(_) = old {
            world.kill(now, world.master, false);
        }
        (world.master, now)
    });
    if let Old::Ends(gap) = old {
        sleep(gap).await;
    }
    let is_replaced = network.change(|world, now| {
        // Another fault may have replaced it meanwhile.
        if world.master != server {
            return false;
        }
        let until = failed.saturating_sub(lag);
        let it = &world.servers[server];
        let clock = Clock {
            begun: it.clock.begun + ahead,
            ..it.clock
        };
        let replica = it.replica(until, clock);
        world.servers.push(replica);
        world.master = world.servers.len() - 1;
        world.ledger.lose(until, now, Some(server));
        world.ledger.clock_changes(ahead, now);
        true
    });
    if let (Old::GoesOn(time), true) = (old, is_replaced) {
        sleep(time).await;
        network.change(|world, _| world.servers[server].is_replica = true);
        // An application's connection is told so at some time; ours finds it out.
        sleep(TOLD).await;
        network.change(|world, _| {
            for node in 0..world.paths.len() {
                if world.ledger.plan.nodes[node].source != Source::Dialed {
                    world.cut_from(node, server);
                }
            }
        });
    }
}
