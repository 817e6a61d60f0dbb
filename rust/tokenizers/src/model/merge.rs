//! Merging the symbols of a word pair by pair: the best rank first, the leftmost of equals.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;

use super::Token;

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
    /// The tokens that the symbols are.
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        let mut end = 0;
        let symbols = self.symbols.iter().filter(|symbol| symbol.len > 0);
        symbols.map(move |symbol| {
            let start = end;
            end += symbol.len as usize;
            Token {
                id: symbol.id,
                start,
                end,
                literal: false,
            }
        })
    }

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
        let mut line = Line::of(symbols, links);
        for at in 0..line.len() {
            if let Some((rank, _)) = line.pair(at, &pair) {
                queue.push(rank, at);
            }
        }
        while let Some((rank, at)) = queue.pop() {
            // The pair at this place may have become another one since it was queued.
            let Some((_, id)) = line.pair(at, &pair).filter(|(now, _)| *now == rank) else {
                continue;
            };
            for at in line.join(at, id) {
                if let Some((rank, _)) = line.pair(at, &pair) {
                    queue.push(rank, at);
                }
            }
        }
    }

    /// As `merge`, but before each merger every pair that has one is left out if `drops` says so, and the first of the
    /// others merges; if all are left out, that is the end. The time for a merger grows with how many are left out before
    /// it, 1 / (1 − rate) on average.
    pub(super) fn merge_dropping(
        &mut self,
        pair: impl Fn(u32, u32) -> Option<Merger>,
        mut drops: impl FnMut() -> bool,
    ) {
        let mut line = Line::of(&mut self.symbols, &mut self.links);
        let candidate = |line: &Line, at: u32| {
            let (rank, _) = line.pair(at, &pair)?;
            // No other pair at this place is as long.
            Some(Reverse((rank, at, line.pair_len(at)?)))
        };
        let mut queue: BinaryHeap<_> = (0..line.len())
            .filter_map(|at| candidate(&line, at))
            .collect();
        let mut left_out = Vec::new();
        while let Some(next) = queue.pop() {
            let Reverse((_, at, len)) = next;
            if line.pair_len(at) != Some(len) {
                continue;
            }
            if drops() {
                left_out.push(next);
                continue;
            }
            let Some((_, id)) = line.pair(at, &pair) else {
                continue;
            };
            let near = line.join(at, id);
            queue.extend(near.into_iter().filter_map(|at| candidate(&line, at)));
            queue.extend(left_out.drain(..));
        }
    }
}

/// The symbols of a word, those that were merged into others skipped.
struct Line<'a> {
    symbols: &'a mut [Symbol],
    links: &'a mut [Links],
}

impl<'a> Line<'a> {
    fn of(symbols: &'a mut [Symbol], links: &'a mut Vec<Links>) -> Self {
        let count = symbols.len() as u32;
        links.clear();
        links.extend((0..count).map(|at| Links {
            prev: at.checked_sub(1).unwrap_or(END),
            next: if at + 1 < count { at + 1 } else { END },
        }));
        Self { symbols, links }
    }

    fn len(&self) -> u32 {
        self.symbols.len() as u32
    }

    /// The symbol at `at` and the one behind it, if there are both.
    fn two(&self, at: u32) -> Option<(Symbol, Symbol)> {
        let left = get(self.symbols, at).filter(|left| left.len > 0)?;
        Some((left, get(self.symbols, get(self.links, at)?.next)?))
    }

    /// What the two become.
    fn pair(&self, at: u32, pair: impl Fn(u32, u32) -> Option<Merger>) -> Option<Merger> {
        let (left, right) = self.two(at)?;
        pair(left.id, right.id)
    }

    /// The bytes of both.
    fn pair_len(&self, at: u32) -> Option<u32> {
        self.two(at).map(|(left, right)| left.len + right.len)
    }

    /// Makes the two one, and gives the places at which there are new pairs now.
    fn join(&mut self, at: u32, id: u32) -> [u32; 2] {
        let (Some((left, right)), Some(Links { prev, next })) = (self.two(at), get(self.links, at))
        else {
            return [END; 2];
        };
        let after = get(self.links, next).map_or(END, |links| links.next);
        let len = left.len + right.len;
        set(self.symbols, next, Symbol { id: 0, len: 0 });
        set(self.symbols, at, Symbol { id, len });
        set(self.links, at, Links { prev, next: after });
        if let Some(links) = self.links.get_mut(after as usize) {
            links.prev = at;
        }
        [at, prev]
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
