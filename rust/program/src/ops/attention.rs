//! `softmax(scale·q·kᵀ + bias)·v` for each head and sequence of a packed batch.

use lmrs_kernels::attention::{
    self, Dropout, Gradients, KvStore, KvType, Prefix, Relative, Sequence, Spec,
};
use lmrs_kernels::{Real, RowsMut};
use lmrs_tensor::{Element, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::dropout::Randomness;
use super::{float, view};
use crate::op::{Cache, Call, Forward, Operation, Saved, optional, required};
use crate::{Meta, Ragged, Spares, meta};

const NAME: &str = "attention";

/// T5's buckets of relative positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelativeBuckets {
    /// Rows of the bias table.
    pub buckets: usize,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Whether keys after the query have buckets of their own.
    pub bidirectional: bool,
}

/// `attention(q, k, v, [table], [prefix k], [prefix v])` over the streams `queries` and `keys`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether a query sees only keys up to its own number.
    pub causal: bool,
    /// Only those less than so far away, on either side if not causal.
    pub window: Option<usize>,
    /// A score `s` becomes `softcap·tanh(s / softcap)`.
    pub softcap: Option<f64>,
    /// How the bias table is indexed; needed with a table.
    pub relative: Option<RelativeBuckets>,
    /// The slope of each head: `slope·|j − i|` is taken from the score of key `j` for query `i`.
    pub alibi: Option<Vec<f64>>,
    /// The slot in which keys and values stay between steps.
    pub cache: Option<String>,
    /// The probability with which training leaves a weight out.
    #[serde(default)]
    pub dropout: f64,
    /// The place in the model, so that two places draw different masks.
    #[serde(default)]
    pub site: String,
}

