//! Locally typical sampling: Meister et al., 2023, "Locally Typical Sampling".

use super::Weighed;

/// Keeps the tokens whose surprisal `−log p` is nearest to the entropy until they hold `mass` of the whole, at least one; of
/// those as near as the last all.
pub fn keep(kept: &mut Vec<Weighed>, mass: f64) {
    let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    let surprisal = |weight: f64| -(weight / total).ln();
    let entropy: f64 = kept.iter().map(|&(_, w)| w / total * surprisal(w)).sum();
    let distance = |weight: f64| (surprisal(weight) - entropy).abs();
    let mut order = kept.clone();
    order.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)).then(a.0.cmp(&b.0)));
    let mut reached = 0.0;
    let last = order.iter().find(|(_, weight)| {
        reached += weight / total;
        reached >= mass
    });
    if let Some(&(_, last)) = last.or(order.last()) {
        kept.retain(|&(_, weight)| distance(weight) <= distance(last));
    }
}
