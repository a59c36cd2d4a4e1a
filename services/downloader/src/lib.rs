//! Gets models: hub to verified to quantized.
