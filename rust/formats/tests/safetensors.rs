//! safetensors and shard indexes: round trips, and each way a file can lie.

use std::collections::BTreeMap;

use lmrs_formats::safetensors::{Header, Layout, View};
use lmrs_formats::shards::ShardIndex;
use lmrs_formats::{Encoding, FormatError};
use proptest::prelude::*;

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len() as u64;
    [&length.to_le_bytes(), header.as_bytes(), data].concat()
}

fn write(tensors: &[View<'_>], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    Layout::new(tensors.to_vec(), metadata)
        .unwrap()
        .write_to(&mut out)
        .unwrap();
    out
}

/// Malformed files, and what the error must say.
fn lies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let one = |entry: &str, data: usize| file(&format!("{{\"w\":{entry}}}"), &vec![0; data]);
    let f32x2 = |offsets: &str, data| {
        one(
            &format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#),
            data,
        )
    };
    let shaped = |dtype: &str, shape: &str, n: usize| {
        one(
            &format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{n}]}}"#),
            n,
        )
    };
    let two = |a: &str, b: &str, data| {
        let entry = |o: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{o}}}"#);
        file(
            &format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)),
            &vec![0; data],
        )
    };
    let length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    vec![
        ("empty", vec![], "the header length needs 8 bytes"),
        ("short", vec![1, 2, 3], "the header length needs 8 bytes"),
        ("length 2^64-1", length(u64::MAX), "limit of 100000000"),
        (
            "length over the limit",
            length(100_000_001),
            "limit of 100000000",
        ),
        (
            "length over the file",
            length(3),
            "the header needs 3 bytes but 2 are left",
        ),
        ("length zero", length(0), "beginning with `{`"),
        ("an array", file("[]", b""), "beginning with `{`"),
        ("leading space", file(" {}", b""), "beginning with `{`"),
        ("not JSON", file("{]", b""), "JSON object"),
        (
            "not UTF-8",
            [&3u64.to_le_bytes()[..], b"{\"\xff"].concat(),
            "JSON object",
        ),
        ("trailing JSON", file("{}{}", b""), "trailing characters"),
        ("nesting", file(&deep, b""), "JSON object"),
        (
            "lone surrogate",
            file(r#"{"\ud800":1}"#, b""),
            "JSON object",
        ),
        (
            "trailing bytes",
            file("{}", b"x"),
            "file length is 11, expected 10",
        ),
        ("oversized", f32x2("[0,8]", 9), "where the last tensor ends"),
        (
            "truncated",
            f32x2("[0,8]", 7),
            "tensor \"w\" needs 8 bytes but 7 are left",
        ),
        ("a range too short", f32x2("[0,4]", 4), "expected 8 bytes"),
        ("a range too long", f32x2("[0,12]", 12), "expected 8 bytes"),
        (
            "end before begin",
            f32x2("[8,0]", 8),
            "data_offsets of tensor \"w\" is [8, 0]",
        ),
        ("a negative offset", f32x2("[-8,0]", 8), "invalid value"),
        (
            "an offset of 2^64",
            f32x2("[0,18446744073709551616]", 8),
            "tensor \\\"w\\\"",
        ),
        (
            "a huge offset",
            f32x2("[18446744073709551607,18446744073709551615]", 8),
            "offset within the file",
        ),
        (
            "a hole at the start",
            f32x2("[4,12]", 12),
            "begin offset of tensor \"w\" is 4, expected 0",
        ),
        (
            "a hole between",
            two("[0,4]", "[5,9]", 9),
            "tensor \"b\" is 5, expected 4",
        ),
        (
            "overlap",
            two("[0,4]", "[2,6]", 6),
            "tensor \"b\" is 2, expected 4",
        ),
        (
            "the same bytes",
            two("[0,4]", "[0,4]", 4),
            "expected 4, where the tensor before ends",
        ),
        (
            "an unknown dtype",
            shaped("F31", "[1]", 4),
            "dtype of tensor \"w\" is \"F31\"",
        ),
        (
            "a GGML type",
            shaped("Q8_0", "[32]", 34),
            "dtype of tensor \"w\" is \"Q8_0\"",
        ),
        ("half a byte", shaped("F4", "[3]", 2), "whole bytes"),
        (
            "a negative extent",
            shaped("U8", "[-1]", 4),
            "invalid value",
        ),
        (
            "a product overflow",
            shaped("U8", "[4294967296,4294967296]", 0),
            "fits in memory",
        ),
        (
            "a byte overflow",
            shaped("F64", "[4611686018427387904]", 0),
            "fits in memory",
        ),
        (
            "a hidden overflow",
            shaped("U8", "[0,4294967296,4294967296]", 0),
            "fits in memory",
        ),
        (
            "a missing field",
            one(r#"{"dtype":"U8","shape":[1]}"#, 1),
            "missing field",
        ),
        (
            "an unknown field",
            one(
                r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}"#,
                0,
            ),
            "unknown field",
        ),
        (
            "a repeated field",
            one(
                r#"{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}"#,
                0,
            ),
            "duplicate",
        ),
        (
            "a repeated tensor",
            file(
                r#"{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
                b"",
            ),
            "duplicate key \"w\"",
        ),
        (
            "a repeated metadata key",
            file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, b""),
            "duplicate key \"a\"",
        ),
        (
            "metadata that is not strings",
            file(r#"{"__metadata__":{"a":1}}"#, b""),
            "expected a string",
        ),
        (
            "metadata that is a tensor",
            file(
                r#"{"__metadata__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
                b"",
            ),
            "expected a string",
        ),
        (
            "a long name",
            file(&format!(r#"{{"{}":1}}"#, "x".repeat(10_000)), b""),
            "xxx\\\"…",
        ),
    ]
}

#[test]
fn lies_are_named() {
    for (what, bytes, expected) in lies() {
        let error = Header::parse(&bytes).expect_err(what).to_string();
        let plain = error.replace('\\', "");
        let expected = expected.replace('\\', "");
        assert!(plain.contains(&expected), "{what}: {error}");
        assert!(
            error.len() < 500,
            "{what}: a message of {} bytes",
            error.len()
        );
    }
}

#[test]
fn reads_what_the_reference_reads() {
    let header = Header::parse(&file("{}      ", b"")).unwrap();
    assert_eq!(header, Header::default());
    let scalar = r#"{"__metadata__":{"format":"pt"},"s":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"e":{"dtype":"I64","shape":[2,0],"data_offsets":[0,0]}}"#;
    let header = Header::parse(&file(scalar, b"ab")).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    let [e, s] = &header.tensors[..] else {
        panic!("{header:?}")
    };
    assert_eq!(
        (e.name.as_str(), e.len(), e.shape.as_slice()),
        ("e", 0, &[2, 0][..])
    );
    assert_eq!((s.name.as_str(), s.len(), s.end - s.start), ("s", 1, 2));
}

#[test]
fn writer_refuses() {
    let view = |name, encoding, shape, bytes| View {
        name,
        encoding,
        shape,
        bytes,
    };
    let none = BTreeMap::new();
    let fails = |tensors: Vec<View<'_>>| Layout::new(tensors, &none).unwrap_err().to_string();
    let a = view("a", Encoding::U8, &[1], b"x");
    assert!(fails(vec![a, a]).contains("name of tensor \"a\" is taken"));
    assert!(fails(vec![view("__metadata__", Encoding::U8, &[1], b"x")]).contains("taken"));
    assert!(
        fails(vec![view("a", Encoding::F32, &[1], b"x")])
            .contains("1 bytes, expected bytes that fill [1] of F32")
    );
    assert!(fails(vec![view("a", Encoding::Q8_0, &[32], &[0; 34])]).contains("Q8_0"));
}

#[test]
fn shard_indexes() {
    let index = |map: &str| {
        ShardIndex::parse(
            format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{map}}}"#).as_bytes(),
        )
    };
    for path in [
        "../x.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "a\\\\b.safetensors",
        "..",
        "",
        "C:x.safetensors",
        "x.gguf",
        "a\\u0000.safetensors",
    ] {
        let error = index(&format!(r#"{{"w":"{path}"}}"#))
            .expect_err(path)
            .to_string();
        assert!(
            error.contains("the shard of tensor \"w\""),
            "{path}: {error}"
        );
    }
    assert!(matches!(
        index(r#"{"w":"pytorch_model-00001.bin"}"#),
        Err(FormatError::Pickle { .. })
    ));
    assert!(
        index(r#"{"w":"a.safetensors","w":"b.safetensors"}"#)
            .unwrap_err()
            .to_string()
            .contains("duplicate key")
    );
    assert!(
        ShardIndex::parse(b"{}")
            .unwrap_err()
            .to_string()
            .contains("weight_map")
    );

    let good = index(r#"{"w":"a.safetensors","v":"b.safetensors"}"#).unwrap();
    assert_eq!(
        good.shards().into_iter().collect::<Vec<_>>(),
        ["a.safetensors", "b.safetensors"]
    );
    let holding = |names: &[&str]| {
        let views: Vec<_> = names
            .iter()
            .map(|name| View {
                name,
                encoding: Encoding::U8,
                shape: &[0],
                bytes: b"",
            })
            .collect();
        Header::parse(&write(&views, &BTreeMap::new())).unwrap()
    };
    assert_eq!(good.check("a.safetensors", &holding(&["w"])), Ok(()));
    for (names, expected) in [
        (&["w", "v"][..], "listed in \"b.safetensors\""),
        (&["w", "u"], "not listed"),
        (&[], "not in \"a.safetensors\""),
    ] {
        let error = good
            .check("a.safetensors", &holding(names))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

const ENCODINGS: [Encoding; 6] = [
    Encoding::F64,
    Encoding::F32,
    Encoding::BF16,
    Encoding::I64,
    Encoding::U8,
    Encoding::Bool,
];

prop_compose! {
    fn tensor()(
        encoding in prop::sample::select(&ENCODINGS[..]),
        shape in prop::collection::vec(0usize..5, 0..4),
        seed in any::<u8>(),
    ) -> (Encoding, Vec<usize>, Vec<u8>) {
        let size = encoding.bytes(shape.iter().product()).unwrap();
        (encoding, shape, (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect())
    }
}

proptest! {
    #[test]
    fn round_trip(
        tensors in prop::collection::btree_map("\\PC{0,12}", tensor(), 0..8),
        metadata in prop::collection::btree_map("\\PC{0,6}", "\\PC{0,6}", 0..4),
    ) {
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, (encoding, shape, bytes))| View { name, encoding: *encoding, shape, bytes })
            .collect();
        let bytes = write(&views, &metadata);
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(&header.metadata, &metadata);
        prop_assert_eq!(header.tensors.len(), tensors.len());
        for t in &header.tensors {
            let (encoding, shape, data) = &tensors[&t.name];
            prop_assert_eq!((&t.encoding, &t.shape, &bytes[t.start..t.end]), (encoding, shape, &data[..]));
            let plain = encoding.block_bytes();
            prop_assert_eq!(t.start % plain, 0, "aligned");
        }
    }

    #[test]
    fn mutations_never_panic(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let views = [
            View { name: "a", encoding: Encoding::F32, shape: &[2, 2], bytes: &[1; 16] },
            View { name: "b", encoding: Encoding::U8, shape: &[3], bytes: &[2; 3] },
        ];
        let whole = write(&views, &BTreeMap::from([("k".into(), "v".into())]));
        let mut bytes = whole.clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // A header that parses describes bytes that are there.
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert!(header.tensors.iter().all(|t| bytes.get(t.start..t.end).is_some()));
        }
        let short = &whole[..cut.index(whole.len())];
        prop_assert!(Header::parse(short).is_err());
        let _ = ShardIndex::parse(&bytes[8..]);
    }
}
