"""Contracts of the bus."""
