// An ordinary worker with amqplib for `pace run examples/services/node.toml`. It knows nothing of this project.
// node worker.js URL QUEUE RESULTS [auto]: auto acknowledges on delivery, before the work.
const amqplib = require("amqplib");

const [url, queue, results, mode] = process.argv.slice(2);
const noAck = mode === "auto";

async function main() {
  const connection = await amqplib.connect(url);
  const channel = await connection.createChannel();
  await channel.prefetch(20);
  await channel.assertQueue(results, { durable: true });
  let last = Promise.resolve(); // one at a time
  await channel.consume(
    queue,
    (message) => {
      if (message === null) process.exit(1);
      last = last.then(async () => {
        await new Promise((done) => setTimeout(done, 10));
        channel.sendToQueue(results, message.content, { correlationId: message.properties.messageId });
        if (!noAck) channel.ack(message);
      });
    },
    { noAck },
  );
  process.on("SIGTERM", async () => {
    await channel.close();
    await connection.close();
    process.exit(0);
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
