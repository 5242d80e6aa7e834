"""Stage one: images become diffusion latents and their statistics, once."""
