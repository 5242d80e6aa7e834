"""Measurements of the speed claims."""
