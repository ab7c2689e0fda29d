"""The registry: who is on the bus, what they offer, who may use it; one JetStream stream and what is made of it."""
