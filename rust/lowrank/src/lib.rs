//! Low-rank updates: forward, backward, merge
