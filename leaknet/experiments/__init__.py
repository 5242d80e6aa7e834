"""Many runs as one experiment: protocols, ablations, benchmarks, comparisons."""
