"""OAuth2 for systems: client_credentials with private_key_jwt, RFC 9068 access tokens, introspection, revocation."""
