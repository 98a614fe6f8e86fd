package peer;

import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** Records and states as JSON. */
final class Json {
    record Item(String product_id, int quantity, long amount_cents, long discount_cents) {}

    record Basket(String basket_id, String household_id, String store_id, String placed_at, List<Item> items) {}

    @JsonInclude(JsonInclude.Include.NON_NULL)
    record OrderEvent(
            String type,
            String orderId,
            String householdId,
            String storeId,
            String placedAt,
            int lines,
            long units,
            long cents,
            String reason) {}

    record OrderState(String status, String householdId, int lines, long units, long cents) {}

    record Household(long orders, long units, long cents, boolean loyal) {}

    record Loyal(String type, String householdId, long cents, String byOrder) {}

    private static final ObjectMapper MAPPER =
            new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);

    private Json() {}

    static byte[] bytes(Object value) {
        try {
            return MAPPER.writeValueAsBytes(value);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static <T> T parse(byte[] bytes, Class<T> type) {
        try {
            return bytes == null ? null : MAPPER.readerFor(type).readValue(bytes);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static <T> Serde<T> serde(Class<T> type) {
        return Serdes.serdeFrom(
                (topic, value) -> value == null ? null : bytes(value), (topic, bytes) -> parse(bytes, type));
    }
}
