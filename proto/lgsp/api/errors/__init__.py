"""The one table of stable reasons with which the bus refuses a call, and the errors that carry them."""

from lgsp.api.errors.table import DOMAIN, TABLE, BusError, Fault, Reason, reason_of, status_of

__all__ = ["DOMAIN", "TABLE", "BusError", "Fault", "Reason", "reason_of", "status_of"]
