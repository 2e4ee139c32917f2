"""Seeing inside a process: metrics, and how late its event loop is."""

from server.observability.lag import LoopLag
from server.observability.measures import Measures
from server.observability.page import MetricsPage
from server.observability.sources import Process, database, process, replica_families

__all__ = [
    "LoopLag",
    "Measures",
    "MetricsPage",
    "Process",
    "database",
    "process",
    "replica_families",
]