impl Operation for Attention {
    fn infer(&self, inputs: &[Option<&Meta>]) -> Result<Meta> {
        let (q, k, v) = (
            *required(NAME, inputs, 0)?,
            *required(NAME, inputs, 1)?,
            *required(NAME, inputs, 2)?,
        );
        let (width, kv_width) = (q.width(NAME, "q")?, k.width(NAME, "k")?);
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let whole = kv_heads > 0
            && heads > 0
            && width > 0
            && heads.is_multiple_of(kv_heads)
            && width.is_multiple_of(heads);
        if !whole || kv_width * heads != width * kv_heads {
            let said = format!("q {q} in {heads} heads, k {k} in {kv_heads} heads");
            return Err(Error::shape(
                NAME,
                format!("{said}; expected heads of one width, kv_heads dividing heads"),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::input(
                "attention dropout",
                &self.dropout,
                "0 <= rate < 1",
            ));
        }
        if self.window == Some(0) {
            return Err(Error::input("attention window", &0, "1 or more"));
        }
        if let Some(slopes) = &self.alibi {
            meta::expect_equal(NAME, "number of ALiBi slopes", &slopes.len(), &heads)?;
            if let Some(slope) = slopes.iter().find(|slope| !slope.is_finite()) {
                return Err(Error::input("attention alibi", slope, "finite slopes"));
            }
        }
        meta::expect_equal(NAME, "v", v, k)?;
        meta::expect_equal(NAME, "dtype of k", &k.dtype, &q.dtype)?;
        if let Some(table) = optional(inputs, 3) {
            let relative = self
                .relative
                .ok_or_else(|| Error::shape(NAME, "a bias table needs `relative`"))?;
            let (buckets, columns) = table.weight(NAME, "bias table")?;
            meta::expect_equal(NAME, "rows of the bias table", &buckets, &relative.buckets)?;
            meta::expect_equal(NAME, "width of the bias table", &columns, &heads)?;
        }
        if let (Some(keys), Some(values)) = (optional(inputs, 4), optional(inputs, 5)) {
            meta::expect_equal(
                NAME,
                "width of the prefix",
                &keys.weight(NAME, "prefix k")?.1,
                &kv_width,
            )?;
            meta::expect_equal(NAME, "prefix v", *values, *keys)?;
        } else if optional(inputs, 4).is_some() != optional(inputs, 5).is_some() {
            return Err(Error::shape(NAME, "a prefix needs both keys and values"));
        }
        Ok(q.clone())
    }

    fn forward(&self, call: &mut Call<'_>, inputs: &[Option<Tensor>]) -> Result<Forward> {
        let (queries, keys) = streams(call.streams, inputs)?;
        match (&self.cache, &mut call.cache) {
            (Some(slot), Some(cache)) => {
                self.cached(slot, &mut **cache, inputs, (queries, keys), call.spares)
            }
            _ => float!(required(NAME, inputs, 0)?, T => {
                let (k, v) = (view::<T>(required(NAME, inputs, 1)?)?, view::<T>(required(NAME, inputs, 2)?)?);
                let shape = (self.kv_heads, k.width() / self.kv_heads);
                let stores: Vec<_> = keys.ranges().map(|rows| {
                    let mut store = KvStore::new(shape.0, shape.1, KvType::Exact);
                    store.append(k.slice(rows.clone()), v.slice(rows));
                    store
                }).collect();
                let sequences: Vec<_> = queries.ranges().zip(&stores)
                    .map(|(rows, store)| Sequence { rows, store, first: 0 }).collect();
                let spec = self.spec(required(NAME, inputs, 0)?.width(), call.randomness);
                attend(&spec, inputs, &sequences, call.needs.contains(&true), call.spares)
            }),
        }
    }

    fn reads_output(&self) -> bool {
        true
    }

    fn backward(&self, saved: &Saved<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (queries, keys) = streams(saved.streams, saved.inputs)?;
        let (Some(output), Some(lse)) = (saved.output, saved.kept.first()) else {
            return Err(Error::Internal("attention kept no log-sum-exp".into()));
        };
        float!(grad, T => {
            let (q, k, v) = (input(saved, 0)?, input(saved, 1)?, input(saved, 2)?);
            let table = optional(saved.inputs, 3);
            let prefix = prefix::<T>(saved.inputs)?;
            let seen = attention::Saved {
                q: view(q)?,
                k: view(k)?,
                v: view(v)?,
                queries: queries.starts(),
                keys: keys.starts(),
                table: table.map(Tensor::values).transpose()?,
                prefix,
                out: view(output)?,
                lse: lse.values()?,
            };
            let mut parts: Vec<Vec<T>> =
                saved.inputs.iter().map(|t| saved.spares.zeros(t.as_ref().map_or(0, Tensor::len))).collect();
            if let [dq, dk, dv, dtable, dpk, dpv] = parts.as_mut_slice() {
                let mut grads = Gradients {
                    q: RowsMut::new(dq, q.rows(), q.width()),
                    k: RowsMut::new(dk, k.rows(), k.width()),
                    v: RowsMut::new(dv, v.rows(), v.width()),
                    table: table.map(|_| dtable.as_mut_slice()),
                    prefix: prefix.map(|p| {
                        let (rows, width) = (p.keys.rows(), p.keys.width());
                        (RowsMut::new(dpk, rows, width), RowsMut::new(dpv, rows, width))
                    }),
                };
                attention::backward(&self.spec(q.width(), saved.randomness), &seen, view(grad)?, &mut grads);
            }
            let tensor = |(values, like): (Vec<T>, &Option<Tensor>)| {
                like.as_ref().map(|like| saved.spares.tensor(values, like.shape())).transpose()
            };
            parts.into_iter().zip(saved.inputs).map(tensor).collect()
        })
    }
}

impl Attention {
    fn spec(&self, width: usize, randomness: Option<Randomness>) -> Spec {
        let relative = |r: RelativeBuckets| Relative {
            buckets: r.buckets,
            max_distance: r.max_distance,
            bidirectional: r.bidirectional,
        };
        Spec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: width / self.heads,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            softcap: self.softcap,
            relative: self.relative.map(relative),
            alibi: self.alibi.clone(),
            dropout: randomness
                .filter(|_| self.dropout > 0.0)
                .map(|randomness| Dropout {
                    rate: self.dropout,
                    key: randomness.at(&self.site),
                }),
        }
    }

