"""Many keys' partitions are those that a producer would choose one by one."""

import random

from aiokafka.partitioner import DefaultPartitioner
from trimtab_runtime.partitioner import partitions_of


def test_every_key_lies_where_a_producer_puts_it() -> None:
    source = random.Random(7)
    keys = [source.randbytes(length) for length in range(40) for _ in range(20)]
    choose, places = DefaultPartitioner(), list(range(7))

    assert partitions_of(keys, 7).tolist() == [choose(key, places, places) for key in keys]


def test_no_keys_have_no_partitions() -> None:
    assert partitions_of([], 3).tolist() == []
