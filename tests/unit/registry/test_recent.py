"""What is kept is what was used last."""

from lgsp.registry.recent import Recent


def test_the_longest_unused_goes_first():
    recent = Recent(10)
    recent.put("a", b"1234")
    recent.put("b", b"1234")
    assert recent.get("a") == b"1234"
    recent.put("c", b"1234")
    assert [recent.get(name) for name in "abc"] == [b"1234", None, b"1234"]


def test_replacing_counts_once_and_what_is_too_large_is_not_kept():
    recent = Recent(10)
    for _ in range(5):
        recent.put("a", b"12345678")
    assert recent.get("a") == b"12345678"
    recent.put("b", b"x" * 11)
    assert recent.get("b") is None
    assert recent.get("a") is None
