"""A legacy HTTP/JSON system plugged into a real node by its manifest: no process of ours stands between."""

from __future__ import annotations

import asyncio
import ssl
import time

import httpx
import pytest
import pytest_asyncio

from lgsp.client import CallError, ProviderUnavailableError, explain
from tests.support.certificates import self_signed
from tests.support.city import City, lgsp, running_city, until
from tests.support.legacy import running_legacy

pytestmark = pytest.mark.asyncio(loop_scope="module")
