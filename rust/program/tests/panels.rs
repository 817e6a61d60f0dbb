//! What panels cannot hold is an error that names the weight.

use lmrs_kernels::linear::Weights;
use lmrs_program::{Op, Plan, Precision, Program};
use lmrs_tensor::{DType, Tensor};

#[test]
fn an_input_too_long_for_bytes_is_named() {
    let inputs = Weights::Int8.most_inputs() + 1;
    let program = || {
        let mut program = Program::default();
        let x = program.input("x", DType::F32, "tokens", Some(inputs));
        let weight = Tensor::new::<f32>(vec![1.0; inputs], vec![1, inputs]).unwrap();
        let weight = program.parameter("blocks.0.ff.down.weight", &weight);
        let op = Op::parse("linear", "{}").unwrap();
        let y = program.push(op, vec![Some(x), Some(weight)], vec![], "");
        program.outputs = vec![y.unwrap()];
        program
    };
    let plan = |layers| {
        let head = Weights::F32;
        Plan::new(program(), Precision { layers, head })
    };
    let error = plan(Weights::Int8).unwrap_err().to_string();
    assert!(
        error.contains("blocks.0.ff.down.weight") && error.contains("131073"),
        "{error}"
    );
    for weights in [Weights::F32, Weights::Bf16, Weights::Int4] {
        assert!(plan(weights).is_ok(), "{weights:?}");
    }
}
