// The stock of a product: an aggregate, and a subscriber that reorders a product that runs low.

import { begin, sendCommand } from 'wasmill:plugin/bus@1.1.0';
import { write } from 'wasmill:plugin/log@1.1.0';

const STOCK = 'stock-javascript';
const PLUGIN = { name: STOCK, version: '0.1.0' };
const LOW = 5;
const REORDERED = 20;

const QUANTITY = { type: 'integer', minimum: 1, maximum: 1_000_000 };
const LEFT = { type: 'integer', minimum: 0 };
const COMMANDS = [messageType('Receive', { quantity: QUANTITY }), messageType('Take', { quantity: QUANTITY })];
const EVENTS = [
  messageType('Received', { quantity: QUANTITY }),
  messageType('Taken', { quantity: QUANTITY, left: LEFT }),
];

/** A live aggregate: the stock of one product. */
class Instance {
  left = 0;
  held = []; // The events of the previous command.

  apply(events) {
    this.held = []; // If there were any, they are the first of these.
    each(events, (event) => this.record(event));
  }

  handle(command) {
    this.recordHeld();
    try {
      this.held = this.decide(command);
    } catch (error) {
      throw outcome(error);
    }
    return this.held;
  }

  snapshot() {
    this.recordHeld();
    return encode({ left: this.left });
  }

  restore(state) {
    try {
      this.left = integer('state', decode('state', state), 'left', LEFT);
    } catch (error) {
      throw error.message;
    }
  }

  decide({ name, payload }) {
    switch (name) {
      case 'Receive': {
        const quantity = integer(name, decode(name, payload), 'quantity', QUANTITY);
        return [{ name: 'Received', payload: encode({ quantity }) }];
      }
      case 'Take': {
        const quantity = integer(name, decode(name, payload), 'quantity', QUANTITY);
        if (quantity > this.left) throw { tag: 'rejected', val: `only ${this.left} left` };
        return [{ name: 'Taken', payload: encode({ quantity, left: this.left - quantity }) }];
      }
      default:
        throw new Malformed(`there is no command ${name}`);
    }
  }

  record(event) {
    switch (event.name) {
      case 'Received':
        this.left += integer(event.name, decodeEvent(event), 'quantity', QUANTITY);
        break;
      case 'Taken':
        this.left = integer(event.name, decodeEvent(event), 'left', LEFT);
        break;
      default:
        throw new Malformed(`there is no event ${event.name}`);
    }
  }

  recordHeld() {
    const held = this.held;
    this.held = [];
    held.forEach((event) => this.record(event));
  }
}

export const aggregate = {
  Instance,

  describe() {
    return { plugin: PLUGIN, aggregateTypes: [{ name: STOCK, commands: COMMANDS, events: EVENTS }] };
  },

  // All events have version 1, so there is nothing to migrate.
  upcast(aggregateType, events) {
    return events.map((event) => {
      try {
        decodeEvent(event);
        return { tag: 'ok', val: event.payload };
      } catch (error) {
        return { tag: 'err', val: error.message };
      }
    });
  },
};

export const subscriber = {
  describe() {
    return { plugin: PLUGIN, subscriptions: [`${STOCK}.Taken`], shape: 'recorded', endpoints: [] };
  },

  handle(deliveries) {
    each(deliveries, (delivery, index) => {
      begin(index);
      const { name, origin } = delivery;
      if (name !== 'Taken' || origin.tag !== 'event') throw new Malformed(`there is no event ${name}`);
      const left = integer(name, decodeEvent(delivery), 'left', LEFT);
      if (left < LOW) reorder(index, origin.val.aggregateId, left);
    });
  },
};

function reorder(cause, product, left) {
  write('info', STOCK, 'reorders', [
    { name: 'product', value: product },
    { name: 'left', value: String(left) },
  ]);
  const payload = encode({ quantity: REORDERED });
  sendCommand(cause, { aggregateType: STOCK, aggregateId: product, name: 'Receive', payload, headers: [] });
}

/** Handles the items of a list in order. A failure has the index of its item. */
function each(items, handle) {
  items.forEach((item, index) => {
    try {
      handle(item, index);
    } catch (error) {
      throw { index, outcome: outcome(error) };
    }
  });
}

/** An input that does not decode. */
class Malformed extends Error {}

/** Returns the outcome for what was thrown. What is thrown to the host is the error of the function's result. */
function outcome(error) {
  return error instanceof Malformed ? { tag: 'malformed', val: error.message } : error;
}

/** Describes a command or an event by the properties of its payload. */
function messageType(name, properties) {
  return { name, schema: JSON.stringify({ type: 'object', properties, required: Object.keys(properties) }) };
}

function encode(value) {
  return new TextEncoder().encode(JSON.stringify(value));
}

function decode(name, payload) {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  } catch (error) {
    throw new Malformed(`${name}: ${error.message}`);
  }
}

/** Decodes an event of version 1, the only one that this code knows. */
function decodeEvent({ name, payload }) {
  const value = decode(name, payload);
  const version = value?.['@schema'] ?? 1;
  if (version !== 1) throw new Malformed(`${name}: this code knows schema version 1, and the event has ${version}`);
  return value;
}

/** Returns an integer field of a decoded payload. */
function integer(name, value, field, { minimum, maximum = Infinity }) {
  const number = value?.[field];
  if (!Number.isSafeInteger(number) || number < minimum || number > maximum) {
    const range = maximum === Infinity ? `from ${minimum}` : `from ${minimum} to ${maximum}`;
    throw new Malformed(`${name}: \`${field}\` must be an integer ${range}`);
  }
  return number;
}
