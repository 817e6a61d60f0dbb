"""The interpreters of the ops: native (Rust at once), torch, record (written down)."""
