"""Per-image statistics of pixels and of the encoder's activations."""
