"""The Confluent wire format: which schema a record names, and where its message lies."""

import pytest
from trimtab_formats.confluent import read_path, split
from trimtab_formats.errors import Malformed


def test_a_record_names_its_schema() -> None:
    assert split(b"\0\0\0\1\2rest") == (258, b"rest")
    assert split(b"\0\x7f\xff\xff\xff") == (2**31 - 1, b"")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "it has 0 bytes"),
        (b"\0\0\0\1", "it has 4 bytes, and a schema's id needs 5"),
        (b'{"id": 1}', "it begins with byte 0x7b"),
        (b"\0\xff\xff\xff\xff", "the id of its schema would be -1"),
    ],
)
def test_a_record_that_names_none_says_why(value: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        split(value)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"\0x", (0,)),
        (b"\x02\0x", (0,)),
        (b"\x02\x04x", (2,)),
        (b"\x04\x02\0x", (1, 0)),
        (b"\x02\x80\x01x", (64,)),
    ],
)
def test_the_path_to_a_message_is_zigzag_numbers_and_the_first_message_a_single_byte(
    body: bytes, path: tuple[int, ...]
) -> None:
    assert read_path(body) == (path, b"x")


@pytest.mark.parametrize("body", [b"", b"\x02", b"\x04\0", b"\x01", b"\xff" * 20, b"\xfe\xff\x03"])
def test_what_is_no_path_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        read_path(body)
