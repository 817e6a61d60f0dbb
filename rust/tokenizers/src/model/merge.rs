//! Merging the symbols of a word pair by pair: the best rank first, the leftmost of equals.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;

/// A stretch of the word.
#[derive(Clone, Copy, Default)]
pub(super) struct Symbol {
    pub(super) id: u32,
    /// Bytes of the word; 0 once merged into the symbol before.
    pub(super) len: u32,
}

/// Words of up to this many symbols are searched from end to end for every merge: no queue is as quick.
const SHORT: usize = 32;

/// The neighbours of a symbol.
#[derive(Clone, Copy)]
struct Links {
    prev: u32,
    next: u32,
}

/// No symbol.
const END: u32 = u32::MAX;

/// The rank and the id of what a pair becomes.
pub(super) type Merger = (u32, u32);

/// The rank is that of no merger.
pub(super) const NEVER: Merger = (END, 0);

#[derive(Default)]
pub(super) struct Scratch {
    pub(super) symbols: Vec<Symbol>,
    links: Vec<Links>,
    queue: Queue,
}

impl Scratch {
    /// Merges `symbols` until no pair has a merger. `pair` gives the rank and the id of a pair's, `first` those of the pair
    /// that begins at a symbol while nothing is merged.
    pub(super) fn merge(
        &mut self,
        first: impl Fn(usize, u32, u32) -> Merger,
        pair: impl Fn(u32, u32) -> Option<Merger>,
    ) {
        if self.symbols.len() <= SHORT {
            merge_short(&mut self.symbols, first, pair);
        } else {
            self.merge_long(pair);
        }
    }

    /// O(n log n) whatever the merges are, and O(n) where they are many of few kinds.
    fn merge_long(&mut self, pair: impl Fn(u32, u32) -> Option<Merger>) {
        let Self {
            symbols,
            links,
            queue,
        } = self;
        queue.many = symbols.len() > FEW;
        let last = symbols.len() as u32 - 1;
        links.clear();
        links.extend((0..=last).map(|at| Links {
            prev: at.checked_sub(1).unwrap_or(END),
            next: if at < last { at + 1 } else { END },
        }));
        for (at, two) in symbols.windows(2).enumerate() {
            if let [left, right] = two
                && let Some((rank, _)) = pair(left.id, right.id)
            {
                queue.push(rank, at as u32);
            }
        }
        while let Some((rank, at)) = queue.pop() {
            let Some(left) = get(symbols, at).filter(|left| left.len > 0) else {
                continue;
            };
            let Some(Links { prev, next }) = get(links, at) else {
                continue;
            };
            let Some(right) = get(symbols, next) else {
                continue;
            };
            // The pair at this place may have become another one since it was queued.
            let Some((_, id)) = pair(left.id, right.id).filter(|(now, _)| *now == rank) else {
                continue;
            };
            let after = get(links, next).map_or(END, |links| links.next);
            let len = left.len + right.len;
            set(symbols, next, Symbol { id: 0, len: 0 });
            set(symbols, at, Symbol { id, len });
            set(links, at, Links { prev, next: after });
            if let Some(links) = links.get_mut(after as usize) {
                links.prev = at;
            }
            if let Some(right) = get(symbols, after)
                && let Some((rank, _)) = pair(id, right.id)
            {
                queue.push(rank, at);
            }
            if let Some(left) = get(symbols, prev)
                && let Some((rank, _)) = pair(left.id, id)
            {
                queue.push(rank, prev);
            }
        }
    }
}

fn get<T: Copy>(all: &[T], at: u32) -> Option<T> {
    all.get(at as usize).copied()
}

fn set<T>(all: &mut [T], at: u32, value: T) {
    if let Some(place) = all.get_mut(at as usize) {
        *place = value;
    }
}

