"""Compared methods: one file each, all with the same three calls (`leaknet.peers.protocol`)."""

from leaknet.peers.images import PeerImages
from leaknet.peers.protocol import Peer, PeerOptions

PEERS: tuple[type[Peer], ...] = ()
"""Every row of `leak bench`, in the order of the paper's Table 1, then what is beyond it."""

__all__ = ["PEERS", "Peer", "PeerImages", "PeerOptions"]
