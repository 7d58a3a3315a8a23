//! What schedules that are drawn at random meet rarely. Each is tried with many nodes, limits and
//! moments.

use std::time::Duration;

use super::attempt_all;
use super::plan::{Fault, Old, Plan, Source};

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Returns a plan with other faults, and nodes that dial by themselves.
fn plan(seed: u64, faults: Vec<(u64, Fault)>) -> Plan {
    let mut plan = Plan::draw(seed);
    for node in &mut plan.nodes {
        node.source = Source::Dialed;
    }
    let faults = faults.into_iter();
    plan.faults = faults.map(|(at, fault)| (millis(at), fault)).collect();
    plan
}

/// The time of Redis is not known when they are asked for.
#[test]
fn calls_that_wait_for_the_first_connection_charge_nothing_late() {
    attempt_all(0..40, |seed| {
        plan(seed, vec![(8 + seed / 4, Fault::Hang(millis(900)))])
    });
}

/// As long as nothing gets through, connections die, and so do attempts to dial.
#[test]
fn after_a_partition_of_any_length_calls_succeed_within_a_second() {
    attempt_all(0..60, |seed| {
        let block = Fault::Block {
            nodes: vec![0],
            up: seed % 3 != 0,
            down: seed % 3 != 1,
            lasts: millis(600 + 60 * seed),
        };
        plan(seed, vec![(500, block)])
    });
}

/// A call that is dropped was sent before the last answer, or after it.
#[test]
fn calls_that_are_dropped_do_not_keep_the_breaker_closed() {
    attempt_all(0..40, |seed| {
        let burst = Fault::Burst { node: 0, calls: 10 };
        let faults = vec![(495, burst), (500, Fault::Hang(millis(1_500)))];
        let mut plan = plan(seed, faults);
        plan.dropped = 2;
        plan
    });
}

/// Many calls tell at once that the clock was set, and those that waited for long know least of it.
#[test]
fn the_first_call_that_tells_of_a_set_clock_is_not_overruled_by_those_before_it() {
    attempt_all(0..40, |seed| {
        let slow = Fault::Slow {
            each: millis(19),
            lasts: millis(800),
        };
        let burst = || Fault::Burst { node: 0, calls: 40 };
        let faults = vec![
            (500, slow),
            (700, burst()),
            (
                710,
                Fault::Step(90_000 + 20_000 * i64::try_from(seed).unwrap()),
            ),
            (760, burst()),
        ];
        plan(seed, faults)
    });
}

/// The process reads late that its call was late.
#[test]
fn a_process_that_was_stopped_does_not_take_its_own_pause_for_a_set_clock() {
    attempt_all(0..40, |seed| {
        let pause = Fault::Pause {
            node: 0,
            lasts: millis(500),
        };
        let faults = vec![
            (500, Fault::Hang(millis(300))),
            (600, pause),
            (1_101, Fault::Hang(millis(300 + 5 * seed))),
        ];
        let mut plan = plan(seed, faults);
        plan.limit = millis(250);
        plan
    });
}

/// A charge from before a step is not taken for another one, whose units are in use.
#[test]
fn refunds_of_charges_from_before_a_step_back_give_back_no_others() {
    attempt_all(0..150, |seed| {
        let back = 1_100_000 + 20_000 * i64::try_from(seed).unwrap();
        let mut plan = plan(seed, vec![(600, Fault::Step(-back))]);
        (plan.refunded, plan.after) = (3, millis(5_000));
        plan
    });
}

/// An application's connection goes on with a master that was demoted, which answers probes.
#[test]
fn a_demoted_master_is_probed_ten_times_a_second_at_most() {
    attempt_all(0..20, |seed| {
        let failover = Fault::Failover {
            lag: Duration::ZERO,
            old: Old::GoesOn(Duration::ZERO),
            ahead: 0,
        };
        let mut plan = plan(seed, vec![(500, failover)]);
        plan.nodes[0].source = Source::Given;
        plan
    });
}
