"""Leases of endpoints: soft state, kept in memory, told by heartbeats. Pure; the clock is handed in.

A lease that was never heard of counts as running until the grace period after a start or an outage has passed: memory that
was lost must not empty every cluster at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


class Leases:
    """`clock` is monotonic seconds; a lease runs `ttl_s` after its last beat."""

    def __init__(self, ttl_s: float, grace_s: float, clock: Callable[[], float]) -> None:
        self.ttl_s, self.grace_s, self._clock = ttl_s, grace_s, clock
        self._beats: dict[str, float] = {}
        self._forgiven_until = clock() + grace_s
        self._told: set[str] = set()
        self._listeners: list[Callable[[frozenset[str]], None]] = []

    def beat(self, endpoint: str, age_s: float = 0.0) -> None:
        """A heartbeat, `age_s` seconds ago (as another node tells it); the latest counts."""
        at = self._clock() - age_s
        self._beats[endpoint] = max(at, self._beats.get(endpoint, at))

    def drop(self, endpoint: str) -> None:
        """The endpoint said goodbye."""
        self._beats.pop(endpoint, None)

    def forgive(self) -> None:
        """After an outage of ours: nothing expires for a grace period."""
        self._forgiven_until = self._clock() + self.grace_s

    def live(self, endpoint: str) -> bool:
        """True while the lease runs or is forgiven."""
        return self.remaining(endpoint) > 0

    def remaining(self, endpoint: str) -> float:
        """Seconds until the endpoint gets no more calls; negative when it already gets none."""
        beaten = self._beats.get(endpoint)
        until = self._forgiven_until if beaten is None else max(beaten + self.ttl_s, self._forgiven_until)
        return until - self._clock()

    def expired(self, endpoints: Iterable[str]) -> set[str]:
        """Those of `endpoints` whose lease has run out."""
        return {endpoint for endpoint in endpoints if not self.live(endpoint)}

    def listen(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Be told of the endpoints whose lease began, ran out or came back."""
        self._listeners.append(callback)

    def unlisten(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Not to be told any more."""
        self._listeners.remove(callback)

    def look(self, endpoints: Iterable[str], hearing: bool = True) -> frozenset[str]:
        """Those that turned since the last look, among all `endpoints` in being; who listens is told of them.

        While the other nodes cannot be heard (`hearing`), providers that beat there would seem to be gone: nothing expires.
        """
        if not hearing:
            self.forgive()
        live = {endpoint for endpoint in endpoints if self.live(endpoint)}
        turned, self._told = frozenset(live ^ self._told), live
        if turned:
            for callback in list(self._listeners):
                callback(turned)
        return turned

    def ages(self) -> Mapping[str, float]:
        """Seconds since each beat that is not over: what a node tells the others."""
        now = self._clock()
        return {name: now - at for name, at in self._beats.items() if now - at <= self.ttl_s}
