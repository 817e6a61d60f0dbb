//! A small causal model with random weights, as Programs.

use std::sync::Arc;

use lmrs_engine::{Detokenizer, Generator, Pieces, Variants};
use lmrs_kernels::attention::KvType;
use lmrs_kernels::dropout::philox;
use lmrs_program::{Op, Plan, Precision, Program, ValueId};
use lmrs_tensor::{DType, Tensor};

pub const VOCABULARY: usize = 97;
const WIDTH: usize = 48;

/// A token is a letter, or one byte of a two-byte character.
pub struct Letters;

/// Bytes that are not a character yet.
pub struct Bytes(pub Vec<u8>);

impl Detokenizer for Letters {
    fn after(&self, _: &[u32]) -> Box<dyn Pieces> {
        Box::new(Bytes(Vec::new()))
    }
}

impl Pieces for Bytes {
    fn push(&mut self, id: u32) -> Option<String> {
        self.0.push(match id {
            90..97 => 0xC3 - 0x20 * (id as u8 % 2),
            _ => b'a' + (id % 26) as u8,
        });
        let piece = std::str::from_utf8(&self.0).ok()?.to_owned();
        self.0.clear();
        Some(piece)
    }

    fn finish(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(&self.0).into_owned())
    }
}

pub struct Writer {
    pub program: Program,
    weights: Vec<Tensor>,
    next: usize,
}

impl Writer {
    fn weight(&mut self, rows: usize, width: usize) -> ValueId {
        let at = self.next;
        self.next += 1;
        if self.weights.len() == at {
            let number = |i: usize| {
                let word = philox([i as u32, at as u32, 0, 0], 7)[0];
                (word as f32 / u32::MAX as f32 - 0.5) * 0.6
            };
            let values = (0..rows * width).map(number).collect();
            let shape = if rows == 1 {
                vec![width]
            } else {
                vec![rows, width]
            };
            self.weights
                .push(Tensor::new::<f32>(values, shape).unwrap());
        }
        self.program
            .parameter(&format!("weight.{at}"), &self.weights[at])
    }

    pub fn push(
        &mut self,
        op: &str,
        attributes: &str,
        inputs: &[ValueId],
        streams: &[&str],
    ) -> ValueId {
        let mut inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        if op == "attention" {
            inputs.resize(6, None);
        }
        let streams = streams.iter().map(ToString::to_string).collect();
        self.program
            .push(Op::parse(op, attributes).unwrap(), inputs, streams, op)
            .unwrap()
    }

    fn block(&mut self, x: ValueId, slot: &str) -> ValueId {
        let norm = self.weight(1, WIDTH);
        let h = self.push("rms_norm", r#"{"eps": 1e-5}"#, &[x, norm], &[]);
        let [q, k, v] = [WIDTH, WIDTH / 3, WIDTH / 3].map(|width| {
            let weight = self.weight(width, WIDTH);
            self.push("linear", "{}", &[h, weight], &[])
        });
        let attributes = format!(
            r#"{{"heads": 6, "kv_heads": 2, "scale": 0.35, "causal": true, "window": 9, "softcap": null, "relative": null, "cache": "{slot}"}}"#
        );
        let mixed = self.push("attention", &attributes, &[q, k, v], &["tokens", "tokens"]);
        let weight = self.weight(WIDTH, WIDTH);
        let o = self.push("linear", "{}", &[mixed, weight], &[]);
        let x = self.push("add", "{}", &[x, o], &[]);
        let [gate, up] = [0, 1].map(|_| {
            let weight = self.weight(2 * WIDTH, WIDTH);
            self.push("linear", "{}", &[x, weight], &[])
        });
        let inner = self.push("gated", r#"{"kind": "silu"}"#, &[gate, up], &[]);
        let weight = self.weight(WIDTH, 2 * WIDTH);
        let down = self.push("linear", "{}", &[inner, weight], &[]);
        self.push("add", "{}", &[x, down], &[])
    }
}

/// The plans of logits and of log-probabilities, over the same weights.
pub fn programs() -> (Plan, Plan) {
    let mut weights = Vec::new();
    let [logits, logprob] = [false, true].map(|scores| {
        let mut w = Writer {
            program: Program::default(),
            weights: std::mem::take(&mut weights),
            next: 0,
        };
        let ids = w.program.input("ids", DType::I32, "tokens", None);
        let positions = w.program.input("positions", DType::I32, "tokens", None);
        let (table, places) = (w.weight(VOCABULARY, WIDTH), w.weight(2048, WIDTH));
        let x = w.push("embed", "{}", &[table, ids], &[]);
        let p = w.push("embed", "{}", &[places, positions], &[]);
        let mut x = w.push("add", "{}", &[x, p], &[]);
        for slot in ["first", "second"] {
            x = w.block(x, slot);
        }
        let output = if scores {
            let labels = w.program.input("labels", DType::I32, "tokens", None);
            w.push("token_logprob", "{}", &[x, table, labels], &[])
        } else {
            let select = w.program.input("select", DType::I32, "select", None);
            let x = w.push("rows", "{}", &[x, select], &[]);
            w.push("linear", "{}", &[x, table], &[])
        };
        w.program.outputs = vec![output];
        weights = w.weights;
        w.program
    });
    let plan = |program| Plan::new(program, Precision::default()).unwrap();
    (plan(logits), plan(logprob))
}

/// The model, ready to write.
pub fn generator() -> Arc<Generator> {
    generator_with(KvType::Exact)
}

/// The same, with keys and values kept as `kv`.
pub fn generator_with(kv: KvType) -> Arc<Generator> {
    Arc::new(Generator {
        logits: programs().0,
        encoder: None,
        vocabulary: VOCABULARY,
        context: Some(128),
        kv,
        detokenizer: Some(Arc::new(Letters)),
        variant: None,
        variants: Variants::default(),
    })
}
