"""Which images a data set holds: labels, prompt groups and folds."""
