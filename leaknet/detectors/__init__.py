"""Open-set detectors, one file each: `fit`, then `score_samples`, higher = more like the known."""
