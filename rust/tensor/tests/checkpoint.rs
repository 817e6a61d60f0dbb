//! Checkpoints on disk: what is written is read, without a copy where it can be; what is refused leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use lmrs_tensor::{Checkpoint, DType, Error, Metadata, Tensor, save_safetensors};
use tempfile::TempDir;

const TYPED: &[u8] = include_bytes!("../../../tests/fixtures/gguf/typed.gguf");

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::new(values.to_vec(), shape).unwrap()
}

fn save(path: &Path, tensors: &[(&str, &Tensor)]) {
    save_safetensors(path, tensors.iter().copied(), &BTreeMap::new()).unwrap();
}

fn files(directory: &TempDir) -> Vec<String> {
    let names = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> = names
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("model.safetensors");
    let wide = tensor(&[1.0, -0.0, f32::MIN_POSITIVE, 3.0], &[2, 2]);
    let half = Tensor::new(vec![f16::from_f32(0.1)], [1]).unwrap();
    let brain = Tensor::new(vec![bf16::from_f32(0.1), bf16::ONE], [1, 2, 1]).unwrap();
    let ids = Tensor::new(vec![i32::MIN, 7], [2]).unwrap();
    let reference = Tensor::new(vec![1.0f64 / 3.0], Vec::new()).unwrap();
    let all = [
        ("w", &wide),
        ("h", &half),
        ("b", &brain),
        ("i", &ids),
        ("d", &reference),
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    save_safetensors(&path, all, &metadata).unwrap();
    assert_eq!(files(&directory), ["model.safetensors"]);

    for path in [&path, &directory.path().to_owned()] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(
            checkpoint.metadata(),
            &Metadata::Safetensors(metadata.clone())
        );
        assert_eq!(checkpoint.tensors().len(), 5);
        for (name, tensor) in all {
            let stored = checkpoint.stored(name).unwrap();
            assert_eq!(
                (stored.dtype(), stored.shape()),
                (tensor.dtype(), tensor.shape())
            );
            assert_eq!(stored.bytes(), tensor.bytes(), "{name}");
        }
        for (name, tensor) in all.into_iter().filter(|(name, _)| *name != "i") {
            let (got, expected) = (
                checkpoint.tensor(name).unwrap(),
                tensor.cast(DType::F32).unwrap(),
            );
            assert_eq!(got.bytes(), expected.bytes(), "{name}");
        }
        let error = checkpoint.tensor("i").unwrap_err().to_string();
        assert!(error.contains("\"i\" is stored as I32"), "{error}");
        let error = checkpoint.tensor("absent").unwrap_err().to_string();
        assert!(error.contains("\"absent\""), "{error}");
    }
}

#[test]
fn float32_is_not_copied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.safetensors");
    save(&path, &[("w", &tensor(&[1.0; 64], &[64]))]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let (one, two) = (
        checkpoint.tensor("w").unwrap(),
        checkpoint.tensor("w").unwrap(),
    );
    assert_eq!(one.bytes().as_ptr(), two.bytes().as_ptr());
    drop(checkpoint);
    assert_eq!(
        one.values::<f32>().unwrap(),
        [1.0; 64],
        "the map outlives the checkpoint"
    );
}

#[test]
fn a_tensor_the_file_does_not_align_is_copied() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.safetensors");
    let header = br#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    fs::write(
        &path,
        [&length[..], header, &[9], &2.5f32.to_le_bytes()].concat(),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(
        checkpoint.tensor("w").unwrap().values::<f32>().unwrap(),
        [2.5]
    );
}

#[test]
fn a_file_may_be_replaced_by_what_is_mapped_from_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.safetensors");
    save(&path, &[("w", &tensor(&[1.0, 2.0], &[2]))]);
    let old = Checkpoint::open(&path).unwrap().tensor("w").unwrap();
    save(&path, &[("v", &old)]);
    let new = Checkpoint::open(&path).unwrap().tensor("v").unwrap();
    assert_eq!(old.bytes(), new.bytes());
}

