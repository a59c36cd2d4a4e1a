"""Keeps event streams out of the run: they are no JSON."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        body.pop("stream", None)
    return body
