//! safetensors, GGUF and shard indexes: parse, write and dequantise, trusting nothing
