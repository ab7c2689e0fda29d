"""The guard of masked methods: a Lua filter that passes on what a caller's view names and refuses what it cannot read.

proto_api_scrubber 1.40 lets pass whole what it does not understand: unknown fields, malformed messages, answers with another
status or content type, and it leaves empty messages where something was. The guard stands behind it and is closed there.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from importlib import resources
from typing import Any, Final

from lgsp.adapters.masking import Tree, tree_of
from lgsp.api.errors import TABLE
from lgsp.api.errors.table import make_status
from lgsp.gateway.xds.policy import MethodPolicy, View
from lgsp.gateway.xds.refusals import json_body
from lgsp.registry.masks import with_keys

_LUA: Final = "type.googleapis.com/envoy.extensions.filters.http.lua.v3"
_PLAIN: Final = re.compile(r"[A-Za-z0-9 ./_+=:,-]")


def in_chain() -> dict[str, Any]:
    """The filter's place in the listener's chain; a route without a script of its own has none."""
    return {"@type": f"{_LUA}.Lua"}


def per_route(service: str, method: MethodPolicy) -> dict[str, Any]:
    """The guard of one method."""
    streaming = f"local streaming = {str(method.streaming).lower()}"
    source = f"{streaming}\n{_views(method.views)}\n{_fault(f'{service}/{method.name}')}\n{_script()}"
    return {"@type": f"{_LUA}.LuaPerRoute", "source_code": {"inline_string": source}}


@cache
def _script() -> str:
    return resources.files(__package__).joinpath("guard.lua").read_text("utf-8")


def _views(views: tuple[View, ...]) -> str:
    trees = ",\n  ".join("true" if view.whole else _tree(tree_of(with_keys(view.leaves))) for view in views)
    # One text, not a table: a script may have 65,536 constants, and a service more consumers.
    callers = "".join(
        f"{consumer}\t{purpose}\n{number}\n"
        for number, view in enumerate(views, 1)
        for consumer, purpose in view.viewers
    )
    return f"local views = {{\n  {trees}\n}}\nlocal callers = {_quoted(callers)}"


def _tree(tree: Tree) -> str:
    parts = (f"[{number}]={'true' if below is None else _tree(below)}" for number, below in sorted(tree.items()))
    return f"{{{','.join(parts)}}}"


def _fault(method: str) -> str:
    reason = TABLE["PROVIDER_FAULT"]
    details = base64.b64encode(make_status(reason, reason.message).SerializeToString(deterministic=True))
    fields = {
        "method": method,
        "reason": reason.name,
        "code": str(reason.code.value[0]),
        "message": f"{reason.name}: {reason.message}",
        "details": details.decode().rstrip("="),
        "body": json.dumps(json_body(reason)) + "\n",
    }
    return f"local fault = {{{', '.join(f'{key} = {_quoted(value)}' for key, value in fields.items())}}}"


def _quoted(text: str) -> str:
    """A Lua string that reads as the same bytes."""
    escaped = "".join(letter if _PLAIN.fullmatch(letter) else _escaped(letter) for letter in text)
    return f'"{escaped}"'


def _escaped(letter: str) -> str:
    return "".join(f"\\{byte:03d}" for byte in letter.encode())
