"""Summaries of closed-set and open-set figures."""
