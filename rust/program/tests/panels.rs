//! What panels cannot hold is an error that names the weight.

use lmrs_kernels::linear::Weights;
use lmrs_program::{Op, Plan, Precision, Program};
use lmrs_tensor::{DType, Tensor};

#[test]
fn a_weight_too_large_for_four_bits_is_named() {
    let inputs = 70;
    let program = |largest: f32| {
        let mut program = Program::default();
        let x = program.input("x", DType::F32, "tokens", Some(inputs));
        let mut weight = vec![1.0; 2 * inputs];
        weight[inputs + 66] = -largest;
        let weight = Tensor::new::<f32>(weight, vec![2, inputs]).unwrap();
        let weight = program.parameter("blocks.0.ff.down.weight", &weight);
        let op = Op::parse("linear", "{}").unwrap();
        let y = program.push(op, vec![Some(x), Some(weight)], vec![], "");
        program.outputs = vec![y.unwrap()];
        program
    };
    let plan = |largest, layers| {
        let head = Weights::F32;
        Plan::new(program(largest), Precision { layers, head })
    };
    let error = plan(65_505.0, Weights::Int4).unwrap_err().to_string();
    assert!(
        error.contains("blocks.0.ff.down.weight") && error.contains("-65505"),
        "{error}"
    );
    assert!(plan(65_504.0, Weights::Int4).is_ok());
    for weights in [Weights::F32, Weights::Bf16, Weights::Int8] {
        assert!(plan(1e30, weights).is_ok(), "{weights:?}");
    }
}
