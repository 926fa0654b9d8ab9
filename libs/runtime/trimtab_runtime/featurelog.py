"""How a feature view's online state lies on its topic, features.<view>.

A record holds one slot of one entity's ring, or how far the fold of its partition
has come. The key names the place and the value the slot, so that the newest record
of a key is all there is to know: a reader may start anywhere before it, and may read
it twice. An entity lives in one partition, the same in keyed.<view> and here; a view
without an entity has a single row, whose entity is "".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from zlib import crc32

import msgspec
import numpy as np
from trimtab_contracts.features.v1.features_pb2 import FeatureRecord, FeatureSlot, FoldProgress, Sketch
from trimtab_core.sketches import Bins, pack, unpack
from trimtab_core.slots import FoldState


class Key(msgspec.Struct, frozen=True, array_like=True):
    """What a record's key says: whose slot it is; entity None is the fold's progress."""

    generation: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    entity: str | None
    index: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the fold of a partition has come, by partition of its input."""

    watermark_ms: Mapping[int, int]
    inputs: int
    live_from: Mapping[int, int] = field(default_factory=dict)
    """The offset in each partition of events.<source> from which on rows are folded as they come."""
    ring: int = 0
    """Slots of an entity's ring, by which the keys of the slots are made."""

    def least_ms(self) -> int | None:
        """Return the event time that all inputs have passed; None until each has said one."""
        return min(self.watermark_ms.values()) if len(self.watermark_ms) >= self.inputs > 0 else None


@dataclass(slots=True)
class Applied:
    """What some records changed."""

    changed: list[tuple[str, int]] = field(default_factory=list)
    """Entity and slot number of each slot that was read; the number is -1 where the entity was forgotten."""
    progress: Progress | None = None
    """The newest one among the records."""
    others: dict[bytes, int] = field(default_factory=dict)
    """Keys of other generations that have a value, with their generation."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Key).decode


def key(generation: int, entity: str | None, index: int) -> bytes:
    """Return the key of a slot, or of the fold's progress where `entity` is None."""
    return _encode(Key(generation, entity, index))


def parse_key(raw: bytes) -> Key:
    """Return what `key` wrote.

    Raises:
        msgspec.DecodeError: the bytes are no such key.
    """
    return _decode(raw)


def partition_of(entity: str, partitions: int) -> int:
    """Return the partition in which an entity lives."""
    return crc32(entity.encode()) % partitions


def slot_value(entity: str, slot: int, partials: Any, sketches: Sequence[Bins] = ()) -> bytes:
    """Return the value that holds a slot; `partials` is an array of floats [cells, 5]."""
    return FeatureRecord(
        slot=FeatureSlot(
            entity=entity,
            slot=slot,
            partials=partials.ravel().tolist(),
            sketches=map(_sketch, sketches),
        )
    ).SerializeToString()


def _sketch(bins: Bins) -> Sketch:
    keys, values = unpack(bins)
    return Sketch(keys=np.diff(keys, prepend=0).tolist(), values=values.tolist())


def _bins(sketch: Sketch) -> Bins:
    """Return the bins of a sketch.

    Raises:
        ValueError: it has another number of keys than of values.
    """
    return pack(np.cumsum(np.array(sketch.keys, np.int64)), np.array(sketch.values, np.int64))


def progress_value(progress: Progress) -> bytes:
    """Return the value that holds how far a fold has come."""
    return FeatureRecord(
        progress=FoldProgress(
            watermark_ms=dict(progress.watermark_ms),
            inputs=progress.inputs,
            live_from=dict(progress.live_from),
            ring=progress.ring,
        )
    ).SerializeToString()


def read_slot(value: bytes) -> FeatureSlot:
    """Return what `slot_value` wrote.

    Raises:
        DecodeError: the bytes are no such value.
    """
    return FeatureRecord.FromString(value).slot


def put(state: FoldState, slot: FeatureSlot) -> None:
    """Take a slot into `state`.

    Raises:
        ValueError: it is none of the state's layout.
    """
    state.put(slot.entity, slot.slot, np.array(slot.partials), [*map(_bins, slot.sketches)])


def read_progress(value: bytes) -> Progress:
    """Return what `progress_value` wrote.

    Raises:
        DecodeError: the bytes are no such value.
    """
    told = FeatureRecord.FromString(value).progress
    return Progress(dict(told.watermark_ms), told.inputs, dict(told.live_from), told.ring)


def apply(state: FoldState | None, records: Iterable[Any], generation: int) -> Applied:
    """Take raw records of one partition, in order, into `state`; those of other generations change nothing.

    A tombstone stands for its whole entity, for the fold removes an entity's slots together; one of the progress says
    that the generation is begun again. Without a state it is only said what the records change.
    """
    done = Applied()
    for record in records:
        place = parse_key(record.key)
        if place.generation != generation:
            if record.value is not None:
                done.others[record.key] = place.generation
            continue
        if place.entity is None:
            done.progress = Progress({}, 0) if record.value is None else read_progress(record.value)
        elif record.value is None:
            if state is not None:
                state.forget(place.entity)
            done.changed.append((place.entity, -1))
        else:
            slot = read_slot(record.value)
            if state is not None:
                put(state, slot)
            done.changed.append((slot.entity, slot.slot))
    return done
