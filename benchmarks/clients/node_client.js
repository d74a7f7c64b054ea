// A producer or a consumer of amqplib as anybody writes it: node node_client.js ROLE URL QUEUE PREFETCH
"use strict";
const amqplib = require(require.resolve("amqplib", { paths: [process.env.NODE_PATH || process.cwd()] }));
const [role, url, queue, prefetch] = process.argv.slice(2);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function produce(connection) {
  const channel = await connection.createConfirmChannel();
  const sent = Buffer.alloc(256);
  for (let number = 0; ; ) {
    for (let each = 0; each < 100; each++) {
      sent.writeUInt32BE(number++);
      channel.publish("", queue, Buffer.from(sent), { persistent: true });
    }
    await channel.waitForConfirms();
  }
}

async function consume(connection) {
  const channel = await connection.createChannel();
  if (Number(prefetch)) await channel.prefetch(Number(prefetch));
  let work = Promise.resolve();
  await channel.consume(queue, (message) => {
    work = work.then(() => pause(10)).then(() => channel.ack(message));
  });
}

amqplib.connect(url).then(role === "producer" ? produce : consume).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
