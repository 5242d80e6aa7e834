"""Tables of runs that differ in named settings, all over one cache."""
