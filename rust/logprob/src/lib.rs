//! Log-probabilities without logits: head, log-sum-exp and cross-entropy fused
