"""Arrow's IPC format, whichever of its two forms somebody wrote."""

import pyarrow as pa

_FILE_MAGIC = b"ARROW1"


def table_of(content: bytes) -> pa.Table:
    """Return the table in an Arrow IPC file or stream.

    Raises:
        pyarrow.ArrowException: it is neither.
    """
    reading = pa.ipc.open_file if content.startswith(_FILE_MAGIC) else pa.ipc.open_stream
    with reading(pa.BufferReader(content)) as reader:
        return reader.read_all()
