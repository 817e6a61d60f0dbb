"""The model families, one page each: `lmrs.models.<model_type>` has `Config`, `Model` and `weights`."""
