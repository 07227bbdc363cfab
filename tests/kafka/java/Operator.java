import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventDeserializer;
import io.cloudevents.kafka.CloudEventSerializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * An operator whose clients are Kafka's own and the CloudEvents SDK for Java.
 *
 * write BOOTSTRAP             of each line of the input, "TOPIC TYPE MODE CODEC EVENT", writes the event: JSON in
 *                             base64, whose message_id is the key
 * read BOOTSTRAP TOPIC COUNT  prints "KEY TYPE DATA" of each event, the data in base64
 */
public final class Operator {
    public static void main(String[] told) throws Exception {
        if (told[0].equals("write")) {
            write(told[1], new BufferedReader(new InputStreamReader(System.in)).lines().toList());
        } else {
            read(told[1], told[2], Integer.parseInt(told[3]));
        }
    }

    private static void write(String bootstrap, List<String> lines) throws Exception {
        var producers = new HashMap<String, KafkaProducer<String, CloudEvent>>();
        var acknowledged = new ArrayList<Future<RecordMetadata>>();
        for (var line : lines) {
            var told = line.split(" ");
            var producer = producers.computeIfAbsent(told[2] + told[3], ignored -> producer(bootstrap, told[2], told[3]));
            var json = Base64.getDecoder().decode(told[4]);
            var made = CloudEventBuilder.v1()
                    .withId(UUID.randomUUID().toString())
                    .withSource(URI.create("/orange/smsc-1"))
                    .withType(told[1])
                    .withTime(OffsetDateTime.now())
                    .withData("application/json", json)
                    .build();
            var key = new String(json, StandardCharsets.UTF_8).split("\"message_id\": *\"")[1].split("\"")[0];
            acknowledged.add(producer.send(new ProducerRecord<>(told[0], key, made)));
        }
        for (var each : acknowledged) {
            each.get();
        }
        producers.values().forEach(KafkaProducer::close);
    }

    private static KafkaProducer<String, CloudEvent> producer(String bootstrap, String mode, String codec) {
        return new KafkaProducer<>(Map.of(
                "bootstrap.servers", bootstrap,
                "acks", "all",
                "enable.idempotence", "true",
                "compression.type", codec,
                CloudEventSerializer.ENCODING_CONFIG, Encoding.valueOf(mode),
                CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE,
                "key.serializer", StringSerializer.class,
                "value.serializer", CloudEventSerializer.class));
    }

    private static void read(String bootstrap, String topic, int count) {
        var settings = Map.<String, Object>of(
                "bootstrap.servers", bootstrap,
                "auto.offset.reset", "earliest",
                "isolation.level", "read_committed",
                "key.deserializer", StringDeserializer.class,
                "value.deserializer", CloudEventDeserializer.class);
        try (var consumer = new KafkaConsumer<String, CloudEvent>(settings)) {
            consumer.assign(consumer.partitionsFor(topic).stream()
                    .map(each -> new TopicPartition(each.topic(), each.partition()))
                    .toList());
            consumer.seekToBeginning(consumer.assignment());
            for (var seen = 0; seen < count; ) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    var data = Base64.getEncoder().encodeToString(record.value().getData().toBytes());
                    System.out.println(record.key() + " " + record.value().getType() + " " + data);
                    seen++;
                }
            }
        }
    }
}
