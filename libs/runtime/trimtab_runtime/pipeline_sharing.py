"""How the members of a pipeline's group share its partitions out.

A member keeps what it holds as long as that is no more than its share, so that a rebalance moves, and restores,
as little as can be.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


def share_out(
    wanted: Mapping[str, Collection[str]],
    held: Mapping[str, Collection[TopicPartition]],
    partitions: Collection[TopicPartition],
) -> dict[str, list[TopicPartition]]:
    """Return each member's partitions: of topics it wants, in equal number, first of all those it holds.

    Args:
        wanted: topics by member.
        held: what each member has worked on until now.
        partitions: all there are to share.
    """
    shares: dict[str, list[TopicPartition]] = {member: [] for member in sorted(wanted)}
    least, larger_shares = divmod(len(partitions), len(shares))
    free = set(partitions)
    for member, share in shares.items():
        keep = [place for place in held.get(member, ()) if place in free and place.topic in wanted[member]]
        larger = len(keep) > least and larger_shares > 0
        larger_shares -= larger
        share += keep[: least + larger]
        free.difference_update(share)
    for place in sorted(free):
        takers = [member for member in shares if place.topic in wanted[member]]
        if takers:
            shares[min(takers, key=lambda member: len(shares[member]))].append(place)
    return shares


class Sharing:
    """`share_out` as aiokafka asks for it; one for each consumer, as `held` is this process's own."""

    name = "trimtab-sticky"

    def __init__(self, held: Callable[[], Iterable[TopicPartition]]) -> None:
        self._held = held

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return what this member tells the group's leader."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), json.dumps(sorted(self._held())).encode())

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return each member's part, as the group's leader."""
        wanted = {member: set(told.subscription) for member, told in members.items()}
        held = {
            member: [TopicPartition(*place) for place in json.loads(told.user_data or b"[]")]
            for member, told in members.items()
        }
        topics = sorted(set().union(*wanted.values()))
        places = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(cluster.partitions_for_topic(topic) or ())
        ]
        return {member: _message(share) for member, share in share_out(wanted, held, places).items()}

    def on_assignment(self, assignment: Any) -> None:
        """Nothing is remembered here: what is held is known by who holds it."""


def _message(share: Iterable[TopicPartition]) -> Any:
    by_topic: dict[str, list[int]] = {}
    for place in share:
        by_topic.setdefault(place.topic, []).append(place.partition)
    return ConsumerProtocolMemberAssignment(0, list(by_topic.items()), b"")
