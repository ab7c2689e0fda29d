"""The provider SDK: serve one or several contracts, register them, keep the lease, drain on the way out."""

from lgsp.adapters.manifest import Component, ManifestError, compile_contract, load
from lgsp.adapters.protocol import Adapter, Callers, caller
from lgsp.adapters.provider import Provider
from lgsp.adapters.run import run

__all__ = ["Adapter", "Callers", "Component", "ManifestError", "Provider", "caller", "compile_contract", "load", "run"]