fn merge_short(
    symbols: &mut Vec<Symbol>,
    first: impl Fn(usize, u32, u32) -> Merger,
    pair: impl Fn(u32, u32) -> Option<Merger>,
) {
    let pair = |left: Option<&Symbol>, right: Option<&Symbol>| match (left, right) {
        (Some(left), Some(right)) => pair(left.id, right.id).unwrap_or(NEVER),
        _ => NEVER,
    };
    // The rank and the id of the pair that begins at each symbol.
    let mut pairs = [NEVER; SHORT];
    for ((at, two), slot) in symbols.windows(2).enumerate().zip(&mut pairs) {
        if let [left, right] = two {
            *slot = first(at, left.id, right.id);
        }
    }
    loop {
        let count = symbols.len();
        let (mut at, mut best) = (0, NEVER);
        for (place, &candidate) in pairs.iter().enumerate().take(count) {
            if candidate.0 < best.0 {
                (at, best) = (place, candidate);
            }
        }
        if best.0 == END || at + 1 >= count {
            return;
        }
        let right = symbols.remove(at + 1);
        if let Some(left) = symbols.get_mut(at) {
            *left = Symbol {
                id: best.1,
                len: left.len + right.len,
            };
        }
        pairs.copy_within(at + 2..count, at + 1);
        if let Some(slot) = pairs.get_mut(at) {
            *slot = pair(symbols.get(at), symbols.get(at + 1));
        }
        if let Some(before) = at.checked_sub(1)
            && let Some(slot) = pairs.get_mut(before)
        {
            *slot = pair(symbols.get(before), symbols.get(at));
        }
    }
}

/// Up to so many symbols a heap of pairs is as quick as lists.
const FEW: usize = 1024;

/// Ranks with places, the lowest first.
#[derive(Default)]
struct Queue {
    /// Whether there are lists of places and not one heap.
    many: bool,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
    /// Places by rank: those of one rank nearly always come in order, so that nothing has to be sorted.
    lists: HashMap<u32, List>,
    ranks: BinaryHeap<Reverse<u32>>,
    /// The list of the lowest rank, while it is taken from.
    lowest: Option<(u32, List)>,
    spare: Vec<List>,
}

#[derive(Default)]
struct List {
    /// Sorted once the list is taken from.
    places: Vec<u32>,
    next: usize,
    sorted: bool,
    /// What came after that.
    late: BinaryHeap<Reverse<u32>>,
}

impl Queue {
    fn push(&mut self, rank: u32, place: u32) {
        if !self.many {
            self.heap.push(Reverse((rank, place)));
            return;
        }
        match &mut self.lowest {
            Some((lowest, list)) if rank == *lowest => {
                list.late.push(Reverse(place));
                return;
            }
            Some((lowest, _)) if rank < *lowest => self.put_back(),
            _ => {}
        }
        let list = self.lists.entry(rank).or_insert_with(|| {
            self.ranks.push(Reverse(rank));
            self.spare.pop().unwrap_or_default()
        });
        if list.sorted {
            list.late.push(Reverse(place));
        } else {
            list.places.push(place);
        }
    }

    fn pop(&mut self) -> Option<(u32, u32)> {
        if !self.many {
            return self.heap.pop().map(|Reverse(pair)| pair);
        }
        loop {
            if let Some((rank, list)) = &mut self.lowest {
                if let Some(place) = list.pop() {
                    return Some((*rank, place));
                }
                self.put_back();
            }
            let Reverse(rank) = self.ranks.pop()?;
            let mut list = self.lists.remove(&rank)?;
            if !list.sorted {
                list.sorted = true;
                list.places.sort_unstable();
            }
            self.lowest = Some((rank, list));
        }
    }

    /// Ends taking from the lowest list; what is left in it is for later.
    fn put_back(&mut self) {
        let Some((rank, mut list)) = self.lowest.take() else {
            return;
        };
        if list.next < list.places.len() || !list.late.is_empty() {
            self.ranks.push(Reverse(rank));
            self.lists.insert(rank, list);
            return;
        }
        list.places.clear();
        (list.next, list.sorted) = (0, false);
        self.spare.push(list);
    }
}

impl List {
    fn pop(&mut self) -> Option<u32> {
        let place = self.places.get(self.next).copied();
        if let Some(&Reverse(late)) = self.late.peek()
            && place.is_none_or(|place| late < place)
        {
            self.late.pop();
            return Some(late);
        }
        self.next += usize::from(place.is_some());
        place
    }
}