#[test]
fn a_failed_save_leaves_what_was_there() {
    let directory = TempDir::new().unwrap();
    let t = tensor(&[1.0], &[1]);
    let none = BTreeMap::new();
    // The name is taken by a directory: the bytes are written, the rename fails.
    let taken = directory.path().join("taken");
    fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(matches!(
        save_safetensors(&taken, [("w", &t)], &none),
        Err(Error::Io { .. })
    ));
    let path = directory.path().join("a.safetensors");
    assert!(matches!(
        save_safetensors(&path, [("w", &t), ("w", &t)], &none),
        Err(Error::Format { .. })
    ));
    assert_eq!(files(&directory), ["taken"]);
    let absent = directory.path().join("absent/a.safetensors");
    assert!(matches!(
        save_safetensors(&absent, [("w", &t)], &none),
        Err(Error::Io { .. })
    ));
}

#[test]
fn shards() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (one, two) = (tensor(&[1.0], &[1]), tensor(&[2.0, 3.0], &[2]));
    save(&at("model-1.safetensors"), &[("one", &one)]);
    save(&at("model-2.safetensors"), &[("two", &two)]);
    let index = |map: &str| {
        fs::write(
            at("model.safetensors.index.json"),
            format!("{{\"weight_map\":{map}}}"),
        )
        .unwrap();
        Checkpoint::open(directory.path())
    };
    let good = index(r#"{"one":"model-1.safetensors","two":"model-2.safetensors"}"#).unwrap();
    assert_eq!(good.files().len(), 2);
    assert_eq!(
        good.tensor("two").unwrap().values::<f32>().unwrap(),
        [2.0, 3.0]
    );
    for (map, expected) in [
        (
            r#"{"one":"../model-1.safetensors"}"#,
            "in the index's own directory",
        ),
        (r#"{"one":"model-2.safetensors"}"#, "not listed"),
        (
            r#"{"one":"model-1.safetensors","three":"model-1.safetensors"}"#,
            "tensor \"three\"",
        ),
        (r#"{"one":"absent.safetensors"}"#, "absent.safetensors"),
    ] {
        let error = index(map).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn gguf() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("typed.gguf");
    fs::write(&path, TYPED).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert!(matches!(checkpoint.metadata(), Metadata::Gguf(m) if m.contains_key("t.f64")));
    let plain = checkpoint.tensor("plain").unwrap();
    let close = checkpoint.tensor("Q8_0").unwrap();
    let pairs = plain
        .values::<f32>()
        .unwrap()
        .iter()
        .zip(close.values::<f32>().unwrap());
    assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 0.02));
    assert!(checkpoint.stored("Q8_0").is_err());

    fs::write(&path, &TYPED[..TYPED.len() - 32]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("typed.gguf: GGUF: tensor \"vector\" needs 28 bytes"),
        "{error}"
    );
    fs::write(directory.path().join("other.gguf"), TYPED).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("several *.gguf files"), "{error}");
}

#[test]
fn what_is_no_checkpoint() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let error = |path: &Path| Checkpoint::open(path).unwrap_err();
    assert!(matches!(error(&at("absent")), Error::Io { .. }));
    assert!(
        error(directory.path())
            .to_string()
            .contains("has neither model.safetensors nor")
    );
    fs::write(at("pytorch_model.bin"), b"PK\x03\x04").unwrap();
    assert!(
        error(directory.path())
            .to_string()
            .contains("pytorch_model.bin: is a zip archive")
    );
    fs::write(at("empty.safetensors"), b"").unwrap();
    assert!(
        error(&at("empty.safetensors"))
            .to_string()
            .contains("header length")
    );
    fs::write(at("text"), b"hello").unwrap();
    assert!(error(&at("text")).to_string().contains("\"hello\""));
    assert!(
        error(Path::new("/dev/null"))
            .to_string()
            .contains("not a regular file")
    );
}
