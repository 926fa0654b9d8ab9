"""Training sets whose joins run on a Ray cluster, shard by shard.

A set is made in a child process, Ray's driver: Ray ends a driver that has lost its
cluster, and must not end a store. The child reads the tables and hands each shard its
rows, so a task is a function of its arguments, which Ray may run anywhere and again;
what the cluster's machines need is `trimtab-core`, and no way to the tables.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from trimtab_core.partials import Floats
from trimtab_core.pointintime import point_in_time
from trimtab_runtime import cluster
from trimtab_runtime.cluster import RayAway
from trimtab_runtime.parent import die_with

from trimtab_feature_store.historical import Making, Plan, TrainingSet
from trimtab_feature_store.sharding import ROWS_A_SHARD, Shard, ShardedJoin
from trimtab_feature_store.store import Tables

_RETRIES = 3
"""Of a shard whose worker was lost."""


class OnRay:
    """Makes training sets on the cluster at an address; each call blocks."""

    def __init__(self, address: str, tables: Tables, rows_a_shard: int = ROWS_A_SHARD) -> None:
        """`tables` are read by the child process, so they must be such as can be sent to one."""
        self._address = address
        self._tables = tables
        self._rows_a_shard = rows_a_shard

    def make(self, plan: Plan) -> TrainingSet:
        """Return the set of a plan.

        Raises:
            Unavailable: the cluster, or a table, cannot be reached.
        """
        cluster.look_for(self._address)
        children = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)
        )
        with children as child:
            try:
                return child.submit(_made, self._address, self._tables, plan, self._rows_a_shard).result()
            except BrokenProcessPool as error:
                raise RayAway(
                    f"Ray at {self._address} was lost while a training set was made: ask again"
                ) from error


def _made(address: str, tables: Tables, plan: Plan, rows_a_shard: int) -> TrainingSet:
    """Make a set as Ray's driver, in a process of its own."""
    ray = cluster.connected(address, distribution="trimtab-feature-store")
    task = ray.remote(max_retries=_RETRIES)(point_in_time)

    def run(shards: Iterable[Shard]) -> Iterable[Floats]:
        waiting = [task.remote(*shard) for shard in shards]
        return (ray.get(each) for each in waiting)

    try:
        return Making(tables, plan, ShardedJoin(run, rows_a_shard)).make()
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise RayAway.by(address, error) from error
