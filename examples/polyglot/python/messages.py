"""The commands and events of a stock: their schemas, and how payloads are read and written."""

import json

from wit_world.imports.types import Delivery, MessageType, NewEvent, RecordedEvent, RecordedPayload

STOCK = "stock-python"
QUANTITY = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
LEFT = {"type": "integer", "minimum": 0}


def message_type(name: str, **properties: dict) -> MessageType:
    """Describes a command or an event by the properties of its payload."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return MessageType(name, json.dumps(schema))


COMMANDS = [message_type("Receive", quantity=QUANTITY), message_type("Take", quantity=QUANTITY)]
EVENTS = [message_type("Received", quantity=QUANTITY), message_type("Taken", quantity=QUANTITY, left=LEFT)]


def encode(**fields: int) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def decode(name: str, payload: bytes | None) -> object:
    """Returns the value of a payload. A ValueError says why it has none."""
    try:
        return json.loads((payload or b"").decode())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def decode_event(event: RecordedEvent | RecordedPayload | NewEvent | Delivery) -> object:
    """Decodes an event of version 1, the only one that this code knows."""
    value = decode(event.name, event.payload)
    version = value.get("@schema", 1) if isinstance(value, dict) else 1
    if version != 1:
        raise ValueError(f"{event.name}: this code knows schema version 1, and the event has {version}")
    return value


def integer(name: str, value: object, field: str, schema: dict) -> int:
    """Returns an integer field of a decoded payload. A ValueError says why there is none."""
    number = value.get(field) if isinstance(value, dict) else None
    least, most = schema["minimum"], schema.get("maximum")
    if type(number) is not int or number < least or (most is not None and number > most):
        bounds = f"from {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: `{field}` must be an integer {bounds}")
    return number
