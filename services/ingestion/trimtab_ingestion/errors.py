"""What ingestion refuses at its gRPC door; a bad row that fits a record is no error but a dead letter."""

from trimtab_contracts.topics import MOST_ROW_BYTES
from trimtab_runtime.errors import Rejected


class RowTooLarge(Rejected):
    """A row is more than a record may hold; no row of its request was taken."""

    def __init__(self, place: int, size: int) -> None:
        super().__init__(
            f"rows[{place}] has {size} bytes and a row may have {MOST_ROW_BYTES}: "
            "send a reference to what is large, and not the thing itself"
        )
