//! A long-lived engine: whenever a request comes, and whoever comes beside it, it gets what it gets alone.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{VOCABULARY, generator};
use lmrs_engine::{
    Completion, Finish, Generation, Generator, Id, Limits, Request, Sampling, Service,
};
use lmrs_kernels::dropout::philox;

fn alone(generator: &Arc<Generator>, request: &Request) -> Completion {
    let mut generation = Generation::new(Limits::default());
    generation.add(generator, request.clone()).unwrap();
    let mut all = generation.finish::<lmrs_tensor::Error>(|| Ok(())).unwrap();
    all.remove(0)
}

fn requests(count: u32) -> Vec<Request> {
    let draw = |at, what, below| philox([at, what, 0, 0], 11)[0] % below;
    let request = |at| Request {
        // Many begin alike, some with more than a block of the cache.
        prompt: (0..=draw(at, 0, 100))
            .map(|t| (t * 5 + draw(at, 1, 2)) % VOCABULARY as u32)
            .collect(),
        max_tokens: 1 + draw(at, 2, 20) as usize,
        sampling: Sampling {
            temperature: f64::from(draw(at, 3, 2)),
            seed: u64::from(at),
            ..Sampling::default()
        },
        priority: draw(at, 4, 3) as i32,
        top_logprobs: draw(at, 5, 3) as usize,
        ..Request::default()
    };
    (0..count).map(request).collect()
}

/// The completions of `count` requests, and how often the cache was asked for its size while they ran.
fn collect(service: &Service, count: usize) -> BTreeMap<Id, (Completion, String)> {
    let (mut done, mut pieces) = (BTreeMap::new(), BTreeMap::<Id, String>::new());
    while done.len() < count {
        for event in service.wait(Duration::from_secs(20)).unwrap() {
            pieces.entry(event.id).or_default().push_str(&event.piece);
            if let Some(outcome) = event.outcome {
                let text = pieces.remove(&event.id).unwrap_or_default();
                done.insert(event.id, (outcome.unwrap(), text));
            }
        }
    }
    done
}

#[test]
fn from_many_threads_each_gets_what_it_gets_alone() {
    let generator = generator();
    let requests = requests(60);
    let alone: Vec<_> = requests.iter().map(|r| alone(&generator, r)).collect();
    for limits in [
        Limits::default(),
        Limits {
            step_tokens: 23,
            sequences: 5,
            cached_tokens: 300,
            ..Limits::default()
        },
    ] {
        let service = Service::start(limits).unwrap();
        let ids: Vec<(usize, Id)> = thread::scope(|scope| {
            let parts: Vec<_> = (0..6)
                .map(|part| {
                    let (service, generator, requests) = (&service, &generator, &requests);
                    scope.spawn(move || {
                        let mine = (0..requests.len()).filter(|at| at % 6 == part);
                        let submit = |at: usize| {
                            thread::sleep(Duration::from_micros(300));
                            (
                                at,
                                service
                                    .submit(generator, requests[at].clone(), None)
                                    .unwrap(),
                            )
                        };
                        mine.map(submit).collect::<Vec<_>>()
                    })
                })
                .collect();
            parts.into_iter().flat_map(|p| p.join().unwrap()).collect()
        });
        let done = collect(&service, requests.len());
        for (at, id) in ids {
            let (completion, text) = &done[&id];
            assert_eq!(
                (completion, text),
                (&alone[at], &alone[at].text),
                "request {at}"
            );
        }
        let load = service.load();
        assert_eq!((load.running, load.waiting, load.cached_bytes), (0, 0, 0));
        assert!(load.prefix_bytes > 0);
    }
}

fn long() -> Request {
    Request {
        prompt: vec![3, 4, 5],
        max_tokens: 120,
        ..Request::default()
    }
}

#[test]
fn a_cancelled_request_is_free_at_once_and_others_go_on() {
    let generator = generator();
    let service = Service::start(Limits::default()).unwrap();
    let gone: Vec<Id> = (0..20)
        .map(|_| service.submit(&generator, long(), None).unwrap())
        .collect();
    let kept = service.submit(&generator, long(), None).unwrap();
    for &id in &gone {
        service.cancel(id);
    }
    service.cancel(12_345);
    let mut after = 0;
    let done = loop {
        let events = service.wait(Duration::from_secs(20)).unwrap();
        let over = events.into_iter().find_map(|event| {
            after += usize::from(event.id != kept);
            event.outcome.filter(|_| event.id == kept)
        });
        if let Some(outcome) = over {
            break outcome.unwrap();
        }
    };
    assert_eq!(done, alone(&generator, &long()));
    assert!(
        after < 20 * 100,
        "cancelled requests went on: {after} tokens"
    );
    assert_eq!(service.load().cached_bytes, 0);
}

#[test]
fn a_request_ends_at_its_deadline_with_what_it_has() {
    let generator = generator();
    let service = Service::start(Limits::default()).unwrap();
    let past = Instant::now();
    let late = service.submit(&generator, long(), Some(past)).unwrap();
    let far = past + Duration::from_mins(1);
    let other = service.submit(&generator, long(), Some(far)).unwrap();
    let done = collect(&service, 2);
    assert_eq!(done[&late].0.finish, Finish::Deadline);
    assert!(done[&late].0.tokens.len() < 120);
    assert_eq!(done[&other].0, alone(&generator, &long()));
}

#[test]
fn what_cannot_be_answered_is_refused_where_it_is_asked() {
    let service = Service::start(Limits {
        cached_tokens: 50,
        ..Limits::default()
    })
    .unwrap();
    let refused = |request| {
        service
            .submit(&generator(), request, None)
            .unwrap_err()
            .to_string()
    };
    let prompt = vec![1; 50];
    let request = Request { prompt, ..long() };
    assert_eq!(
        refused(request),
        "length of prompt is 50, expected fewer than the cache has room for, 50 tokens"
    );
    let request = Request {
        top_logprobs: 98,
        ..long()
    };
    assert_eq!(refused(request), "top_logprobs is 98, expected 0 to 97");
    service.close();
    assert!(service.wait(Duration::from_secs(20)).is_none());
}
