"""Compared methods: one file each, all with the same three calls (`leaknet.peers.protocol`)."""
