"""The network: branches, gate and prototypes, and what a run records of it."""
