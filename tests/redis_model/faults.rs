//! How faults begin and end.

use std::time::Duration;

use tokio::time::sleep;

use super::network::{Network, World};
use super::plan::{Fault, Keeps, Old, Source};
use super::server::Clock;

/// The time within which an application's connection is told that its server is no master any more.
const TOLD: Duration = Duration::from_millis(300);

/// Lets a fault happen.
pub async fn happen(network: &Network, fault: Fault) {
    let lasts = fault.lasts();
    let disturb = |nodes: Option<&[usize]>, until: Duration| {
        network.change(|world, now| match nodes {
            None => world.ledger.disturb(None, now, now + until),
            Some(nodes) => {
                for node in nodes {
                    world.ledger.disturb(Some(*node), now, now + until);
                }
            }
        });
    };
    match fault {
        Fault::Hang(lasts) => {
            disturb(None, lasts);
            let server = network.change(|world, now| {
                world.hang(now, world.master, true);
                world.master
            });
            sleep(lasts).await;
            network.change(|world, now| world.hang(now, server, false));
        }
        Fault::Slow { each, lasts } => {
            disturb(None, lasts);
            let server = network.change(|world, _| {
                world.servers[world.master].slowness = each;
                world.master
            });
            sleep(lasts).await;
            network.change(|world, now| {
                world.servers[server].slowness = Duration::ZERO;
                world.servers[server].busy_until = now;
                world.works(now, server);
            });
        }
        Fault::Kill {
            is_silent,
            keeps,
            down,
            loads,
        } => {
            disturb(None, lasts);
            kill(network, is_silent, keeps, (down, loads)).await;
        }
        Fault::Failover { lag, old, ahead } => {
            disturb(None, lasts + TOLD);
            fail_over(network, lag, old, ahead).await;
        }
        Fault::Step(step) => {
            disturb(None, lasts);
            network.change(|world, now| {
                world.servers[world.master].clock.begun += step;
                world.ledger.clock_changes(step, now);
            });
        }
        Fault::Flush(times) => {
            for _ in 0..times {
                network.change(|world, _| world.servers[world.master].flush_scripts());
                sleep(Duration::from_millis(7)).await;
            }
        }
        Fault::OutOfMemory(lasts) => {
            disturb(None, lasts);
            let server = network.change(|world, _| {
                world.servers[world.master].is_out_of_memory = true;
                world.master
            });
            sleep(lasts).await;
            network.change(|world, _| world.servers[server].is_out_of_memory = false);
        }
        Fault::Cut(nodes) => {
            disturb(Some(&nodes), lasts);
            network.change(|world, _| nodes.iter().for_each(|node| world.cut_all(*node)));
        }
        Fault::CutAtReply(nodes) => {
            // At the next call.
            disturb(Some(&nodes), Duration::from_millis(60));
            network.change(|world, _| nodes.iter().for_each(|node| world.cut_at_reply(*node)));
        }
        Fault::HalfOpen(nodes) => {
            disturb(Some(&nodes), lasts);
            network.change(|world, _| nodes.iter().for_each(|node| world.half_open(*node)));
        }
        Fault::Refuse { nodes, lasts } => {
            disturb(Some(&nodes), lasts);
            network.change(|world, _| {
                for node in &nodes {
                    world.paths[*node].refuses = true;
                    world.cut_all(*node);
                }
            });
            sleep(lasts).await;
            network.change(|world, _| {
                for node in &nodes {
                    world.paths[*node].refuses = false;
                }
            });
        }
        Fault::Block {
            nodes,
            up,
            down,
            lasts,
        } => {
            disturb(Some(&nodes), lasts);
            let block = |up: bool, down: bool| {
                network.change(|world, _| {
                    for node in &nodes {
                        let path = &mut world.paths[*node];
                        (path.blocks_up, path.blocks_down) = (up, down);
                    }
                });
            };
            block(up, down);
            sleep(lasts).await;
            block(false, false);
        }
        Fault::Far {
            nodes,
            up,
            down,
            unsteady,
            lasts: time,
        } => {
            disturb(Some(&nodes), lasts);
            network.change(|world, _| {
                for node in &nodes {
                    let path = &mut world.paths[*node];
                    (path.up, path.down, path.unsteady) = (up, down, unsteady);
                }
            });
            sleep(time).await;
            network.change(|world, _| nodes.iter().for_each(|node| restore_path(world, *node)));
        }
        Fault::Pause { node, lasts } => {
            disturb(Some(&[node]), lasts);
            network.change(|world, _| world.paths[node].is_paused = true);
            sleep(lasts).await;
            let wakers = network.change(|world, now| {
                if world.is_half_open(node) {
                    // It is noticed two seconds after the first call.
                    let until = now + Fault::HalfOpen(Vec::new()).lasts();
                    world.ledger.disturb(Some(node), now, until);
                }
                world.paths[node].is_paused = false;
                std::mem::take(&mut world.paths[node].wakers)
            });
            wakers.into_iter().for_each(std::task::Waker::wake);
        }
        Fault::Burst { .. } => {}
    }
}

fn restore_path(world: &mut World, node: usize) {
    let plan = world.ledger.plan.clone();
    let (path, plan) = (&mut world.paths[node], &plan.nodes[node]);
    (path.up, path.down, path.unsteady) = (plan.up, plan.down, plan.unsteady);
}

async fn kill(network: &Network, is_silent: bool, keeps: Keeps, times: (Duration, Duration)) {
    let killed = network.change(|world, now| {
        let server = world.master;
        if !world.servers[server].is_up {
            return None;
        }
        world.kill(now, server, is_silent);
        let until = match keeps {
            Keeps::All => return Some((server, now, now)),
            Keeps::AllBut(time) => now.saturating_sub(time),
            Keeps::Nothing => Duration::ZERO,
        };
        world.ledger.lose(until, now, None);
        Some((server, now, until))
    });
    let Some((server, killed, until)) = killed else {
        return;
    };
    sleep(times.0).await;
    let is_back = network.change(|world, _| {
        if world.master != server {
            if is_silent {
                // Another one has its place, and nobody is told.
                let noticed = Fault::HalfOpen(Vec::new()).lasts();
                world.ledger.disturb(None, killed, killed + noticed);
            }
            return false;
        }
        world.servers[server].restart(until);
        world.servers[server].is_loading = true;
        true
    });
    if is_back {
        sleep(times.1).await;
        network.change(|world, _| world.servers[server].is_loading = false);
    }
}

async fn fail_over(network: &Network, lag: Duration, old: Old, ahead: i64) {
    let old_master = network.change(|world, now| {
        let server = world.master;
        if let Old::Ends(_) = old {
            world.kill(now, server, false);
        }
        (server, now)
    });
    if let Old::Ends(gap) = old {
        sleep(gap).await;
    }
    let (server, failed) = old_master;
    let is_new = network.change(|world, now| {
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
    if let (Old::GoesOn(time), true) = (old, is_new) {
        sleep(time).await;
        network.change(|world, _| world.servers[server].is_replica = true);
        sleep(TOLD).await;
        network.change(|world, now| {
            // An application's connection is told so in some way; ours needs none.
            let nodes = world.ledger.plan.nodes.iter().enumerate();
            let given = nodes.filter(|(_, it)| it.source != Source::Dialed);
            let given: Vec<_> = given.map(|(node, _)| node).collect();
            let _ = now;
            given
                .into_iter()
                .for_each(|node| world.cut_from(node, server));
        });
    }
}
