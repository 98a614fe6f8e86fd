// Package export_wasmill_plugin_subscriber reorders a product that runs low. The bindings give the package its name.
package export_wasmill_plugin_subscriber

import (
	"fmt"

	"stock/messages"
	bus "stock/wasmill_plugin_bus"
	log "stock/wasmill_plugin_log"
	subscriber "stock/wasmill_plugin_subscriber"
	types "stock/wasmill_plugin_types"

	wit "go.bytecodealliance.org/pkg/wit/types"
)

const (
	low       = 5
	reordered = 20
)

func Describe() wit.Result[subscriber.Description, string] {
	return wit.Ok[subscriber.Description, string](subscriber.Description{
		Plugin:        messages.Plugin,
		Subscriptions: []string{messages.Stock + ".Taken"},
		Shape:         types.EventShapeRecorded,
	})
}

func Handle(deliveries []types.Delivery) wit.Result[wit.Unit, types.Failure] {
	for index, delivery := range deliveries {
		bus.Begin(uint32(index))
		if err := react(uint32(index), delivery); err != nil {
			malformed := types.MakeOutcomeMalformed(err.Error())
			return wit.Err[wit.Unit](types.Failure{Index: uint32(index), Outcome: malformed})
		}
	}
	return wit.Ok[wit.Unit, types.Failure](wit.Unit{})
}

func react(index uint32, delivery types.Delivery) error {
	if delivery.Name != "Taken" || delivery.Origin.Tag() != types.OriginEvent {
		return fmt.Errorf("there is no event %s", delivery.Name)
	}
	fields, err := messages.DecodeEvent(delivery.Name, delivery.Payload.SomeOr(nil))
	if err != nil {
		return err
	}
	left, err := messages.Left(delivery.Name, fields)
	if err == nil && left < low {
		reorder(index, delivery.Origin.Event().AggregateId, left)
	}
	return err
}

func reorder(cause uint32, product string, left int64) {
	log.Write(log.LevelInfo, messages.Stock, "reorders", []log.Field{
		{Name: "product", Value: product},
		{Name: "left", Value: fmt.Sprint(left)},
	})
	bus.SendCommand(cause, bus.OutgoingCommand{
		AggregateType: messages.Stock,
		AggregateId:   product,
		Name:          "Receive",
		Payload:       fmt.Appendf(nil, `{"quantity":%d}`, reordered),
	})
}
