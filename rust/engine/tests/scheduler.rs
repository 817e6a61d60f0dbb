//! The scheduler against random arrivals: everything is computed in order, within the limits, and no request is forgotten.

use std::collections::BTreeMap;

use lmrs_engine::{Arrival, Id, Limits, Scheduler};
use lmrs_kernels::dropout::philox;
use proptest::prelude::*;

/// A request to come.
#[derive(Clone, Debug)]
struct Coming {
    step: usize,
    priority: i32,
    source: usize,
    prompt: usize,
    new: usize,
    /// Tokens of the prompt that were read before.
    kept: usize,
    /// Sequences it becomes when its prompt is read.
    beams: usize,
    /// Guesses after each token; half of them are right.
    drafts: usize,
    /// The number of new tokens after which it is cancelled.
    cancelled: Option<usize>,
}

impl Coming {
    /// The most it may hold in the cache.
    fn most(&self) -> usize {
        self.beams * (self.source + self.prompt + self.new) + self.drafts
    }
}

fn coming() -> impl Strategy<Value = Coming> {
    let numbers = (0..40_usize, 1..50_usize, 1..20_usize, 0..9_usize, -1..2_i32);
    (
        numbers,
        prop::option::weighted(0.2, 0..10_usize),
        0..60_usize,
        (0..4_usize, 0..5_usize),
    )
        .prop_map(
            |((step, prompt, new, kind, priority), cancelled, kept, (beams, drafts))| Coming {
                step,
                priority,
                source: if kind == 0 { prompt } else { 0 },
                prompt: if kind == 0 { 1 } else { prompt },
                new,
                kept: if kind == 0 { 0 } else { kept },
                beams: beams.max(1),
                drafts: if beams > 1 || kind == 0 { 0 } else { drafts },
                cancelled,
            },
        )
}

/// What a simulation came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    steps: usize,
    preempted: usize,
    computed: usize,
}

/// Runs all requests to their end, judging every step.
fn simulate(mut requests: Vec<Coming>, limits: Limits) -> Result<Seen, TestCaseError> {
    requests.sort_by_key(|a| a.step);
    let mut scheduler = Scheduler::new(limits);
    // Of each live request: what it is, tokens computed, new tokens.
    let mut live: BTreeMap<Id, (&Coming, usize, usize)> = BTreeMap::new();
    let mut coming = requests.iter().enumerate().peekable();
    let mut seen = Seen::default();
    for step in 0.. {
        while let Some((id, a)) = coming.next_if(|(_, a)| a.step <= step) {
            let id = id as Id;
            scheduler.add(Arrival {
                id,
                priority: a.priority,
                source: a.source,
                tokens: a.prompt,
                beams: a.beams,
            });
            live.insert(id, (a, 0, 0));
        }
        if live.is_empty() && coming.peek().is_none() {
            seen.steps = step;
            break;
        }
        prop_assert!(step < 100_000, "starved: {live:?}");
        let mut starts: BTreeMap<Id, usize> = BTreeMap::new();
        let planned = scheduler.plan(|id| {
            let (a, _, new) = live[&id];
            let kept = if a.beams > 1 {
                0
            } else {
                a.kept.min(a.prompt + new - 1)
            };
            starts.insert(id, kept);
            kept
        });
        for id in &planned.preempted {
            let (_, done, _) = live.get_mut(id).unwrap();
            *done = 0;
            seen.preempted += 1;
        }
        for (id, kept) in starts {
            live.get_mut(&id).unwrap().1 = kept;
        }
        let spans = planned.spans;
        prop_assert_eq!(spans.is_empty(), live.is_empty());
        let lines = |id: &Id| if live[id].2 > 0 { live[id].0.beams } else { 1 };
        let starting = |id: &Id, start: usize| {
            if start == 0 {
                lines(id) * live[id].0.source
            } else {
                0
            }
        };
        let sources: usize = spans.iter().map(|s| starting(&s.id, s.tokens.start)).sum();
        let total: usize = spans
            .iter()
            .map(|s| lines(&s.id) * s.tokens.len() + s.drafts)
            .sum();
        let least = spans.iter().map(|s| lines(&s.id)).max().unwrap_or(0);
        let oversized = sources + least > limits.step_tokens && spans.len() == 1;
        prop_assert!(sources + total <= limits.step_tokens || oversized);
        prop_assert!(scheduler.running() <= limits.sequences);
        prop_assert!(scheduler.held() <= limits.cached_tokens || scheduler.running() == 1);
        let waiting = scheduler.waiting();
        prop_assert_eq!(scheduler.running() + waiting, live.len());
        seen.computed += total;
        for span in spans {
            let (a, done, new) = live.get_mut(&span.id).unwrap();
            prop_assert_eq!(span.tokens.start, *done);
            prop_assert!(!span.tokens.is_empty());
            *done = span.tokens.end;
            prop_assert_eq!(span.last, *done == a.prompt + *new);
            prop_assert!(span.drafts == 0 || (span.last && *new > 0 && span.drafts <= a.drafts));
            if !span.last {
                continue;
            }
            let right = (span.drafts / 2).min(a.new - *new - 1);
            *done += right;
            *new += 1 + right;
            if *new == a.new || a.cancelled.is_some_and(|at| *new > at) {
                scheduler.remove(span.id);
                live.remove(&span.id);
            } else {
                scheduler.fork(span.id, a.beams);
                scheduler.grow(span.id, right);
                scheduler.draft(span.id, a.drafts.min(a.new - *new));
            }
        }
    }
    prop_assert!(scheduler.is_idle());
    prop_assert_eq!(scheduler.held(), 0);
    Ok(seen)
}

