//! Many texts at once, on as many threads as there are processors.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{
    encoding::{Encoding, pad},
    error::{Error, Result},
    tokenizer::EncodeOptions,
};

/// Encodes texts, or pairs of them, in parallel, and pads them to the same length. `encode` gets the number of each.
pub(crate) fn many(
    texts: &[&str],
    pairs: Option<&[&str]>,
    options: &EncodeOptions,
    encode: impl Fn(usize, &str, Option<&str>) -> Result<Encoding> + Sync,
) -> Result<Vec<Encoding>> {
    if let Some(pairs) = pairs.filter(|pairs| pairs.len() != texts.len()) {
        return Err(Error::Input(format!(
            "{} texts, but {} texts to pair them with",
            texts.len(),
            pairs.len()
        )));
    }
    let bytes = texts.iter().map(|text| text.len()).sum();
    let mut encodings = in_parallel(texts, bytes, |at, text| {
        encode(at, text, pairs.and_then(|pairs| pairs.get(at).copied()))
    })?;
    if let Some(padding) = &options.padding {
        pad(&mut encodings, padding)?;
    }
    Ok(encodings)
}

/// Does the work of every text, of so many `bytes` in all, in order, on as many threads as there are processors and work
/// for them.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    texts: &[T],
    bytes: usize,
    work: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    // Threads live for the call only: nothing is left over that a fork could find half-dead.
    const BYTES_A_THREAD: usize = 1 << 16;
    let mut threads = texts.len().min(bytes / BYTES_A_THREAD);
    if threads > 1 {
        let processors = std::thread::available_parallelism();
        threads = threads.min(processors.map_or(1, std::num::NonZero::get));
    }
    if threads <= 1 {
        return texts
            .iter()
            .enumerate()
            .map(|(at, text)| work(at, text))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(text) = texts.get(at)
        {
            done.push((at, work(at, text)));
        }
        done
    };
    let mut all: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for other in others {
            match other.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}
