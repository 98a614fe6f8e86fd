package peer;

import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Baskets become orders (a store), whose events go into a topic; by household they become totals (a store), and a household that becomes
 * loyal goes into the topic of notifications. Exactly once.
 *
 * <p>Arguments: brokers, application id, topics of baskets, of events and of notifications, commit interval in ms, folder of the stores.
 */
public final class App {
    private static final AtomicBoolean FIRST = new AtomicBoolean();

    private App() {}

    /** Prints the time of the first record, and the milliseconds of CPU until then. */
    private static void first() {
        if (!FIRST.get() && FIRST.compareAndSet(false, true)) {
            long cpu = ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
            System.out.println("FIRST " + System.currentTimeMillis() + " " + cpu / 1_000_000);
            System.out.flush();
        }
    }

    /** Decides about a basket, as the aggregate `order` of the example does. */
    static final class PlaceOrder implements Processor<String, Json.Basket, String, Json.OrderEvent> {
        private ProcessorContext<String, Json.OrderEvent> context;
        private KeyValueStore<String, Json.OrderState> orders;

        @Override
        public void init(ProcessorContext<String, Json.OrderEvent> given) {
            context = given;
            orders = given.getStateStore("orders");
        }

        @Override
        public void process(Record<String, Json.Basket> record) {
            Json.Basket basket = record.value();
            if (orders.get(record.key()) != null) {
                return; // already decided
            }
            String reason = basket.items() == null || basket.items().isEmpty() ? "no items" : null;
            long units = 0;
            long cents = 0;
            if (reason == null) {
                for (Json.Item item : basket.items()) {
                    if (item.quantity() < 1) {
                        reason = "quantity below 1: " + item.product_id();
                        break;
                    }
                    units += item.quantity();
                    cents += item.amount_cents();
                }
            }
            boolean isPlaced = reason == null;
            int lines = basket.items() == null ? 0 : basket.items().size();
            if (!isPlaced) {
                units = 0;
                cents = 0;
            }
            String status = isPlaced ? "placed" : "refused";
            orders.put(record.key(), new Json.OrderState(status, basket.household_id(), lines, units, cents));
            String type = isPlaced ? "OrderPlaced" : "OrderRefused";
            context.forward(record.withValue(new Json.OrderEvent(
                    type, basket.basket_id(), basket.household_id(), basket.store_id(), basket.placed_at(), lines, units, cents, reason)));
        }
    }

    /** Adds an order to its household. */
    static final class Total implements Processor<String, Json.OrderEvent, String, Json.Loyal> {
        private static final long LOYAL_FROM_CENTS = 50_000;
        private ProcessorContext<String, Json.Loyal> context;
        private KeyValueStore<String, Json.Household> households;

        @Override
        public void init(ProcessorContext<String, Json.Loyal> given) {
            context = given;
            households = given.getStateStore("households");
        }

        @Override
        public void process(Record<String, Json.OrderEvent> record) {
            Json.OrderEvent event = record.value();
            Json.Household before = households.get(record.key());
            if (before == null) {
                before = new Json.Household(0, 0, 0, false);
            }
            long cents = before.cents() + event.cents();
            boolean loyal = cents >= LOYAL_FROM_CENTS;
            households.put(record.key(), new Json.Household(before.orders() + 1, before.units() + event.units(), cents, loyal));
            if (loyal && !before.loyal()) {
                context.forward(record.withValue(new Json.Loyal("HouseholdBecameLoyal", record.key(), cents, event.orderId())));
            }
        }
    }

    private static Topology topology(String in, String events, String out) {
        Serde<String> text = Serdes.String();
        Serde<Json.Basket> baskets = Serdes.serdeFrom((topic, value) -> Json.bytes(value), (topic, bytes) -> {
            first();
            return Json.parse(bytes, Json.Basket.class);
        });
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore("orders"), text, Json.serde(Json.OrderState.class))
                .withCachingEnabled());
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore("households"), text, Json.serde(Json.Household.class))
                .withCachingEnabled());
        Serde<Json.OrderEvent> event = Json.serde(Json.OrderEvent.class);
        KStream<String, Json.OrderEvent> decided =
                builder.stream(in, Consumed.with(text, baskets)).process(PlaceOrder::new, "orders");
        decided.to(events, Produced.with(text, event));
        decided.filter((key, value) -> value.type().equals("OrderPlaced"))
                .selectKey((key, value) -> value.householdId())
                .repartition(Repartitioned.with(text, event).withName("household").withNumberOfPartitions(6))
                .process(Total::new, "households")
                .to(out, Produced.with(text, Json.serde(Json.Loyal.class)));
        return builder.build();
    }

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, args[1]);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, args[5]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, args[6]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put("auto.offset.reset", "earliest");
        KafkaStreams streams = new KafkaStreams(topology(args[2], args[3], args[4]), properties);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(20))));
        streams.start();
        Thread.currentThread().join();
    }
}
