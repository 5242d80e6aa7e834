"""Noise schedule, forward noise and standardised latent features."""
