"""What schemathesis does with a host beside its own checks.

It keeps requests from holding up the run or from writing outside of the test's folder, and it checks what no document can
say: the host never fails, every refusal is a problem in words of the API, and no client gets further than its scopes.

Environment:
  WASMILL_FUZZ_SCOPES  the scopes of the client, separated by commas; without it the host asks for none
  WASMILL_FUZZ_FOLDER  the folder for backups
"""

import itertools
import json
import os
import re

import schemathesis

SCOPES = os.environ.get("WASMILL_FUZZ_SCOPES")
GRANTED = None if SCOPES is None else set(filter(None, SCOPES.split(",")))
FOLDER = os.environ["WASMILL_FUZZ_FOLDER"]

# The longest wait of a request.
TIMEOUT_MS = 20

# Problems of a host that does its work: it is not at fault, and the request may be sent again.
TEMPORARY = {"busy", "no-room", "not-caught-up", "position-not-reached", "too-many-bytes"}

# Problems that are found before a client's scopes count.
BEFORE_SCOPES = {"malformed-request", "no-such-path", "method-not-allowed", "body-too-long"}

# The words of plugins are theirs.
OF_PLUGINS = {"malformed-command", "command-rejected", "malformed-query"}

# Words of frameworks.
FOREIGN = re.compile(r"deserializ|serde|axum|hyper|expected struct|invalid type|at line \d+ column|Failed to|::|\bfield `", re.I)

# Real names, so that requests get further than to a name that does not exist.
NAMES = {
    "type": ["order", "household"],
    "projection": ["sales"],
    "subscriptions": ["warehouse"],
    "projections": ["sales"],
    "plugins": ["orders", "sales", "warehouse"],
}
# What an order may have, so that some are accepted.
ITEM = {"product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0}

NUMBERS = itertools.count(1)

IDS = ["1", "2", "a%2Fb", "%C3%A4%20%C3%B6"]


LINES = [
    {"type": "order", "aggregate_id": "lines", "name": "CreateOrder", "payload": None},
    {"type": "order", "aggregate_id": "lines", "name": "ConfirmOrder", "expected_version": "any"},
    {"type": "household", "aggregate_id": "7", "name": "Nothing", "idempotency_key": "k"},
    {"type": "nobody", "aggregate_id": "", "name": ""},
    {"type": "order"},
    [],
]


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """Makes lines of which some are commands, some are nearly commands, and one is anything."""
    text = value if isinstance(value, str) else json.dumps(value)
    known = [json.dumps(line) for line in LINES[: len(text) % (len(LINES) + 1)]]
    return "\n".join([*known, text]).encode(errors="replace")


@schemathesis.hook
def before_call(ctx, case, **kwargs):
    parameters = {parameter.name for parameter in case.operation.query}
    query = dict(case.query or {})
    if "timeout_ms" in parameters and is_long(query.get("timeout_ms")):
        wait = case.operation.definition.raw.get("operationId", "").startswith("send_command") and "wait" not in query
        query.pop("timeout_ms", None)
        if not wait:
            query["timeout_ms"] = TIMEOUT_MS
    # A stream that follows ends with its client.
    if str(query.get("follow", "")).lower() == "true":
        query["follow"] = "false"
    if query != (case.query or {}):
        case.query = query
    if case.path_parameters:
        case.path_parameters = {name: real(case, name, value) for name, value in case.path_parameters.items()}
    if case.path.endswith("/CreateOrder") and next(NUMBERS) % 2:
        case.path_parameters = {"id": f"new-{next(NUMBERS)}"}
    # Most commands are new, and a few are repeated.
    key = (case.headers or {}).get("idempotency-key")
    if key and len(key) < 200 and next(NUMBERS) % 4:
        case.headers["idempotency-key"] = f"{key}-{next(NUMBERS)}"
    if (case.headers or {}).get("x-expected-version") and next(NUMBERS) % 4:
        case.headers["x-expected-version"] = "any"
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("items"), list) and next(NUMBERS) % 4:
        case.body = {**body, "items": [ITEM] * max(1, min(3, len(body["items"])))}
    if case.path == "/v1/store/backup" and isinstance(body, dict) and str(body.get("file", "")).startswith("/"):
        case.body = {**body, "file": os.path.join(FOLDER, format(abs(hash(body["file"])), "x"))}


def is_long(wait):
    """Whether a wait is too long for a test: also the default one."""
    if wait is None:
        return True
    return re.fullmatch(r"\d+", str(wait)) is not None and TIMEOUT_MS < int(wait) <= 3_600_000


def real(case, name, value):
    """Puts a real name in the place of every other one."""
    segments = case.path.split("/")
    before = segments[segments.index("{" + name + "}") - 1] if "{" + name + "}" in segments else ""
    names = IDS if name == "id" else NAMES.get(name) or NAMES.get(before)
    if not names or not isinstance(value, str) or len(value) % 2 == 0:
        return value
    return names[len(value) // 2 % len(names)]


@schemathesis.check
def the_host_never_fails(ctx, response, case):
    if response.status_code < 500:
        return
    if case.path == "/v1/ready" and response.status_code == 503:
        return
    kind = problem(response).get("type", "").rsplit(":", 1)[-1]
    assert response.status_code != 500 and kind in TEMPORARY, f"the host failed: {response.status_code} {kind}"


@schemathesis.check
def every_refusal_is_a_problem(ctx, response, case):
    if response.status_code < 400 or (case.path == "/v1/ready" and response.status_code == 503):
        return
    found = problem(response)
    known = case.operation.schema.raw_schema["components"]["schemas"]["Problem"]["properties"]["type"]["examples"]
    assert found["type"] in known, f"no such kind of problem: {found}"
    assert found["status"] == response.status_code and found["title"] and found["detail"], f"an empty problem: {found}"
    if found["type"].rsplit(":", 1)[-1] not in OF_PLUGINS:
        foreign = FOREIGN.search(found["detail"])
        assert not foreign, f"the words of a framework: {foreign.group()!r} in {found['detail']!r}"


@schemathesis.check
def the_scope_is_kept(ctx, response, case):
    if GRANTED is None:
        assert response.status_code not in (401, 403), f"an open host refuses: {response.text}"
        return
    # Each way to say who sends a request names the same scope.
    needed = {scope for way in case.operation.definition.raw["security"] for scopes in way.values() for scope in scopes}
    # What follows from a command are events.
    if (case.query or {}).get("wait") == "flow":
        needed.add("read")
    refused = response.status_code in (401, 403)
    if needed <= GRANTED:
        assert not refused, f"{needed} is granted, and the host refuses: {response.text}"
    elif not refused:
        kind = problem(response).get("type", "").rsplit(":", 1)[-1] if response.status_code >= 400 else ""
        assert kind in BEFORE_SCOPES, f"{needed} is not granted, and the host answers {response.status_code}"


def problem(response):
    """Returns the problem that an answer has."""
    kinds = response.headers.get("content-type") or [""]
    assert kinds[0] == "application/problem+json", f"a refusal that is {kinds[0]!r}: {response.text[:200]!r}"
    return json.loads(response.content)
