"""The supervisor of one node: starts its parts, keeps them running, and leaves nothing behind."""
