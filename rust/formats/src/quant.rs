//! Stored elements to `f32`. The block formats are GGML's (ggml-common.h); every product and sum is rounded in the
//! order of gguf-py's `dequantize`, so results are equal to it bit for bit.

use half::f16;

use crate::Encoding;

/// Decodes `bytes`, elements stored as `encoding`, to `f32`. Returns `None`, and leaves `out` as it was, if the
/// encoding is not one of [`Encoding::READABLE`] or the bytes are not exactly those of `out.len()` elements.
///
/// Blocks do not depend on each other: a tensor may be decoded in parts, cut at multiples of
/// [`Encoding::block_elements`].
#[must_use = "an unreadable encoding leaves the output as it was"]
pub fn decode(encoding: Encoding, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    if encoding.bytes(out.len()) != Some(bytes.len()) {
        return None;
    }
    match encoding {
        Encoding::F64 => blocks(bytes, out, |b, [y]| *y = f64::from_le_bytes(*b) as f32),
        Encoding::F32 => blocks(bytes, out, |b, [y]| *y = f32::from_le_bytes(*b)),
        Encoding::F16 => blocks(bytes, out, |b, [y]| *y = half(*b)),
        Encoding::BF16 => blocks(bytes, out, |&[lo, hi], [y]| {
            *y = f32::from_le_bytes([0, 0, lo, hi]);
        }),
        Encoding::Q4_0 => blocks(bytes, out, q4_0),
        Encoding::Q4_1 => blocks(bytes, out, q4_1),
        Encoding::Q5_0 => blocks(bytes, out, q5_0),
        Encoding::Q5_1 => blocks(bytes, out, q5_1),
        Encoding::Q8_0 => blocks(bytes, out, q8_0),
        Encoding::Q2K => blocks(bytes, out, q2_k),
        Encoding::Q3K => blocks(bytes, out, q3_k),
        Encoding::Q4K => blocks(bytes, out, q4_k),
        Encoding::Q5K => blocks(bytes, out, q5_k),
        Encoding::Q6K => blocks(bytes, out, q6_k),
        _ => return None,
    }
    Some(())
}

/// Applies `block` to each `B` bytes and the `N` elements they hold.
fn blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (bytes, out) = (bytes.as_chunks().0, out.as_chunks_mut().0);
    for (b, y) in bytes.iter().zip(out) {
        block(b, y);
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// The runs of `L` elements of a block's output.
fn runs<const L: usize>(y: &mut [f32]) -> impl Iterator<Item = &mut [f32; L]> {
    y.as_chunks_mut().0.iter_mut()
}

/// `y = f(low nibble)` for the first half of the block, `f(high nibble)` for the second.
fn nibbles(q: &[u8; 16], y: &mut [f32; 32], f: impl Fn(usize, u8) -> f32) {
    let (low, high) = y.split_at_mut(16);
    for (((j, &q), low), high) in q.iter().enumerate().zip(low).zip(high) {
        *low = f(j, q & 15);
        *high = f(j | 16, q >> 4);
    }
}

fn q4_0([d0, d1, q @ ..]: &[u8; 18], y: &mut [f32; 32]) {
    let d = half([*d0, *d1]);
    nibbles(q, y, |_, q| d * (f32::from(q) - 8.0));
}

fn q4_1([d0, d1, m0, m1, q @ ..]: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half([*d0, *d1]), half([*m0, *m1]));
    nibbles(q, y, |_, q| d * f32::from(q) + m);
}

/// The fifth bit of element `j`, in its place.
fn fifth(high: u32, j: usize) -> u8 {
    ((high >> j & 1) << 4) as u8
}

fn q5_0([d0, d1, h0, h1, h2, h3, q @ ..]: &[u8; 22], y: &mut [f32; 32]) {
    let (d, high) = (half([*d0, *d1]), u32::from_le_bytes([*h0, *h1, *h2, *h3]));
    nibbles(q, y, |j, q| d * (f32::from(q | fifth(high, j)) - 16.0));
}

fn q5_1([d0, d1, m0, m1, h0, h1, h2, h3, q @ ..]: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half([*d0, *d1]), half([*m0, *m1]));
    let high = u32::from_le_bytes([*h0, *h1, *h2, *h3]);
    nibbles(q, y, |j, q| d * f32::from(q | fifth(high, j)) + m);
}

fn q8_0([d0, d1, q @ ..]: &[u8; 34], y: &mut [f32; 32]) {
    let d = half([*d0, *d1]);
    for (q, y) in q.iter().zip(y) {
        *y = f32::from(q.cast_signed()) * d;
    }
}

/// The 32-element runs that the K formats pack into each 32 bytes, `WIDTH` bits an element: the first run in the
/// lowest bits of every byte, the next above it.
fn planes<const WIDTH: usize>(packed: &[u8]) -> impl Iterator<Item = [u8; 32]> {
    let groups = packed.as_chunks::<32>().0;
    let mask = if WIDTH == 4 {
        15
    } else if WIDTH == 2 {
        3
    } else {
        1
    };
    groups.iter().flat_map(move |group| {
        (0..8)
            .step_by(WIDTH)
            .map(move |shift| group.map(|byte| byte >> shift & mask))
    })
}

fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let (scales, rest) = block.split_at(16);
    let (q, rest) = rest.split_at(64);
    let &[d0, d1, m0, m1] = rest else { return };
    let (d, min) = (half([d0, d1]), half([m0, m1]));
    let (scales, _) = scales.as_chunks::<2>();
    for ((q, scales), y) in planes::<2>(q).zip(scales).zip(runs::<32>(y)) {
        for ((q, scale), y) in q.as_chunks::<16>().0.iter().zip(scales).zip(runs::<16>(y)) {
            let (d, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
            for (q, y) in q.iter().zip(y) {
                *y = d * f32::from(*q) - min;
            }
        }
    }
}

fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let (high, rest) = block.split_at(32);
    let (q, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let Some(d) = d.first_chunk().copied().map(half) else {
        return;
    };
    // Sixteen scales of six bits, offset by 32: eight bytes of low nibbles (0-7, then 8-15), four of high pairs.
    let (low, top) = scales.split_at(8);
    let low = [0, 4]
        .into_iter()
        .flat_map(|s| low.iter().map(move |b| b >> s & 15));
    let top = [0, 2, 4, 6]
        .into_iter()
        .flat_map(|s| top.iter().map(move |b| b >> s & 3));
    let mut scales = low
        .zip(top)
        .map(|(low, top)| d * (f32::from(low | top << 4) - 32.0));
    for ((q, high), y) in planes::<2>(q).zip(planes::<1>(high)).zip(runs::<32>(y)) {
        let pairs = q.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
        for ((q, high), y) in pairs.zip(runs::<16>(y)) {
            let d = scales.next().unwrap_or_default();
            for ((q, high), y) in q.iter().zip(high).zip(y) {
                // The third bit counts down: where it is missing the value is four less.
                *y = d * (f32::from(*q) - if *high == 0 { 4.0 } else { 0.0 });
            }
        }
    }
}

/// The eight (scale, min) pairs of `Q4_K` and `Q5_K`, six bits each: those of runs 0-3 in the low six bits of bytes 0-3
/// and 4-7; those of runs 4-7 in the nibbles of bytes 8-11 and the top two bits of bytes 0-7.
fn scales_and_mins(packed: &[u8; 12]) -> [(f32, f32); 8] {
    let &[s0, s1, s2, s3, m0, m1, m2, m3, n0, n1, n2, n3] = packed;
    let early = |s: u8, m: u8| (f32::from(s & 63), f32::from(m & 63));
    let late = |s: u8, m: u8, n: u8| {
        (
            f32::from(n & 15 | s >> 2 & 0x30),
            f32::from(n >> 4 | m >> 2 & 0x30),
        )
    };
    [
        early(s0, m0),
        early(s1, m1),
        early(s2, m2),
        early(s3, m3),
        late(s0, m0, n0),
        late(s1, m1, n1),
        late(s2, m2, n2),
        late(s3, m3, n3),
    ]
}

fn q4_k([d0, d1, m0, m1, rest @ ..]: &[u8; 144], y: &mut [f32; 256]) {
    let (d, min) = (half([*d0, *d1]), half([*m0, *m1]));
    let Some((packed, q)) = rest.split_first_chunk() else {
        return;
    };
    for ((q, (scale, least)), y) in planes::<4>(q)
        .zip(scales_and_mins(packed))
        .zip(runs::<32>(y))
    {
        let (d, min) = (d * scale, min * least);
        for (q, y) in q.iter().zip(y) {
            *y = d * f32::from(*q) - min;
        }
    }
}

fn q5_k([d0, d1, m0, m1, rest @ ..]: &[u8; 176], y: &mut [f32; 256]) {
    let (d, min) = (half([*d0, *d1]), half([*m0, *m1]));
    let Some((packed, rest)) = rest.split_first_chunk() else {
        return;
    };
    let (high, q) = rest.split_at(32);
    let bits = planes::<4>(q).zip(planes::<1>(high));
    for (((q, high), (scale, least)), y) in bits.zip(scales_and_mins(packed)).zip(runs::<32>(y)) {
        let (d, min) = (d * scale, min * least);
        for ((q, high), y) in q.iter().zip(&high).zip(y) {
            *y = d * f32::from(q | high << 4) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], y: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let Some(d) = d.first_chunk().copied().map(half) else {
        return;
    };
    let mut scales = scales.iter().map(|s| d * f32::from(s.cast_signed()));
    // Each half of the block has its low nibbles in 64 bytes: runs 0 and 1 in the low ones, 2 and 3 in the high ones.
    let low = low.as_chunks::<64>().0.iter().flat_map(|half| {
        [0, 4].into_iter().flat_map(move |shift| {
            half.as_chunks::<32>()
                .0
                .iter()
                .map(move |run| run.map(|byte| byte >> shift & 15))
        })
    });
    for ((low, high), y) in low.zip(planes::<2>(high)).zip(runs::<32>(y)) {
        let pairs = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
        for ((low, high), y) in pairs.zip(runs::<16>(y)) {
            let d = scales.next().unwrap_or_default();
            for ((low, high), y) in low.iter().zip(high).zip(y) {
                *y = d * (f32::from(low | high << 4) - 32.0);
            }
        }
    }
}
