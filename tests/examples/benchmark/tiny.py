"""Workloads that train in milliseconds."""

from examples.benchmark.workload import Workload


def tiny(**changes):
    """A workload with two ids, one bag and three dense features."""
    return Workload(**{"ids": (50, 7), "bags": (30,), "bag_mean": 3, "dense": 3, "batch_size": 32, **changes})
