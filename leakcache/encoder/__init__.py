"""The encoder half of a diffusion autoencoder, and where its weights are found."""
