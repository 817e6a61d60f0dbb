//! The Python extension module `lmrs._rs`: one line a method.

// pyo3 hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

mod engine;
mod error;
mod lowrank;
mod machine;
mod optimiser;
mod plan;
mod program;
mod request;
mod tensor;
mod tokenizer;
mod tokenizer_chat;
mod tokenizer_encoding;
mod tokenizer_gguf;
mod tokenizer_options;
mod tokenizer_stream;
mod tokenizer_train;
mod weights;

use pyo3::pymodule;

// Activations are allocated and freed at every op of a step; this allocator keeps the pages.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule(gil_used = false)]
mod _rs {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::engine::{PyGenerator, PyService, sampling_distribution, score};
    #[pymodule_export]
    use crate::lowrank::svd;
    #[pymodule_export]
    use crate::machine::{instruction_set, threads, version};
    #[pymodule_export]
    use crate::optimiser::{PyAdamW, PyMoment, norm};
    #[pymodule_export]
    use crate::plan::{PyPlan, lend_panels, pack, packed_weights, unpacked};
    #[pymodule_export]
    use crate::program::{PyProgram, PySpares, PyTape, apply, op_names};
    #[pymodule_export]
    use crate::request::{PyGrammar, PyGrammars};
    #[pymodule_export]
    use crate::tensor::PyTensor;
    #[pymodule_export]
    use crate::tokenizer::PyTokenizer;
    #[pymodule_export]
    use crate::tokenizer_chat::PyChatTemplate;
    #[pymodule_export]
    use crate::tokenizer_encoding::PyEncoding;
    #[pymodule_export]
    use crate::tokenizer_options::PyEncodeOptions;
    #[pymodule_export]
    use crate::tokenizer_stream::{PyDecodeStream, PyEncodeStream};
    #[pymodule_export]
    use crate::tokenizer_train::PyCorpus;
    #[pymodule_export]
    use crate::weights::{PyCheckpoint, save_safetensors};

    /// A wrong `LMRS_SIMD` or `LMRS_NUM_THREADS` is an error here, before anything ran otherwise than was asked for.
    #[pymodule_init]
    fn check_machine(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        instruction_set()?;
        threads()?;
        Ok(())
    }
}
