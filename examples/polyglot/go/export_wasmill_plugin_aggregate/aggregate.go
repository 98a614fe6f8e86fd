// Package export_wasmill_plugin_aggregate is the aggregate: the stock of a product. The bindings give the package its name.
package export_wasmill_plugin_aggregate

import (
	"errors"
	"fmt"
	"runtime"

	"stock/messages"
	aggregate "stock/wasmill_plugin_aggregate"
	types "stock/wasmill_plugin_types"

	wit "go.bytecodealliance.org/pkg/wit/types"
)

func Describe() wit.Result[aggregate.Description, string] {
	stock := aggregate.AggregateType{Name: messages.Stock, Commands: messages.Commands, Events: messages.Events}
	return wit.Ok[aggregate.Description, string](aggregate.Description{
		Plugin:         messages.Plugin,
		AggregateTypes: []aggregate.AggregateType{stock},
	})
}

// Upcast returns the payloads as they are: all events have version 1, so there is nothing to migrate.
func Upcast(aggregateType string, events []types.RecordedPayload) []wit.Result[[]byte, string] {
	results := make([]wit.Result[[]byte, string], len(events))
	for index, event := range events {
		if _, err := messages.DecodeEvent(event.Name, event.Payload); err != nil {
			results[index] = wit.Err[[]byte](err.Error())
		} else {
			results[index] = wit.Ok[[]byte, string](event.Payload)
		}
	}
	return results
}

// Instance is a live aggregate: the stock of one product.
type Instance struct {
	left int64
	held []types.NewEvent // The events of the previous command.

	// The bindings use these.
	pinner runtime.Pinner
	handle int32
}

func MakeInstance(aggregateType, id string) *Instance {
	return &Instance{}
}

func (stock *Instance) OnDrop() {}

func (stock *Instance) Apply(events []types.RecordedEvent) wit.Result[wit.Unit, types.Failure] {
	stock.held = nil // If there were any, they are the first of these.
	for index, event := range events {
		if err := stock.record(event.Name, event.Payload); err != nil {
			return wit.Err[wit.Unit](types.Failure{Index: uint32(index), Outcome: outcome(err)})
		}
	}
	return wit.Ok[wit.Unit, types.Failure](wit.Unit{})
}

func (stock *Instance) Handle(command types.Command) wit.Result[[]types.NewEvent, types.Outcome] {
	stock.recordHeld()
	event, err := stock.decide(command.Name, command.Payload)
	if err != nil {
		return wit.Err[[]types.NewEvent](outcome(err))
	}
	stock.held = []types.NewEvent{event}
	return wit.Ok[[]types.NewEvent, types.Outcome](stock.held)
}

func (stock *Instance) Snapshot() wit.Option[[]byte] {
	stock.recordHeld()
	return wit.Some(fmt.Appendf(nil, `{"left":%d}`, stock.left))
}

func (stock *Instance) Restore(state []byte, version uint64) wit.Result[wit.Unit, string] {
	fields, err := messages.Decode("state", state)
	if err != nil {
		return wit.Err[wit.Unit](err.Error())
	}
	left, err := messages.Left("state", fields)
	if err != nil {
		return wit.Err[wit.Unit](err.Error())
	}
	stock.left = left
	return wit.Ok[wit.Unit, string](wit.Unit{})
}

func (stock *Instance) decide(name string, payload []byte) (event types.NewEvent, err error) {
	if name != "Receive" && name != "Take" {
		return event, fmt.Errorf("there is no command %s", name)
	}
	fields, err := messages.Decode(name, payload)
	if err != nil {
		return event, err
	}
	quantity, err := messages.Quantity(name, fields)
	if err != nil {
		return event, err
	}
	if name == "Receive" {
		return types.NewEvent{Name: "Received", Payload: fmt.Appendf(nil, `{"quantity":%d}`, quantity)}, nil
	}
	left := stock.left - quantity
	if left < 0 {
		return event, rejected(fmt.Sprintf("only %d left", stock.left))
	}
	return types.NewEvent{Name: "Taken", Payload: fmt.Appendf(nil, `{"quantity":%d,"left":%d}`, quantity, left)}, nil
}

func (stock *Instance) record(name string, payload []byte) error {
	fields, err := messages.DecodeEvent(name, payload)
	if err != nil {
		return err
	}
	switch name {
	case "Received":
		var quantity int64
		quantity, err = messages.Quantity(name, fields)
		stock.left += quantity
	case "Taken":
		stock.left, err = messages.Left(name, fields)
	default:
		err = fmt.Errorf("there is no event %s", name)
	}
	return err
}

func (stock *Instance) recordHeld() {
	for _, event := range stock.held {
		if err := stock.record(event.Name, event.Payload); err != nil {
			panic(err) // It made this event itself.
		}
	}
	stock.held = nil
}

// rejected is the reason why a business rule refuses a command. Any other error is an input that does not decode.
type rejected string

func (reason rejected) Error() string { return string(reason) }

func outcome(err error) types.Outcome {
	if reason := rejected(""); errors.As(err, &reason) {
		return types.MakeOutcomeRejected(err.Error())
	}
	return types.MakeOutcomeMalformed(err.Error())
}
