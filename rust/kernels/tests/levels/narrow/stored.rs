//! Panels that lie in somebody else's bytes.

use std::sync::Arc;

use lmrs_kernels::Rows;
use lmrs_kernels::linear::{Lender, Packed, Weights};

use super::{NARROW, packed, product, read_back};
use crate::{each_dot_level, single, values};

/// Panels packed at one level and lent at another give the bits of those that are packed there, and are not copied.
#[test]
fn panels_go_from_level_to_level() {
    let (m, n, k) = (3, 70, 100);
    let (x, w) = (single(&values(m * k, 7)), single(&values(n * k, 8)));
    let x = Rows::new(&x, m, k);
    for weights in NARROW.into_iter().chain([Weights::F32]) {
        let mut made = Vec::new();
        each_dot_level(|_| made.push(packed(weights, &w, n, k)));
        let mut native = Vec::new();
        each_dot_level(|_| {
            let panels = packed(weights, &w, n, k);
            let here = made.iter().map(|other| {
                let bytes = other.bytes_of_panels();
                let aligned = Aligned::of(bytes);
                let (lender, range): (Lender, _) = (Arc::new(aligned), 0..bytes.len());
                let strip = other.strip_width();
                let lent = Packed::lent(weights, [n, k], strip, &lender, range);
                let lent = lent.unwrap();
                assert_eq!(
                    lent.bytes_of_panels().as_ptr(),
                    (*lender).as_ref().as_ptr(),
                    "{weights:?}"
                );
                assert_eq!(read_back(&lent), read_back(other), "{weights:?}");
                // Wider strips are walked as this level's own; narrower ones as those of the level that made them.
                let own = strip.is_multiple_of(panels.strip_width());
                (
                    own,
                    product(x, &lent),
                    product(x, &panels),
                    product(x, other),
                )
            });
            native.extend(here);
        });
        for (own, lent, here, there) in native {
            assert_eq!(lent, if own { here } else { there }, "{weights:?}");
        }
    }
}

/// Bytes that no panels of a shape are.
#[test]
fn lent_bytes_of_another_shape_are_refused() {
    let w = single(&values(70 * 100, 9));
    for weights in NARROW.into_iter().chain([Weights::F32]) {
        let panels = packed(weights, &w, 70, 100);
        let bytes = panels.bytes_of_panels();
        let (strip, all) = (panels.strip_width(), 0..bytes.len());
        let lender: Lender = Arc::new(Aligned::of(bytes));
        let lent = |shape, strip, range| Packed::<f32>::lent(weights, shape, strip, &lender, range);
        assert!(lent([70, 100], strip, all.clone()).is_some());
        for shape in [
            [140, 100],
            [70, 300],
            [0, 0],
            [usize::MAX, 100],
            [70, usize::MAX],
            [usize::MAX; 2],
        ] {
            assert!(
                lent(shape, strip, all.clone()).is_none(),
                "{weights:?} {shape:?}"
            );
        }
        for strip in [0, 1, 4, 48, 128, usize::MAX] {
            assert!(
                lent([70, 100], strip, all.clone()).is_none(),
                "{weights:?} {strip}"
            );
        }
        for range in [0..bytes.len() - 4, 4..bytes.len(), 0..bytes.len() + 4, 0..0] {
            assert!(lent([70, 100], strip, range).is_none(), "{weights:?}");
        }
    }
}

/// Bytes on a cache line, as in a file of panels.
struct Aligned(Vec<u8>, std::ops::Range<usize>);

impl Aligned {
    fn of(bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + 64];
        let start = room.as_ptr().align_offset(64);
        room[start..start + bytes.len()].copy_from_slice(bytes);
        Self(room, start..start + bytes.len())
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1.clone()]
    }
}
