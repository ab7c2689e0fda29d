"""The command `lgsp`: runs a node, plugs components in, calls services, keeps the registry's records."""
