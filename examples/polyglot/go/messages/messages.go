// Package messages has the commands and events of a stock: their schemas, and how payloads are read and written.
package messages

import (
	"encoding/json"
	"fmt"
	"math"

	types "stock/wasmill_plugin_types"

	wit "go.bytecodealliance.org/pkg/wit/types"
)

const Stock = "stock-go"

var Plugin = types.Identity{Name: Stock, Version: "0.1.0"}

var (
	quantity = wit.Some(`{"type":"object","properties":{"quantity":{"type":"integer","minimum":1,"maximum":1000000}},` +
		`"required":["quantity"]}`)
	taken = wit.Some(`{"type":"object","properties":{"quantity":{"type":"integer","minimum":1,"maximum":1000000},` +
		`"left":{"type":"integer","minimum":0}},"required":["quantity","left"]}`)

	Commands = []types.MessageType{{Name: "Receive", Schema: quantity}, {Name: "Take", Schema: quantity}}
	Events   = []types.MessageType{{Name: "Received", Schema: quantity}, {Name: "Taken", Schema: taken}}
)

// Fields are the fields of a payload, which is an object.
type Fields map[string]json.RawMessage

func Decode(name string, payload []byte) (fields Fields, err error) {
	if err = json.Unmarshal(payload, &fields); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return fields, err
}

// DecodeEvent decodes an event of version 1, the only one that this code knows.
func DecodeEvent(name string, payload []byte) (Fields, error) {
	fields, err := Decode(name, payload)
	if version, found := fields["@schema"]; found && string(version) != "1" {
		return nil, fmt.Errorf("%s: this code knows schema version 1, and the event has %s", name, version)
	}
	return fields, err
}

// Quantity returns the quantity of a command or an event.
func Quantity(name string, fields Fields) (int64, error) {
	return integer(name, fields, "quantity", 1, 1_000_000)
}

// Left returns what is left after an event, or in a state.
func Left(name string, fields Fields) (int64, error) {
	return integer(name, fields, "left", 0, math.MaxInt64)
}

func integer(name string, fields Fields, field string, least, most int64) (int64, error) {
	var number *int64
	if err := json.Unmarshal(fields[field], &number); err != nil || number == nil || *number < least || *number > most {
		return 0, fmt.Errorf("%s: `%s` must be an integer from %d to %d", name, field, least, most)
	}
	return *number, nil
}
