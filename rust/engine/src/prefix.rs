//! What several windows begin with is computed once: they are cut into the pieces of a tree.

use std::ops::Range;

use crate::window::Window;

/// Rows that a shared piece must save to be worth a batch of its own.
const WORTH: usize = 32;

/// Some ids of a window, read behind those of its `parent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The window whose ids these are; others may begin with the same.
    pub window: usize,
    /// Which of its ids.
    pub ids: Range<usize>,
    /// The piece before it, which comes earlier in the list.
    pub parent: Option<usize>,
    /// How many pieces are before it.
    pub depth: usize,
    /// Whether the window ends here: its judged rows are among these ids.
    pub last: bool,
}

/// The pieces of `windows`, a tree after a tree. Only rows that are not judged are shared, for the labels of others differ.
pub fn pieces(windows: &[Window]) -> Vec<Piece> {
    let mut order: Vec<usize> = (0..windows.len()).collect();
    order.sort_by(|&a, &b| key(windows, a).cmp(key(windows, b)));
    let mut found = Vec::with_capacity(windows.len());
    // A stack, not recursion: a tree may be as deep as a context is long.
    let mut open = vec![Group {
        members: &order,
        alike: 0,
        start: 0,
        parent: None,
    }];
    while let Some(group) = open.pop() {
        grow(windows, group, &mut found, &mut open);
    }
    found
}

/// Windows, in the order of their keys, that agree in their first `alike` ids; those before `start` are in `parent` and
/// the pieces before it.
struct Group<'a> {
    members: &'a [usize],
    alike: usize,
    start: usize,
    parent: Option<usize>,
}

/// The ids of window `number` before its first judged row.
fn key(windows: &[Window], number: usize) -> &[u32] {
    windows.get(number).map_or(&[], |window| {
        let judged = window.labels.iter().position(|&label| label >= 0);
        let end = judged.unwrap_or(window.ids.len().saturating_sub(1));
        window.ids.get(..end).unwrap_or_default()
    })
}

/// Appends the piece that `group` shares, if it is worth one, and those that end it; opens the groups within.
fn grow<'a>(
    windows: &[Window],
    mut group: Group<'a>,
    found: &mut Vec<Piece>,
    open: &mut Vec<Group<'a>>,
) {
    let mut push = |window: usize, ids: Range<usize>, parent: Option<usize>, last: bool| {
        let before = parent.and_then(|at| found.get(at));
        found.push(Piece {
            window,
            ids,
            parent,
            depth: before.map_or(0, |piece| piece.depth + 1),
            last,
        });
        found.len() - 1
    };
    let others = group.members.len().saturating_sub(1);
    if let Some(&first) = group.members.first()
        && (group.alike - group.start) * others >= WORTH
    {
        let ids = group.start..group.alike;
        group.parent = Some(push(first, ids, group.parent, false));
        group.start = group.alike;
    }
    let next = |&number: &usize| key(windows, number).get(group.alike);
    for alike in group
        .members
        .chunk_by(|a, b| next(a).is_some() && next(a) == next(b))
    {
        if let &[only] = alike {
            let end = windows.get(only).map_or(0, |window| window.ids.len());
            push(only, group.start..end, group.parent, true);
        } else if let (Some(&first), Some(&end)) = (alike.first(), alike.last()) {
            let both = key(windows, first).iter().zip(key(windows, end));
            open.push(Group {
                members: alike,
                alike: both.take_while(|(a, b)| a == b).count(),
                ..group
            });
        }
    }
}
