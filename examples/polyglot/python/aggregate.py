"""A live aggregate: the stock of one product. componentize-py looks for the resource `instance` of `aggregate` here."""

from componentize_py_types import Err
from messages import LEFT, QUANTITY, decode, decode_event, encode, integer
from wit_world.exports import aggregate
from wit_world.imports.types import (
    Command,
    Failure,
    NewEvent,
    Outcome_Malformed,
    Outcome_Rejected,
    RecordedEvent,
)


class Instance(aggregate.Instance):
    def __init__(self, aggregate_type: str, id: str) -> None:
        self.left = 0
        self.held: list[NewEvent] = []  # The events of the previous command.

    def apply(self, events: list[RecordedEvent]) -> None:
        self.held = []  # If there were any, they are the first of these.
        for index, event in enumerate(events):
            try:
                self.record(event)
            except ValueError as error:
                raise Err(Failure(index, Outcome_Malformed(str(error))))

    def handle(self, command: Command) -> list[NewEvent]:
        self.record_held()
        try:
            self.held = self.decide(command.name, command.payload)
        except ValueError as error:
            raise Err(Outcome_Malformed(str(error)))
        return self.held

    def snapshot(self) -> bytes | None:
        self.record_held()
        return encode(left=self.left)

    def restore(self, state: bytes, version: int) -> None:
        try:
            self.left = integer("state", decode("state", state), "left", LEFT)
        except ValueError as error:
            raise Err(str(error))

    def decide(self, name: str, payload: bytes) -> list[NewEvent]:
        match name:
            case "Receive":
                quantity = integer(name, decode(name, payload), "quantity", QUANTITY)
                return [NewEvent("Received", encode(quantity=quantity))]
            case "Take":
                quantity = integer(name, decode(name, payload), "quantity", QUANTITY)
                if quantity > self.left:
                    raise Err(Outcome_Rejected(f"only {self.left} left"))
                return [NewEvent("Taken", encode(quantity=quantity, left=self.left - quantity))]
            case _:
                raise ValueError(f"there is no command {name}")

    def record(self, event: RecordedEvent | NewEvent) -> None:
        match event.name:
            case "Received":
                self.left += integer(event.name, decode_event(event), "quantity", QUANTITY)
            case "Taken":
                self.left = integer(event.name, decode_event(event), "left", LEFT)
            case _:
                raise ValueError(f"there is no event {event.name}")

    def record_held(self) -> None:
        held, self.held = self.held, []
        for event in held:
            self.record(event)
