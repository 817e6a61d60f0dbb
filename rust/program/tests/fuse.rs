//! A plan gives what its program gives, bit for bit.

use lmrs_kernels::dropout::philox;
use lmrs_program::{Bindings, Op, Plan, Precision, Program, Spares, ValueId};
use lmrs_tensor::{DType, Tensor};
use proptest::prelude::*;

fn random(seed: u32, rows: usize, width: Option<usize>) -> Tensor {
    let number = |i: usize| philox([i as u32, seed, 0, 0], 3)[0] as f32 / u32::MAX as f32 - 0.5;
    let values = (0..rows * width.unwrap_or(1)).map(number).collect();
    let shape = [Some(rows), width].into_iter().flatten();
    Tensor::new::<f32>(values, shape.collect::<Vec<_>>()).unwrap()
}

/// A program grown by random ops over the values there are, all of one width.
struct Grower {
    program: Program,
    values: Vec<ValueId>,
    width: usize,
    tensors: u32,
}

impl Grower {
    fn new(width: usize) -> Self {
        let mut program = Program::default();
        let x = program.input("x", DType::F32, "tokens", Some(width));
        Self {
            program,
            values: vec![x],
            width,
            tensors: 0,
        }
    }

    fn parameter(&mut self, rows: usize, width: Option<usize>) -> ValueId {
        self.tensors += 1;
        self.program.parameter(
            &format!("w{}", self.tensors),
            &random(self.tensors, rows, width),
        )
    }

    fn push(&mut self, op: &str, attributes: &str, inputs: &[ValueId]) -> ValueId {
        let inputs = inputs.iter().copied().map(Some).collect();
        let op = Op::parse(op, attributes).unwrap();
        let output = self.program.push(op, inputs, vec![], "").unwrap();
        self.values.push(output);
        output
    }

    fn linear(&mut self, x: ValueId, bias: bool) -> ValueId {
        let weight = self.parameter(self.width, Some(self.width));
        let bias = bias.then(|| self.parameter(self.width, None));
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.push("linear", "{}", &inputs)
    }

    fn grow(&mut self, kind: u8, a: usize, b: usize) {
        let pick = |n: usize| self.values[self.values.len() - 1 - n % self.values.len().min(4)];
        let (a, b) = (pick(a), pick(b));
        match kind {
            0..4 => self.linear(a, kind.is_multiple_of(2)),
            4 => self.push("activation", r#"{"kind": "gelu_tanh"}"#, &[a]),
            5 => self.push("activation", r#"{"kind": "silu"}"#, &[a]),
            6 => self.push("gated", r#"{"kind": "gelu"}"#, &[a, b]),
            7 => {
                let row = self.parameter(self.width, None);
                self.push("add", "{}", &[a, row])
            }
            _ => self.push("add", "{}", &[a, b]),
        };
    }
}

proptest! {
    #![proptest_config(lmrs_testing::cases(128))]

    #[test]
    fn fused_is_unfused(
        width in prop::sample::select(vec![1_usize, 17, 64, 80]),
        rows in prop::sample::select(vec![0_usize, 1, 3, 100]),
        ops in prop::collection::vec((0..12_u8, 0..4_usize, 0..4_usize), 1..25),
        outputs in prop::collection::vec(0..25_usize, 1..4),
    ) {
        let mut grower = Grower::new(width);
        for (kind, a, b) in ops {
            grower.grow(kind, a, b);
        }
        let Grower { mut program, values, .. } = grower;
        program.outputs = outputs.iter().map(|&o| values[o % values.len()]).collect();
        let bindings = Bindings {
            inputs: [("x".to_owned(), random(0, rows, Some(width)))].into_iter().collect(),
            ..Bindings::default()
        };
        let expected = program.run(&bindings, None).unwrap();
        let plan = Plan::new(program, Precision::default()).unwrap();
        prop_assert!(plan.len() <= plan.program().nodes.len());
        // What a buffer holds when it is used again must not matter.
        let spares = Spares::poisoned();
        let mut made = None;
        for _ in 0..2 {
            let outputs = plan.run(&bindings, None, &spares).unwrap();
            for (got, expected) in outputs.iter().zip(&expected) {
                prop_assert_eq!(got.shape(), expected.shape());
                prop_assert_eq!(got.bytes(), expected.bytes());
            }
            drop(outputs);
            prop_assert_eq!(spares.made(), *made.get_or_insert(spares.made()), "a second run makes no buffer");
        }
    }
}

#[test]
fn what_is_fused() {
    let mut g = Grower::new(64);
    let x = g.values[0];
    let [q, k, v] = [0; 3].map(|_| g.linear(x, false));
    let a = g.push("gated", r#"{"kind": "silu"}"#, &[q, k]);
    let b = g.push("gated", r#"{"kind": "silu"}"#, &[a, v]);
    let o = g.linear(b, false);
    let y = g.push("add", "{}", &[x, o]);
    let up = g.linear(y, true);
    let inner = g.push("activation", r#"{"kind": "gelu"}"#, &[up]);
    g.program.outputs = vec![inner];
    // q|k|v; gated; gated; o + x; up with its activation.
    assert_eq!(
        (
            g.program.nodes.len(),
            Plan::new(g.program, Precision::default()).unwrap().len()
        ),
        (9, 5)
    );
}
