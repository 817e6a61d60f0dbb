use std::ops::Range;

use lmrs_kernels::attention::{KvStore, KvType, Sequence, Spec, forward};
use lmrs_kernels::{Rows, RowsMut};

use crate::{single, values};

/// Keys that were forgotten, and a clone that went another way, leave no trace.
#[test]
fn a_store_forgets_and_forks() {
    let (heads, dim) = (2, 10);
    let width = heads * dim;
    let data = single(&values(300 * width, 1));
    let rows = |range: Range<usize>| {
        let n = range.len();
        Rows::new(&data[range.start * width..range.end * width], n, width)
    };
    let mut store = KvStore::new(heads, dim, KvType::Exact);
    store.append(rows(0..150), rows(0..150));
    let mut fork = store.clone();
    let poison = vec![f32::INFINITY; 50 * width];
    store.truncate(70);
    store.append(Rows::new(&poison, 50, width), Rows::new(&poison, 50, width));
    store.truncate(70);
    store.append(rows(70..90), rows(70..90));
    fork.append(rows(200..300), rows(200..300));
    let mut plain = KvStore::new(heads, dim, KvType::Exact);
    (0..90).for_each(|i| plain.append(rows(i..i + 1), rows(i..i + 1)));
    let mut joined = KvStore::new(heads, dim, KvType::Exact);
    joined.append(rows(0..150), rows(0..150));
    joined.append(rows(200..300), rows(200..300));
    assert_eq!((store.len(), fork.len()), (90, 250));
    assert_eq!(store.bytes(), plain.bytes());
    let spec = Spec {
        heads,
        kv_heads: heads,
        head_dim: dim,
        scale: 1.0,
        causal: true,
        window: None,
        softcap: None,
        relative: None,
        alibi: None,
        dropout: None,
    };
    let ask = |store: &KvStore<f32>| {
        let mut out = vec![0.0; width];
        let first = store.len() - 1;
        let sequence = Sequence {
            rows: 0..1,
            store,
            first,
        };
        let into = RowsMut::new(&mut out, 1, width);
        forward(&spec, rows(7..8), &[sequence], None, None, into, None);
        out
    };
    assert_eq!(ask(&store), ask(&plain));
    assert_eq!(ask(&fork), ask(&joined));
}
