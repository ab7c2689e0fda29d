"""`lgsp demo`: the bus at work on real administrative data and a synthetic population, each claim shown by a call."""
