"""Simulation and meter read the same lines, and none but those that say when the call came."""

from __future__ import annotations

import json

from examples import IMAGES_ROUTES, images, read

from marketplace_constructs.policy.access_logs import log_of
from marketplace_constructs.policy.evaluation import expand
from marketplace_constructs.policy.simulation import judged_lines
from marketplace_constructs.queries.log_lines import read_line
from marketplace_constructs.queries.usage import UNPARSABLE

LINE = {
    "requestTimeEpoch": "1796126400000",
    "extendedRequestId": "one=",
    "httpMethod": "GET",
    "resourcePath": "/v1/images/{id}",
    "status": "200",
    "errorResponseType": "-",
    "responseLength": "300000000",
    "responseLatency": "20",
    "integrationLatency": "10",
    "agreement": "agmt-one",
    "plan": "image-retail@2",
}


VALUES = ("-", "", None, "0", "-1", "1e3", "1.5", "00", " 7", "9" * 18, "9" * 19, "text", 7)


def test_what_the_meter_cannot_read_is_not_simulated_either() -> None:
    lines: list[dict[str, object]] = [
        {**LINE, "extendedRequestId": f"{name}-{number}=", name: value}
        for name in LINE
        for number, value in enumerate(VALUES)
    ]
    pool = read(images())
    table = expand(pool, pool.plans["image-retail@2"].document, IMAGES_ROUTES).table
    with log_of(lines) as log:
        unread = {one.line for one in judged_lines(log, table) if one.state == UNPARSABLE}
    assert unread == {n for n, line in enumerate(lines) if read_line(json.dumps(line).encode()) is None}
    assert len(unread) > len(VALUES)
