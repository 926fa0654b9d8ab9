"""Which of several versions answers: a decision of the rollout and the row's key alone.

The same key gets the same arm for as long as a rollout lasts, on every instance; as
the share grows, keys only ever move from the champion to the challenger, and where a
version leaves an A/B test its keys alone move, to the champion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Arms:
    """A rollout's split of the keys: `share` percent of them go to the challenger."""

    rollout_id: str
    share: int
    bounds: tuple[tuple[int, int], ...] = ()
    """Of an A/B test of several versions: each, by number, and before which percent its keys end."""

    @classmethod
    def of(cls, rollout_id: str, strategy: str, share: int, among: Sequence[tuple[int, int]] = ()) -> "Arms":
        """Return the split of a rollout; only a canary and an A/B test give a challenger any.

        `among` are the versions with which an A/B test of several began, by number, and their shares.
        """
        ends = accumulate(share for _, share in among)
        bounds = tuple((number, end) for (number, _), end in zip(among, ends, strict=True))
        return cls(rollout_id, share if strategy in ("canary", "ab") else 0, bounds)

    def version_for(self, key: str) -> int:
        """Return which of several versions the row with this key is for, by number; 0 for the champion."""
        percent = self._percent(key)
        return next((number for number, end in self.bounds if percent < end), 0)

    def challenger_answers(self, key: str) -> bool:
        """Return whether the row with this key of its source gets the challenger's answer."""
        if self.share <= 0:
            return False
        if self.share >= 100:
            return True
        return self._percent(key) < self.share

    def _percent(self, key: str) -> int:
        digest = blake2b(key.encode(), digest_size=8, key=self.rollout_id.encode()[:64]).digest()
        return int.from_bytes(digest) % 100


NOBODY = Arms("", 0)
"""Without a rollout."""
