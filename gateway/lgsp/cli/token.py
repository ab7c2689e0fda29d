"""`lgsp token`: an access token for tools that cannot make one (curl, generic gRPC clients)."""

from __future__ import annotations

import ssl

import click

from lgsp import client
from lgsp.cli.output import fail, print_json
from lgsp.cli.session import Session, json_option, session_options
from lgsp.client.tokens import SyncTokens


@click.command()
@session_options
@json_option
def token(session: Session, as_json: bool) -> None:
    """Print an access token: it lives for five minutes at most. Keep it out of files and command lines that others see.

    \b
    Example:
      TOKEN=$(lgsp token --as H26.3/one-stop-shop)
      curl --cacert ca.pem -H "authorization: Bearer $TOKEN" https://127.0.0.1:8443/hanoi.parks.v1.ParkService/v1/parks/1
    """
    try:
        identity = client.Identity.load(session.system, session.key)
    except (OSError, ValueError) as error:
        fail(f"the key of {session.system} cannot be used: {error}", "Name a file with one private JWK by --key.")
    trust = ssl.create_default_context(cafile=str(session.ca) if session.ca is not None else None)
    tokens = SyncTokens(identity, f"https://{session.target}/oauth2/token", trust)
    try:
        value = tokens.get()
    finally:
        tokens.close()
    if as_json:
        print_json({"access_token": value, "system": session.system})
    else:
        click.echo(value)
