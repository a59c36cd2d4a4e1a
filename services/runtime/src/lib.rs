//! Runs and inspects the loaded model: the gRPC face of the engine.
