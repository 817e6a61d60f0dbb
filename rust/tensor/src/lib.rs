//! Tensors of lmrs: dtype, shape, storage (owned or memory-mapped) and the one Error
