import com.rabbitmq.client.Channel;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import java.nio.ByteBuffer;

/** A producer or a consumer of RabbitMQ's Java client as anybody writes it: java JavaClient.java ROLE URL QUEUE PREFETCH */
public class JavaClient {
    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(arguments[1]);
        Channel channel = factory.newConnection().createChannel();
        if (arguments[0].equals("producer")) {
            produce(channel, arguments[2]);
        } else {
            consume(channel, arguments[2], Integer.parseInt(arguments[3]));
        }
    }

    private static void produce(Channel channel, String queue) throws Exception {
        channel.confirmSelect();
        for (int number = 0;; ) {
            for (int each = 0; each < 100; each++) {
                byte[] body = ByteBuffer.allocate(256).putInt(number++).array();
                channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, body);
            }
            channel.waitForConfirmsOrDie();
        }
    }

    private static void consume(Channel channel, String queue, int prefetch) throws Exception {
        channel.basicQos(prefetch);
        channel.basicConsume(queue, false, (tag, delivery) -> {
            try {
                Thread.sleep(10);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }, tag -> { });
    }
}
