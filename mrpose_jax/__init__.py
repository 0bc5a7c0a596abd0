"""Top-down human pose estimation in JAX: multi-resolution representation learning."""
