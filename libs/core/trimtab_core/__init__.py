"""What Trimtab decides: pure functions over plain data, no I/O, no clock."""
