"""The roles of the plugin: the aggregate, and a subscriber that reorders a product that runs low."""

from componentize_py_types import Err, Ok, Result
from messages import COMMANDS, EVENTS, LEFT, STOCK, decode_event, encode, integer
from wit_world import exports
from wit_world.exports import aggregate, subscriber
from wit_world.imports import bus, log
from wit_world.imports.types import (
    Delivery,
    EventShape,
    Failure,
    Identity,
    Origin_Event,
    Outcome_Malformed,
    RecordedPayload,
)

PLUGIN = Identity(name=STOCK, version="0.1.0")
LOW = 5
REORDERED = 20


class Aggregate(exports.Aggregate):
    def describe(self) -> aggregate.Description:
        return aggregate.Description(PLUGIN, [aggregate.AggregateType(STOCK, COMMANDS, EVENTS, state=None)])

    def upcast(self, aggregate_type: str, events: list[RecordedPayload]) -> list[Result[bytes, str]]:
        return [upcast(event) for event in events]


class Subscriber(exports.Subscriber):
    def describe(self) -> subscriber.Description:
        return subscriber.Description(PLUGIN, [f"{STOCK}.Taken"], EventShape.RECORDED, endpoints=[])

    def handle(self, deliveries: list[Delivery]) -> None:
        for index, delivery in enumerate(deliveries):
            bus.begin(index)
            try:
                react(index, delivery)
            except ValueError as error:
                raise Err(Failure(index, Outcome_Malformed(str(error))))


def upcast(event: RecordedPayload) -> Result[bytes, str]:
    """Returns the payload as it is: all events have version 1, so there is nothing to migrate."""
    try:
        decode_event(event)
    except ValueError as error:
        return Err(str(error))
    return Ok(event.payload)


def react(index: int, delivery: Delivery) -> None:
    match delivery.name, delivery.origin:
        case "Taken", Origin_Event(origin):
            left = integer(delivery.name, decode_event(delivery), "left", LEFT)
            if left < LOW:
                reorder(index, origin.aggregate_id, left)
        case _:
            raise ValueError(f"there is no event {delivery.name}")


def reorder(cause: int, product: str, left: int) -> None:
    log.write(log.Level.INFO, STOCK, "reorders", [log.Field("product", product), log.Field("left", str(left))])
    payload = encode(quantity=REORDERED)
    command = bus.OutgoingCommand(STOCK, product, "Receive", payload, headers=[], expected_version=None, outcome=None)
    bus.send_command(cause, command)
