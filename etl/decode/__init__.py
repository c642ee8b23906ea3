"""Decoding: split the bytes of a response into items, and parse the bytes of an item. Pure: no I/O."""
