//! Panels in a file: packed ahead, and used where they lie.

use std::fmt;
use std::sync::Arc;

use lmrs_kernels::linear::{Lender, Packed, Weights};
use lmrs_tensor::{DType, Error, Life, Result, Rows, Storage, Tensor};

use crate::ops::linear;
use crate::panels::{Precision, check, products};
use crate::{Op, Parameter, Program, ValueId};

/// A weight that a plan packs.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    /// Its path in the model.
    pub path: &'a str,
    /// The weight itself.
    pub tensor: &'a Tensor,
    /// How it is held.
    pub weights: Weights,
    /// Whether the program reads it in another way, too: an embedding that is also the head.
    pub read: bool,
}

/// The weights that a plan of `program` packs.
pub fn weights(program: &Program, precision: Precision) -> Vec<Weight<'_>> {
    let mut held: Vec<Option<Weights>> = vec![None; program.values()];
    let mut read = vec![false; program.values()];
    for node in &program.nodes {
        // Those of a delta are small, and others than the model's.
        let as_panels = match node.op {
            Op::LowRank(_) => Vec::new(),
            _ => products(node, precision),
        };
        for (index, value) in node.inputs.iter().enumerate() {
            let Some(value) = value.map(ValueId::index) else {
                continue;
            };
            match as_panels.iter().find(|(at, _)| *at == index) {
                Some((_, weights)) => held[value] = held[value].or(Some(*weights)),
                None => read[value] = true,
            }
        }
    }
    let of = |parameter: &Parameter| Some((held[parameter.value.index()]?, parameter.value));
    let packed = program.parameters.iter().filter_map(|parameter| {
        let (weights, value) = of(parameter)?;
        Some(Weight {
            path: &parameter.path,
            tensor: &parameter.tensor,
            weights,
            read: read[value.index()],
        })
    });
    packed.collect()
}

/// The panels of `weight`, called `path`, as a file holds them: int32 words, and how many outputs a strip has.
///
/// # Errors
/// [`Error::Input`] if `weights` cannot hold it, [`Error::Shape`] if it is not of float32.
pub fn packed(path: &str, weight: &Tensor, weights: Weights) -> Result<(Tensor, usize)> {
    if weight.dtype() != DType::F32 {
        let what = format!("{path} is {}, expected float32", weight.dtype());
        return Err(Error::shape("panels", what));
    }
    check(path, weight, weights)?;
    let panels = linear::panels::<f32>(weight, weights, Life::Holders)?;
    let words: Vec<i32> = bytemuck::pod_collect_to_vec(panels.bytes_of_panels());
    let count = words.len();
    Ok((Tensor::new(words, [count])?, panels.strip_width()))
}

/// Words of a file that panels lie in.
struct Words(Tensor);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// What [`packed`] gave of a weight `[outputs, inputs]`, where it lies.
fn taken(shape: [usize; 2], weights: Weights, strip: usize, words: &Tensor) -> Result<Packed<f32>> {
    let lender: Lender = Arc::new(Words(words.clone()));
    let range = 0..words.bytes().len();
    let panels = match words.dtype() {
        DType::I32 => Packed::lent(weights, shape, strip, &lender, range),
        _ => None,
    };
    panels.ok_or_else(|| {
        let (have, weights) = (words.shape(), weights.name());
        let what = format!(
            "{have:?} of {} are no {weights} panels of {shape:?} in strips of {strip}",
            words.dtype()
        );
        Error::shape("panels", what)
    })
}

/// Has products with `weight` take the panels in `words` instead of packing it.
///
/// # Errors
/// [`Error::Shape`] if they are no such panels.
pub fn lend(weight: &Tensor, weights: Weights, strip: usize, words: &Tensor) -> Result<()> {
    let panels = taken([weight.rows(), weight.width()], weights, strip, words)?;
    weight.derived(linear::key(weights), Life::Storage, || panels);
    Ok(())
}

/// A weight `[outputs, inputs]` of which there are only panels; its elements are what they say.
///
/// # Errors
/// [`Error::Shape`] if they are no such panels.
pub fn unpacked(
    shape: [usize; 2],
    weights: Weights,
    strip: usize,
    words: &Tensor,
) -> Result<Tensor> {
    let panels = taken(shape, weights, strip, words)?;
    let storage = Storage::made(Box::new(Unpacked(panels.clone())));
    let weight = Tensor::over(storage, DType::F32, shape.to_vec())?;
    weight.derived(linear::key(weights), Life::Storage, || panels);
    Ok(weight)
}

/// Rows read back from panels.
struct Unpacked(Packed<f32>);

impl fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows of {:?} panels", self.0.weights())
    }
}

impl Rows for Unpacked {
    fn count(&self) -> usize {
        self.0.outputs()
    }

    fn width(&self) -> usize {
        self.0.inputs()
    }

    fn read(&self, first: usize, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.width().max(1)).enumerate() {
            self.0.row(first + row, out);
        }
    }
}
