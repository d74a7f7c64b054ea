// The lessons: one for each lab, in the numbers of the labs. A step changes settings, and says what to look at.

const BASELINE = {
  law: "unbounded", limitPerS: 10, demandPerS: 10, workMs: 100, distribution: "fixed", consumers: 1, prefetch: 3, maxLength: null,
  overflow: "reject-publish", messageBytes: 1000, paused: false,
};
const slow = { workMs: 500 };

export const FREE = {
  title: "Free play", goal: "A fast producer and a slow consumer share a queue. Move the sliders and see what happens to depth and wait.",
  settings: { ...BASELINE, law: "pace", demandPerS: 1000, limitPerS: 100, workMs: 10, prefetch: 5 }, steps: [], why: "",
};

export const LESSONS = [
  {
    title: "1 A balanced system",
    goal: "Ten messages a second, 100 ms of work each. What does a healthy queue look like?",
    settings: BASELINE,
    steps: [
      { text: "Stop the consumers for two seconds", change: { paused: true }, then: [2, { paused: false }], look: "Does the depth return to where it was?" },
      { text: "Offer 8 instead of 10 a second", change: { demandPerS: 8 }, look: "and now?" },
    ],
    why: "The load is arrivals ÷ capacity = 10 ÷ 10 = 1. Nothing is left to work off the backlog of a pause, so it stays forever. With 8 a "
      + "second the consumer has a fifth of its time to spare, and the queue becomes short again.",
  },
  {
    title: "2 A slower consumer",
    goal: "The work becomes five times as long. Nothing slows the producer down.",
    settings: BASELINE,
    steps: [
      { text: "Let the work take 500 ms", change: slow, look: "depth and wait, for a minute" },
      { text: "Let it take 100 ms again", change: { workMs: 100 }, look: "Does the queue become short?" },
    ],
    why: "Ten come in and two go out: the depth grows by 8 a second as long as that lasts, and with it the wait: depth ÷ rate out. Even "
      + "at full speed again the backlog stays, because the load is 1. No part reports an error.",
  },
  {
    title: "3 Memory",
    goal: "The same with large messages: a broker has 200 MB for them.",
    settings: { ...BASELINE, demandPerS: 50, messageBytes: 200_000, maxLength: null },
    steps: [
      { text: "Let the work take 500 ms", change: slow, look: "the memory of the queue" },
      { text: "Send small messages", change: { messageBytes: 1000 }, look: "The same overload: how long until the memory is full?" },
    ],
    why: "Memory is depth × bytes of a message. At its limit a broker blocks every publisher, whoever caused it: blunt and late "
      + "back-pressure. Without a limit the process would be killed, and the queue lost with it.",
  },
  {
    title: "4 A bounded queue",
    goal: "The first remedy: the queue takes 50 messages, and refuses the rest.",
    settings: { ...BASELINE, ...slow, law: "bounded" },
    steps: [
      { text: "Bound the queue to 50", change: { maxLength: 50 }, look: "depth, wait, and what is refused" },
      { text: "Bound it to 5", change: { maxLength: 5 }, look: "Is less processed? And the wait?" },
      { text: "Drop the oldest instead", change: { overflow: "drop-head" }, look: "Who learns of it?" },
    ],
    why: "Eight of ten are refused with any bound: what leaves decides how many are taken, the bound only how late they are. A refusal is "
      + "told to the producer; what is dropped at the head is lost silently.",
  },
  {
    title: "5 A rate limit",
    goal: "The second remedy: send no more than the consumer can do, if you know how much that is.",
    settings: { ...BASELINE, ...slow },
    steps: [
      { text: "Limit the producer to 2 a second", change: { law: "rate_limited", limitPerS: 2 }, look: "depth, and what is refused" },
      { text: "Let the work take 100 ms again", change: { workMs: 100 }, look: "how much of the capacity is used" },
      { text: "Let it take 1000 ms", change: { workMs: 1000 }, look: "and now?" },
    ],
    why: "A constant is right for one capacity. When the consumer becomes faster, the rest of its capacity is wasted; when it becomes slower, "
      + "the queue grows as before.",
  },
  {
    title: "6 Laws that adapt",
    goal: "1000 a second are offered, and the capacity changes. Which law follows it, and at what wait?",
    settings: { ...BASELINE, law: "pace", demandPerS: 1000, limitPerS: 100, workMs: 10, prefetch: 5, maxLength: 10_000 },
    steps: [
      { text: "Let the work take 50 ms", change: { workMs: 50 }, look: "how long the queue needs" },
      { text: "Let it take 5 ms", change: { workMs: 5 }, look: "how soon the new capacity is used" },
      { text: "Use aimd", change: { law: "aimd" }, look: "the sawtooth, and its wait" },
      { text: "Use threshold", change: { law: "threshold" }, look: "the depth that it needs to notice" },
    ],
    why: "Each law learns from something: threshold from a deep queue, aimd from a long wait, pid from the processing rate, pace from what leaves "
      + "and the depth together. Compare them below on the story that you have played.",
  },
  {
    title: "7 Where the time goes",
    goal: "A message waits, is worked on, is done. Which of these grows under load?",
    settings: { ...BASELINE, demandPerS: 8, distribution: "exponential" },
    steps: [
      { text: "Let the work take 150 ms", change: { workMs: 150 }, look: "the wait: the work is only half as long again" },
      { text: "Use pace", change: { law: "pace" }, look: "the wait returns, the rest waits at the source" },
    ],
    why: "The time of the work is what it is; the time in the queue is depth ÷ rate out, and has no limit. A trace of one message (lab 7) shows both, "
      + "one after the other.",
  },
  {
    title: "8 Variable work",
    goal: "8 a second, 100 ms of work each on average: a load of 0.8. Once even, once random.",
    settings: { ...BASELINE, demandPerS: 8 },
    steps: [
      { text: "Make the work random", change: { distribution: "exponential" }, look: "depth and wait at the same load" },
      { text: "Offer 9.5 a second", change: { demandPerS: 9.5 }, look: "Give it two minutes at 16 ×" },
    ],
    why: "A queue forms below full load as soon as work or arrivals are irregular: the mean wait grows with load ÷ (1 − load). From 0.8 to "
      + "0.95 it grows about fivefold. An average hides it.",
  },
  {
    title: "9 A burst",
    goal: "Somebody sends 1000 messages at once.",
    settings: { ...BASELINE, demandPerS: 80, limitPerS: 100, workMs: 10 },
    steps: [
      { text: "Burst of 1000", burst: 1000, look: "how long the queue needs at a load of 0.8" },
      { text: "Offer 100 a second, then a burst", change: { demandPerS: 100 }, burst: 1000, look: "and at a load of 1?" },
      { text: "Bound the queue to 300 (bounded), then a burst", change: { law: "bounded", maxLength: 300, demandPerS: 80 }, burst: 1000, look: "how many are taken" },
    ],
    why: "The backlog of a burst is worked off with the spare capacity alone: 1000 ÷ (100 − 80) = 50 s. Without any it never is. A bound makes the wait short, "
      + "and refuses what it does not take.",
  },
  {
    title: "10 A consumer fails",
    goal: "The consumer dies, and comes back after a while.",
    settings: { ...BASELINE, demandPerS: 150, limitPerS: 100, workMs: 10 },
    steps: [
      { text: "Stop the consumers", change: { paused: true }, look: "the depth" },
      { text: "Let them return", change: { paused: false }, look: "how long the queue needs" },
      { text: "Use pace, and stop them again", change: { law: "pace", paused: true }, look: "what the law sends meanwhile" },
      { text: "Let them return", change: { paused: false }, look: "how soon it sends again" },
    ],
    why: "Without a law everything that comes meanwhile waits, and is old when it is done. pace keeps about one message queued as a probe, so that it sees the "
      + "return at once without a backlog. Nothing is lost in either case: what was not acknowledged is delivered again.",
  },
];