    /// Appends this step's keys and values to the slot, then attends over all that are there.
    fn cached(
        &self,
        slot: &str,
        cache: &mut dyn Cache,
        inputs: &[Option<Tensor>],
        (queries, keys): (&Ragged, &Ragged),
        spares: &Spares,
    ) -> Result<Forward> {
        let (k, v) = (
            view::<f32>(required(NAME, inputs, 1)?)?,
            view::<f32>(required(NAME, inputs, 2)?)?,
        );
        let shape = (self.kv_heads, k.width() / self.kv_heads);
        let mut firsts = Vec::with_capacity(keys.sequences());
        for (sequence, rows) in keys.ranges().enumerate() {
            let store = cache.store_mut(slot, sequence, shape)?;
            firsts.push(store.len());
            store.append(k.slice(rows.clone()), v.slice(rows));
        }
        let mut sequences = Vec::with_capacity(firsts.len());
        for ((sequence, rows), first) in queries.ranges().enumerate().zip(firsts) {
            sequences.push(Sequence {
                rows,
                store: cache.store(slot, sequence)?,
                first,
            });
        }
        let spec = self.spec(required(NAME, inputs, 0)?.width(), None);
        attend(&spec, inputs, &sequences, false, spares)
    }
}

fn attend<T: Real + Element>(
    spec: &Spec,
    inputs: &[Option<Tensor>],
    sequences: &[Sequence<'_, T>],
    keep: bool,
    spares: &Spares,
) -> Result<Forward> {
    let q = required(NAME, inputs, 0)?;
    let table = optional(inputs, 3).map(Tensor::values).transpose()?;
    let mut out = spares.zeros::<T>(q.len());
    let mut lse = if keep {
        vec![T::ZERO; q.rows() * spec.heads]
    } else {
        Vec::new()
    };
    attention::forward(
        spec,
        view(q)?,
        sequences,
        table,
        prefix(inputs)?,
        RowsMut::new(&mut out, q.rows(), q.width()),
        keep.then_some(lse.as_mut_slice()),
    );
    let kept = if keep {
        vec![Tensor::new(lse, [q.rows(), spec.heads])?]
    } else {
        Vec::new()
    };
    Ok(Forward {
        output: spares.tensor(out, q.shape())?,
        kept,
    })
}

fn input<'a>(saved: &'a Saved<'_>, index: usize) -> Result<&'a Tensor> {
    required(NAME, saved.inputs, index)
}

fn prefix<T: Real + Element>(inputs: &[Option<Tensor>]) -> Result<Option<Prefix<'_, T>>> {
    match (optional(inputs, 4), optional(inputs, 5)) {
        (Some(keys), Some(values)) => Ok(Some(Prefix {
            keys: view(keys)?,
            values: view(values)?,
        })),
        _ => Ok(None),
    }
}

/// The streams of queries and keys, which must split exactly the rows there are.
fn streams<'a>(
    streams: &'a [Ragged],
    inputs: &[Option<Tensor>],
) -> Result<(&'a Ragged, &'a Ragged)> {
    let [queries, keys] = streams else {
        return Err(Error::shape(
            NAME,
            format!("{} streams, expected queries and keys", streams.len()),
        ));
    };
    meta::expect_equal(
        NAME,
        "rows of q",
        &required(NAME, inputs, 0)?.rows(),
        &queries.rows(),
    )?;
    meta::expect_equal(
        NAME,
        "rows of k",
        &required(NAME, inputs, 1)?.rows(),
        &keys.rows(),
    )?;
    meta::expect_equal(
        NAME,
        "sequences of keys",
        &keys.sequences(),
        &queries.sequences(),
    )?;
    Ok((queries, keys))
}
