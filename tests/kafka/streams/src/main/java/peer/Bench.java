package peer;

import java.io.BufferedReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Runs {@link App} in a process of its own on the baskets of a topic, until a reader of committed records sees all orders, all
 * notifications and all totals. Prints a line of JSON. The clock starts with the first basket that is read, so the start of the process is
 * outside of all figures.
 *
 * <p>Arguments: brokers, topic of baskets, their number, and of them what must come: orders, loyal households, cents; commit interval in
 * ms; folder.
 */
public final class Bench {
    private static final int PARTITIONS = 6;
    private static final long TIME_MAX_MS = 240_000;

    private Bench() {}

    public static void main(String[] args) throws Exception {
        String brokers = args[0];
        String baskets = args[1];
        long count = Long.parseLong(args[2]);
        Expected expected = new Expected(count, Long.parseLong(args[3]), Long.parseLong(args[4]), Long.parseLong(args[5]));
        String id = "streams-" + System.currentTimeMillis();
        Path folder = Path.of(args[7], id);
        try (Admin admin = Admin.create(brokers(brokers))) {
            String events = id + "-events";
            String out = id + "-out";
            NewTopic[] topics = {new NewTopic(events, PARTITIONS, (short) 1), new NewTopic(out, PARTITIONS, (short) 1)};
            admin.createTopics(Arrays.asList(topics)).all().get();
            Process app = app(brokers, id, baskets, events, out, args[6], folder.toString());
            try {
                System.out.println(measure(brokers, app, events, out, id + "-households-changelog", expected));
            } finally {
                app.destroy();
                if (!app.waitFor(25, TimeUnit.SECONDS)) {
                    app.destroyForcibly();
                }
                List<String> own = admin.listTopics().names().get().stream().filter(name -> name.startsWith(id)).toList();
                admin.deleteTopics(own).all().get();
            }
        }
    }

    private record Expected(long baskets, long orders, long loyal, long cents) {}

    private static Properties brokers(String brokers) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", brokers);
        return properties;
    }

    private static Process app(String... args) throws Exception {
        List<String> command = new ArrayList<>(List.of(
                System.getProperty("java.home") + "/bin/java",
                "-Xmx1g",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                "-cp",
                System.getProperty("java.class.path"),
                "peer.App"));
        command.addAll(List.of(args));
        return new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
    }

    /** Returns the words of the line that tells of the first basket. */
    private static String[] first(BufferedReader lines) throws Exception {
        while (true) {
            String line = lines.readLine();
            if (line == null) {
                throw new IllegalStateException("the application has ended");
            }
            if (line.startsWith("FIRST")) {
                return line.split(" ");
            }
        }
    }

    private static String measure(
            String brokers, Process app, String events, String out, String totals, Expected expected) throws Exception {
        Properties properties = brokers(brokers);
        properties.put("isolation.level", "read_committed");
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("max.poll.records", "5000");
        BufferedReader lines = app.inputReader();
        String[] first = first(lines);
        long began = Long.parseLong(first[1]);
        double cpuBefore = Long.parseLong(first[2]) / 1000.0;
        long placed = 0;
        long refused = 0;
        long loyal = 0;
        long half = 0;
        Map<String, byte[]> households = new HashMap<>();
        try (KafkaConsumer<String, byte[]> consumer =
                new KafkaConsumer<>(properties, new StringDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (String topic : List.of(events, out, totals)) {
                for (int partition = 0; partition < PARTITIONS; partition++) {
                    partitions.add(new TopicPartition(topic, partition));
                }
            }
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            boolean isChanged = false;
            while (true) {
                for (ConsumerRecord<String, byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    if (record.topic().equals(events)) {
                        if (record.value()[14] == 'P') {
                            placed++;
                        } else {
                            refused++;
                        }
                    } else if (record.topic().equals(out)) {
                        loyal++;
                    } else {
                        households.put(record.key(), record.value());
                        isChanged = true;
                    }
                }
                long now = System.currentTimeMillis();
                if (half == 0 && placed + refused >= expected.baskets / 2) {
                    half = now;
                }
                if (placed + refused >= expected.baskets && loyal >= expected.loyal && isChanged) {
                    isChanged = false;
                    if (cents(households) == expected.cents) {
                        break;
                    }
                }
                if (now - began > TIME_MAX_MS) {
                    throw new IllegalStateException("not done in time");
                }
            }
        }
        double cpu = cpuSeconds(app.pid()) - cpuBefore;
        long end = System.currentTimeMillis();
        if (placed != expected.orders || placed + refused != expected.baskets || loyal != expected.loyal) {
            throw new IllegalStateException("placed " + placed + ", refused " + refused + ", loyal " + loyal + ", not " + expected);
        }
        return String.format(
                Locale.ROOT,
                "{\"rate\":%.1f,\"second_half\":%.1f,\"cpu_seconds\":%.2f}",
                expected.baskets * 1000.0 / (end - began),
                (expected.baskets - expected.baskets / 2) * 1000.0 / Math.max(1, end - half),
                cpu);
    }

    private static long cents(Map<String, byte[]> households) {
        return households.values().stream().mapToLong(value -> Json.parse(value, Json.Household.class).cents()).sum();
    }

    private static double cpuSeconds(long pid) throws Exception {
        String stat = Files.readString(Path.of("/proc/" + pid + "/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
    }
}
