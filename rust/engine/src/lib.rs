//! The engine: prefill, decode, generation, scoring and embedding of recorded Programs
