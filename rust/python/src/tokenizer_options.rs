//! The options of a call.

use lmrs_tokenizers::{Dropout, EncodeOptions, Padding, Side, Strategy, Truncation, Unit};
use pyo3::prelude::*;

use crate::error::{PyRes, bad_argument};

/// The options of a call, read once for all calls that say the same.
#[pyclass(frozen, name = "EncodeOptions", module = "lmrs._rs")]
pub struct PyEncodeOptions(EncodeOptions);

#[pymethods]
impl PyEncodeOptions {
    #[new]
    fn new(options: Options) -> PyRes<Self> {
        Ok(Self(options.try_into()?))
    }
}

/// What a Python caller says about an encoding.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Options {
    add_special_tokens: bool,
    split_special_tokens: bool,
    offsets: String,
    max_length: Option<usize>,
    truncate: String,
    side: String,
    stride: usize,
    padding: Option<Fill>,
    dropout: f64,
    seed: u64,
}

/// How a batch is filled up.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Fill {
    length: Option<usize>,
    multiple: usize,
    side: String,
    id: u32,
    type_id: u32,
}

/// The options of a call; the usual ones if nothing is said.
pub fn read(options: Option<&Bound<'_, PyEncodeOptions>>) -> EncodeOptions {
    options.map_or_else(EncodeOptions::default, |options| options.get().0)
}

fn side(name: &str, value: &str) -> PyRes<Side> {
    match value {
        "right" => Ok(Side::Right),
        "left" => Ok(Side::Left),
        other => Err(bad_argument(name, &other, "left or right")),
    }
}

impl TryFrom<Options> for EncodeOptions {
    type Error = crate::error::Failure;

    fn try_from(options: Options) -> PyRes<Self> {
        let strategy = match options.truncate.as_str() {
            "longest_first" => Strategy::LongestFirst,
            "only_first" => Strategy::OnlyFirst,
            "only_second" => Strategy::OnlySecond,
            other => {
                return Err(bad_argument(
                    "truncate",
                    &other,
                    "longest_first, only_first or only_second",
                ));
            }
        };
        let offsets = match options.offsets.as_str() {
            "characters" => Unit::Characters,
            "bytes" => Unit::Bytes,
            other => return Err(bad_argument("offsets", &other, "characters or bytes")),
        };
        let truncated = side("side", &options.side)?;
        let padding = |fill: Fill| -> PyRes<Padding> {
            Ok(Padding {
                length: fill.length,
                multiple: fill.multiple,
                side: side("pad_side", &fill.side)?,
                id: fill.id,
                type_id: fill.type_id,
            })
        };
        Ok(Self {
            add_special_tokens: options.add_special_tokens,
            split_special_tokens: options.split_special_tokens,
            offsets,
            truncation: options.max_length.map(|max_length| Truncation {
                max_length,
                strategy,
                side: truncated,
                stride: options.stride,
            }),
            padding: options.padding.map(padding).transpose()?,
            dropout: (options.dropout != 0.0).then_some(Dropout {
                rate: options.dropout,
                seed: options.seed,
            }),
        })
    }
}
