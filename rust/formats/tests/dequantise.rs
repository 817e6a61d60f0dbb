//! Every block format against the values gguf-py gives (`tests/fixtures/make_gguf_vectors.py`), bit for bit.

use lmrs_formats::{Encoding, decode};

macro_rules! vectors {
    ($($name:literal $encoding:ident),*) => {
        [$((
            Encoding::$encoding,
            &include_bytes!(concat!("../../../tests/fixtures/gguf/", $name, ".bin"))[..],
        )),*]
    };
}

fn vectors() -> [(Encoding, &'static [u8]); 12] {
    vectors!(
        "F16" F16, "BF16" BF16, "Q4_0" Q4_0, "Q4_1" Q4_1, "Q5_0" Q5_0, "Q5_1" Q5_1, "Q8_0" Q8_0,
        "Q2_K" Q2K, "Q3_K" Q3K, "Q4_K" Q4K, "Q5_K" Q5K, "Q6_K" Q6K
    )
}

/// The blocks of a vector file and the values expected of them.
fn split(encoding: Encoding, file: &[u8]) -> (&[u8], Vec<f32>) {
    let (bytes, elements) = (encoding.block_bytes(), encoding.block_elements());
    let count = file.len() / (bytes + 4 * elements);
    let (blocks, values) = file.split_at(count * bytes);
    let values = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
    (blocks, values.collect())
}

#[test]
fn equal_to_gguf_py() {
    for (encoding, file) in vectors() {
        let (blocks, expected) = split(encoding, file);
        let mut got = vec![f32::NAN; expected.len()];
        decode(encoding, blocks, &mut got).unwrap();
        let differ = got
            .iter()
            .zip(&expected)
            .position(|(g, e)| g.to_bits() != e.to_bits());
        assert_eq!(differ, None, "{}", encoding.name());
    }
}

#[test]
fn blocks_are_independent() {
    for (encoding, file) in vectors() {
        let (blocks, expected) = split(encoding, file);
        let (bytes, elements) = (encoding.block_bytes(), encoding.block_elements());
        for (block, expected) in blocks.chunks(bytes).zip(expected.chunks(elements)) {
            let mut got = vec![f32::NAN; elements];
            decode(encoding, block, &mut got).unwrap();
            assert_eq!(got, expected, "{}", encoding.name());
        }
    }
}

#[test]
fn plain_numbers() {
    let mut out = [0.0; 2];
    let f64s: Vec<u8> = [1.0f64 / 3.0, -2.5]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    decode(Encoding::F64, &f64s, &mut out).unwrap();
    assert_eq!(out, [1.0f32 / 3.0, -2.5]);
    let f32s: Vec<u8> = [0.1f32, f32::INFINITY]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    decode(Encoding::F32, &f32s, &mut out).unwrap();
    assert_eq!(out, [0.1, f32::INFINITY]);
}

#[test]
fn refuses_what_does_not_fit() {
    let mut out = [7.0; 32];
    assert_eq!(decode(Encoding::Q4_0, &[0; 17], &mut out), None);
    assert_eq!(decode(Encoding::Q4_0, &[0; 18], &mut out[..31]), None);
    assert_eq!(decode(Encoding::Iq4Nl, &[0; 18], &mut out), None);
    assert_eq!(decode(Encoding::I32, &[0; 128], &mut out), None);
    assert_eq!(out, [7.0; 32]);
    let error = Encoding::Iq4Nl.unsupported("blk.0").to_string();
    assert!(
        error.contains("\"blk.0\" is stored as IQ4_NL") && error.contains("Q4_K"),
        "{error}"
    );
}
