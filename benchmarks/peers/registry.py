"""The peers by name, in the order of the table."""

from __future__ import annotations

from benchmarks.peers.bentoml import BentoML
from benchmarks.peers.fastapi import FastApi, TunedFastApi
from benchmarks.peers.interface import Peer
from benchmarks.peers.litserve import LitServe
from benchmarks.peers.mlserver import MLServer
from benchmarks.peers.ray_serve import RayServe
from benchmarks.peers.triton import Triton, TritonInt16, TritonWithoutPolicies

_ALL: tuple[type[Peer], ...] = (
    Triton,
    TritonInt16,
    TritonWithoutPolicies,
    TunedFastApi,
    FastApi,
    BentoML,
    LitServe,
    MLServer,
    RayServe,
)
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in _ALL}
