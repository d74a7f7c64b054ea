// One name, one meaning, one colour for what every page shows over time or in the flow picture.

export const WORDS = {
  offered: ["grey", "what the producers' schedules asked for"],
  allowed: ["orange", "what the laws of all producers together let them send, messages a second"],
  published: ["blue", "different messages that were sent"],
  processed: ["green", "different messages whose work was completed"],
  capacity: ["violet", "what the consumers that are ready can do together, messages a second"],
  in: ["blue", "what entered the queue, by the broker's statistics"],
  out: ["green", "what left the queue, by the broker's statistics"],
  ready: ["teal", "messages that wait in the queue"],
  unacked: ["orange", "messages in consumers' hands: delivered, not settled"],
  depth: ["blue", "messages in the work queue: ready and unacked"],
  "in flight": ["blue", "messages sent and not yet confirmed"],
  p50: ["green", "half of the messages waited no longer"],
  p95: ["blue", "of 100 messages, 95 waited no longer"],
  p99: ["orange", "of 100 messages, 99 waited no longer"],
  max: ["grey", "the longest wait"],
  expected: ["violet", "how long a message that is sent now would wait: depth ÷ rate out"],
  "best possible p99": ["violet", "the p99 wait that no law can beat with this capacity and these signals"],
};

const HUES = ["blue", "orange", "green", "violet", "rose", "teal", "grey", "ink"];

// The colour of a series: the word's own, else one by its number.
export const hueOf = (name, index = 0) => WORDS[name]?.[0] ?? HUES[index % HUES.length];
export const meaningOf = (name) => WORDS[name]?.[1] ?? "";
