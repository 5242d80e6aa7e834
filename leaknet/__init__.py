"""Stage two: cached latents become attributions, scores and reports."""