proptest! {
    #![proptest_config(lmrs_testing::cases(256))]

    #[test]
    fn every_token_in_order_within_the_limits(
        requests in prop::collection::vec(coming(), 0..30),
        limits in (1..40_usize, 1..8_usize, 1..200_usize),
    ) {
        let most = requests.iter().map(Coming::most).max().unwrap_or(0);
        let limits = Limits { step_tokens: limits.0, sequences: limits.1, cached_tokens: limits.2.max(most), ..Limits::default() };
        simulate(requests, limits)?;
    }
}

/// Ten thousand requests from each of a few seeds; a failure names its seed, which replays it.
#[test]
fn a_long_run_of_requests() {
    for seed in 0..8 {
        let mut drawn = 0;
        let mut draw = |below: usize| {
            drawn += 1;
            philox([drawn, 0, 0, 0], seed)[0] as usize % below
        };
        let requests: Vec<Coming> = (0..10_000)
            .map(|at| Coming {
                step: at * 3 + draw(20),
                priority: draw(3) as i32,
                source: 0,
                prompt: 1 + draw(if at % 50 == 0 { 700 } else { 60 }),
                new: 1 + draw(40),
                kept: draw(30),
                beams: 1 + draw(8) / 7 * draw(4),
                drafts: 0,
                cancelled: (draw(10) == 0).then(|| draw(20)),
            })
            .collect();
        let limits = Limits {
            step_tokens: 64,
            sequences: 16,
            cached_tokens: 760,
            ..Limits::default()
        };
        let seen =
            simulate(requests.clone(), limits).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(seen.preempted > 0, "seed {seed} never ran out of room");
        assert_eq!(seen, simulate(requests, limits).unwrap(), "seed {seed}");
    }
}

#[test]
fn a_higher_priority_takes_the_seat_of_a_lower_one() {
    let mut scheduler = Scheduler::new(Limits {
        sequences: 1,
        ..Limits::default()
    });
    let add = |scheduler: &mut Scheduler, id, priority| {
        scheduler.add(Arrival {
            id,
            priority,
            source: 0,
            tokens: 5,
            beams: 1,
        });
    };
    add(&mut scheduler, 0, 0);
    assert_eq!(scheduler.plan(|_| 0).spans[0].id, 0);
    scheduler.grow(0, 0);
    add(&mut scheduler, 1, 0);
    assert_eq!(scheduler.plan(|_| 0).spans[0].tokens, 5..6);
    scheduler.grow(0, 0);
    add(&mut scheduler, 2, 1);
    let step = scheduler.plan(|_| 0);
    assert_eq!((step.preempted, step.spans[0].id), (vec![0], 2));
    scheduler.remove(2);
    let step = scheduler.plan(|_| 0);
    assert_eq!((step.spans[0].id, step.spans[0].tokens.clone()), (0, 0..7));
}

/// A short prompt behind a long one is read within a few steps.
#[test]
fn a_long_prompt_does_not_hold_up_a_short_one() {
    let mut scheduler = Scheduler::new(Limits {
        step_tokens: 100,
        ..Limits::default()
    });
    for (id, tokens) in [(0, 5_000), (1, 40)] {
        scheduler.add(Arrival {
            id,
            priority: 0,
            source: 0,
            tokens,
            beams: 1,
        });
    }
    let spans = scheduler.plan(|_| 0).spans;
    assert_eq!(
        spans.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(),
        [50, 40]
    );
    assert!(spans[1].last);
}
