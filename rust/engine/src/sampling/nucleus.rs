//! The nucleus: Holtzman et al., 2020, "The Curious Case of Neural Text Degeneration".

use super::Weighed;

/// Keeps the heaviest until they hold `mass` of the whole, at least one.
pub fn keep(kept: &mut Vec<Weighed>, mass: f64) {
    let heavier = |a: &Weighed, b: &Weighed| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let weight = |part: &[Weighed]| part.iter().map(|&(_, weight)| weight).sum::<f64>();
    let limit = mass * weight(kept);
    // Halves the range in which the last one to keep is; those before it are heavier and weigh `before`.
    let (mut order, mut before) = (kept.clone(), 0.0);
    let mut range = order.as_mut_slice();
    while range.len() > 1 {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, heavier);
        let (head, tail) = range.split_at_mut(middle);
        let reached = before + weight(head);
        range = if reached < limit {
            before = reached;
            tail
        } else {
            head
        };
    }
    if let Some(&last) = range.first() {
        kept.retain(|token| heavier(token, &last).is_le());
    }
}
