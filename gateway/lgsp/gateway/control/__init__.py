"""The control process: registry API, OAuth2 and xDS of one node, wired together; nothing here carries a call."""
