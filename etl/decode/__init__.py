"""From the bytes of a response to items, and from the bytes of an item to values; pure."""
