"""A deprecated service is named in the log once for each channel, with its end and what takes its place."""

from __future__ import annotations

import logging

from lgsp.client.deprecation import Notices

TOLD = (("deprecation", "@1790000000"), ("sunset", "Fri, 29 Jun 2040 17:00:00 GMT"), ("x-request-id", "1"))


def test_each_service_is_named_once(caplog):
    notices = Notices()
    with caplog.at_level(logging.WARNING, "lgsp.client"):
        for _ in range(3):
            notices.look(b"/a.v1.S/Get", TOLD)
            notices.look("/a.v1.S/List", TOLD)
        notices.look("/b.v1.S/Get", [("deprecation", "@1"), ("link", '</b.v2.S>; rel="successor-version"')])
    assert [record.getMessage() for record in caplog.records] == [
        "a.v1.S is deprecated; it ends at Fri, 29 Jun 2040 17:00:00 GMT",
        'b.v1.S is deprecated; in its place: </b.v2.S>; rel="successor-version"',
    ]


def test_nothing_is_said_of_others(caplog):
    notices = Notices()
    notices.look("/a.v1.S/Get", None)
    notices.look("/a.v1.S/Get", [("sunset", "x")])
    assert not caplog.records
