//! What a model does: one decoder for all families, KV cache, batcher, sampler, taps.
