//! The ops, one a file: attributes, `infer`, `forward`, `backward`.

pub mod activation;
pub mod add;
pub mod attention;
pub mod char_conv;
pub mod columns;
pub mod concat;
pub mod cross_entropy;
pub mod dropout;
pub mod embed;
pub mod gated;
mod head;
pub mod inverse_norm;
pub mod kron;
pub mod layer_norm;
pub mod linear;
pub mod low_rank;
pub mod lstm;
pub mod mul;
pub mod pool;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod scale;
pub mod stack;
pub mod sum;
pub mod token_logprob;
pub mod transpose;

use lmrs_kernels::view::Rows;
use lmrs_tensor::{Element, Error, Result, Tensor};

/// Runs the body with `$T` standing for the float type of `$tensor`.
macro_rules! float {
    ($tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            lmrs_tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use float;

/// A tensor as rows: `[rows, width]`, or a vector as one row repeated to `rows`.
pub(crate) fn view<T: Element>(tensor: &Tensor) -> Result<Rows<'_, T>> {
    Ok(Rows::new(tensor.values()?, tensor.rows(), tensor.width()))
}

/// A matrix as it is, a vector or a single row as one that stands for each of `rows`.
fn broadcast<T: Element>(tensor: &Tensor, rows: usize) -> Result<Rows<'_, T>> {
    match tensor.shape() {
        [_] | [1, _] => Ok(Rows::broadcast(tensor.values()?, rows)),
        _ => view(tensor),
    }
}

/// The ids in `tensor`, each checked to be below `limit`.
///
/// # Errors
/// [`Error::Input`] naming the first id that is not.
fn ids_below<'a>(what: &str, tensor: &'a Tensor, limit: usize) -> Result<&'a [i32]> {
    let ids = tensor.values::<i32>()?;
    match ids.iter().position(|&id| id < 0 || id as usize >= limit) {
        None => Ok(ids),
        Some(at) => Err(Error::input(
            format!("{what}[{at}]"),
            &ids[at],
            format!("0 to {}", limit.saturating_sub(1)),
        )),
    }
}
