"""What is made and kept of contracts is bounded by their bytes: 256 of 4 MiB would be gigabytes."""

from __future__ import annotations

from lgsp.registry.recent import Made


def test_what_was_not_used_longest_goes_first():
    made, asked = Made(10), []

    def of(key: str, size: int = 4) -> str:
        return made.of((key,), size, lambda: asked.append(key) or key)

    assert [of(key) for key in "ababcab"] == list("ababcab")
    assert asked == ["a", "b", "c", "a", "b"]
    assert of("large", 11) == "large"
    assert of("large", 11) == "large"
    assert asked[-2:] == ["large", "large"]  # more than all room is not kept
