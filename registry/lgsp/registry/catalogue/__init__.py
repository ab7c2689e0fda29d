"""The catalogue: what is on the bus, found by words, told with rights, and written as documents."""
