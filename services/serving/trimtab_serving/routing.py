"""Which of two versions answers: a decision of the rollout and the row's key alone.

The same key gets the same arm for as long as a rollout lasts, on every instance; as
the share grows, keys only ever move from the champion to the challenger.
"""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Arms:
    """A rollout's split of the keys: `share` percent of them go to the challenger."""

    rollout_id: str
    share: int

    @classmethod
    def of(cls, rollout_id: str, strategy: str, share: int) -> "Arms":
        """Return the split of a rollout; only a canary gives the challenger any."""
        return cls(rollout_id, share if strategy == "canary" else 0)

    def challenger_answers(self, key: str) -> bool:
        """Return whether the row with this key of its source gets the challenger's answer."""
        if self.share <= 0:
            return False
        if self.share >= 100:
            return True
        digest = blake2b(key.encode(), digest_size=8, key=self.rollout_id.encode()[:64]).digest()
        return int.from_bytes(digest) % 100 < self.share


NOBODY = Arms("", 0)
"""Without a rollout."""
