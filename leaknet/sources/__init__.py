"""Images of one source, known or not: pairs, groups and families."""
