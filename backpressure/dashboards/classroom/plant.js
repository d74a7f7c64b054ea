// The loop in virtual time, the twin of backpressure/core/plant/: one producer, a queue, consumers that report.
// Time moves by `run`; random numbers are passed in. Nothing here knows of a page.

import { LAWS } from "./laws.js";

const STEP_S = 0.005;
const TICK_S = 0.1;
const REPORT_S = 0.1;
const DELAY_S = 0.005;
const CONFIRM_S = 0.002;
const BURST_S = 0.1;

/** Random numbers in [0, 1) from a seed (mulberry32). */
export function uniformFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** First in, first out; taking from its front does not move the others. */
class Line {
  constructor() {
    this.items = [];
    this.head = 0;
  }

  get length() {
    return this.items.length - this.head;
  }

  push(item) {
    this.items.push(item);
  }

  shift() {
    const item = this.items[this.head];
    this.head += 1;
    if (this.head > 1000 && this.head * 2 > this.items.length) this.putBack([]);
    return item;
  }

  putBack(items) {
    this.items = [...items, ...this.items.slice(this.head)];
    this.head = 0;
  }
}

/** A first-in-first-out queue with prefetch, delivered in turn; a message is the time at which it was sent. */
class WorkQueue {
  constructor(uniform, bound) {
    Object.assign(this, { uniform, bound, workers: null, ready: new Line(), consumers: [], credit: [], events: [] });
    Object.assign(this, { hired: 0, arrived: 0, dropped: 0, processed: 0, waits: [] });
  }

  get unacked() {
    return this.consumers.reduce((sum, consumer) => sum + consumer.held.length, 0);
  }

  get depth() {
    return this.ready.length + this.unacked;
  }

  setWorkers(workers, now, firstReportS) {
    this.workers = workers;
    while (this.consumers.length > workers.count) {
      const leaving = this.consumers.pop();
      leaving.gone = true;
      this.ready.putBack(leaving.held);
    }
    while (this.consumers.length < workers.count) {
      this.hired += 1;
      this.consumers.push(newConsumer(this.hired, firstReportS()));
    }
    this.credit = this.consumers.filter((consumer) => consumer.held.length < workers.prefetch);
    for (const consumer of this.consumers) this.work(consumer, now);
    while (this.ready.length && this.credit.length) this.deliver(this.ready.shift(), now);
  }

  arrive(at) {
    this.advance(at);
    const { maxLength, overflow } = this.bound;
    if (maxLength !== null && this.ready.length >= maxLength && !this.credit.length) {
      if (overflow === "reject-publish") return false;
      this.dropped += 1;
      this.ready.shift();
    }
    this.arrived += 1;
    if (this.credit.length) this.deliver(at, at);
    else this.ready.push(at);
    return true;
  }

  deliver(message, now) {
    const consumer = this.credit.shift();
    consumer.held.push(message);
    if (consumer.held.length < this.workers.prefetch) this.credit.push(consumer);
    this.work(consumer, now);
  }

  advance(until) {
    for (;;) {
      let first = -1;
      this.events.forEach(({ at, consumer }, index) => {
        const best = this.events[first];
        if (first < 0 || at < best.at || (at === best.at && consumer.number < best.consumer.number)) first = index;
      });
      if (first < 0 || this.events[first].at > until) return;
      const [{ at, consumer }] = this.events.splice(first, 1);
      if (!consumer.gone) this.end(consumer, at);
    }
  }

  end(consumer, now) {
    consumer.busy = false;
    consumer.held.shift();
    consumer.processed += 1;
    consumer.sumS += consumer.serviceS;
    consumer.sumS2 += consumer.serviceS ** 2;
    this.processed += 1;
    this.work(consumer, now);
    if (consumer.held.length === this.workers.prefetch - 1) {
      this.credit.push(consumer);
      if (this.ready.length) this.deliver(this.ready.shift(), now);
    }
  }

  work(consumer, now) {
    if (consumer.busy || this.workers.paused || !consumer.held.length) return;
    consumer.busy = true;
    consumer.serviceS = this.serviceS();
    consumer.doneS = now + consumer.serviceS;
    this.waits.push(now - consumer.held[0]);
    this.events.push({ at: consumer.doneS, consumer });
  }

  serviceS() {
    const meanS = 1 / this.workers.ratePerS;
    if (this.workers.distribution === "fixed") return meanS;
    if (this.workers.distribution === "exponential") return -meanS * Math.log(1 - this.uniform());
    return meanS * (1 + 0.5 * (2 * this.uniform() - 1));
  }
}

const newConsumer = (number, nextReportS) => ({
  number, nextReportS, held: [], busy: false, gone: false, serviceS: 0, doneS: 0, processed: 0, sumS: 0, sumS2: 0,
});

function reportOf(consumer, now, workers) {
  const workingS = consumer.busy ? Math.max(0, now - (consumer.doneS - consumer.serviceS)) : 0;
  return {
    number: consumer.number, atNs: Math.trunc(now * 1e9), processed: consumer.processed, held: consumer.held.length,
    prefetch: workers.prefetch, paused: workers.paused, busyS: consumer.sumS + workingS, sumS: consumer.sumS, sumS2: consumer.sumS2,
  };
}

/** What the producer knows: the twin of board.py for consumers that report and one producer. */
class Board {
  constructor() {
    this.consumers = new Map();
    Object.assign(this, { departed: 0, observedS: 0, busyS: 0, ready: null, probed: null, readAt: -Infinity, strangersSince: null });
    this.served = [[-Infinity, 0, 0, 0]];
  }

  onReport(report, now) {
    const known = this.consumers.get(report.number);
    if (!known) {
      this.consumers.set(report.number, { latest: report, heardAt: now, mostPrefetch: report.prefetch });
      return;
    }
    const before = known.latest;
    const elapsedS = (report.atNs - before.atNs) / 1e9;
    if (elapsedS <= 0) return;
    Object.assign(known, { latest: report, heardAt: now, mostPrefetch: Math.max(known.mostPrefetch, report.prefetch) });
    this.departed += report.processed - before.processed;
    this.observedS += elapsedS;
    this.busyS += report.busyS - before.busyS;
    const [servedS, servedS2] = [report.sumS - before.sumS, report.sumS2 - before.sumS2];
    if (!report.sumS2 || servedS2 > 1.01 * servedS ** 2 + 1e-6) return;
    const { served } = this;
    const [, count, total, squares] = served[served.length - 1];
    served.push([now, count + report.processed - before.processed, total + servedS, squares + servedS2]);
    while (now - served[1][0] >= 2 && served[served.length - 1][1] - served[1][1] >= 20) served.shift();
  }

  onReading(ready, consumers, now) {
    Object.assign(this, { ready, probed: consumers, readAt: now });
    const known = [...this.consumers.values()].filter((consumer) => now - consumer.heardAt < 2).length;
    if (consumers <= known) this.strangersSince = null;
    else this.strangersSince ??= now;
  }

  signals(own, now) {
    for (const [number, consumer] of this.consumers) if (consumer.heardAt <= now - 600) this.consumers.delete(number);
    const all = [...this.consumers.values()];
    let heard = all.filter((consumer) => now - consumer.heardAt < 2);
    if (this.probed !== null && this.probed < heard.length) {
      heard = [...heard].sort((a, b) => a.heardAt - b.heardAt).slice(heard.length - this.probed);
    }
    const settled = this.strangersSince !== null && now - this.strangersSince > 1;
    const reporting = all.length > 0 && !settled;
    const held = ({ latest, mostPrefetch }) => Math.min(latest.held, mostPrefetch);
    const unacked = reporting && heard.length ? heard.reduce((sum, consumer) => sum + held(consumer), 0) : null;
    const [meanS, cv2] = this.serviceStatistics();
    return {
      ...own,
      ready: this.ready,
      unacked,
      depth: this.ready === null ? null : this.ready + (unacked ?? 0),
      depthAgeS: now - this.readAt,
      blind: !reporting && this.probed > 0 && this.strangersSince !== null,
      departedTotal: reporting ? this.departed : null,
      observedTotalS: reporting ? this.observedS : null,
      busyTotalS: reporting ? this.busyS : null,
      departedAgeS: reporting && heard.length ? heard.reduce((sum, c) => sum + now - c.heardAt, 0) / heard.length : Infinity,
      feedbackAgeS: all.reduce((least, consumer) => Math.min(least, now - consumer.heardAt), Infinity),
      consumers: this.working(heard, now),
      serviceMeanS: meanS,
      serviceCv2: cv2,
    };
  }

  working(heard, now) {
    if (!heard.length) return this.probed;
    const working = heard.filter((consumer) => !consumer.latest.paused && now - consumer.heardAt < 0.5).length;
    return this.probed === null ? working : Math.min(this.probed, working + Math.max(0, this.probed - heard.length));
  }

  serviceStatistics() {
    const [first, last] = [this.served[0], this.served[this.served.length - 1]];
    const [count, total] = [last[1] - first[1], last[2] - first[2]];
    if (count <= 0 || total <= 0) return [null, null];
    const meanS = total / count;
    return [meanS, count > 1 ? Math.max(0, (last[3] - first[3]) / count / meanS ** 2 - 1) : null];
  }
}

/** Accrues tokens at a rate, and holds one plus a tenth of a second's worth of them. */
class TokenBucket {
  constructor(ratePerS, now) {
    Object.assign(this, { ratePerS, tokens: ratePerS < Infinity ? 1 : Infinity, updatedAt: now });
  }

  get capacity() {
    return 1 + this.ratePerS * BURST_S;
  }

  setRate(ratePerS, now) {
    this.accrue(now);
    this.ratePerS = ratePerS;
    this.tokens = ratePerS < Infinity ? Math.min(this.tokens, this.capacity) : Infinity;
  }

  accruedAt(ahead, now) {
    this.accrue(now);
    const surplus = Math.max(0, this.tokens - ahead - 1);
    return this.ratePerS > 0 && this.ratePerS < Infinity ? now - surplus / this.ratePerS : now;
  }

  accrue(now) {
    const elapsed = now - this.updatedAt;
    if (elapsed > 0) {
      this.updatedAt = now;
      this.tokens = Math.min(this.capacity, this.tokens + elapsed * this.ratePerS);
    }
  }
}

class Producer {
  constructor(law, retries, demandPerS) {
    Object.assign(this, { law, retries, demandPerS, bucket: null, board: new Board() });
    Object.assign(this, { offered: 0, waiting: 0, arrived: 0, nacked: 0, rejected: 0, limited: true, heldBack: false, settled: 0 });
    this.decision = { ratePerS: 0, reason: "not asked yet", window: null, bottleneckPerS: null };
    this.notBeforeS = 0;
  }

  get space() {
    return this.decision.window || Infinity;
  }

  emit(startS, endS) {
    const due = this.demandPerS * (endS - startS);
    this.offered += due;
    const { bucket } = this;
    if (bucket === null) return [];
    this.waiting = Math.min(this.waiting + due, Math.max(1, due, this.demandPerS * BURST_S));
    bucket.accrue(endS);
    const { tokens } = bucket;
    const count = Math.floor(Math.min(Math.floor(Math.min(this.waiting, tokens)), this.space));
    this.limited = this.limited && this.waiting < tokens;
    const times = [];
    for (let number = 0; number < count; number += 1) {
      if (bucket.ratePerS === Infinity) times.push(startS + ((endS - startS) * (number + 1)) / count);
      else times.push(Math.max(startS, bucket.accruedAt(number, endS)));
    }
    if (bucket.ratePerS < Infinity) bucket.tokens -= count;
    if (count >= this.space) {
      this.heldBack = true;
      if (bucket.ratePerS < Infinity) bucket.tokens = Math.min(bucket.tokens, 1);
    }
    this.waiting -= count;
    return times;
  }

  settle(taken) {
    this.settled += 1;
    if (taken) {
      this.arrived += 1;
      return;
    }
    this.nacked += 1;
    if (this.retries) this.waiting += 1;
    else this.rejected += 1;
  }

  decide(now, blocked) {
    const own = {
      confirmedTotal: this.arrived, nackedTotal: this.nacked, demandPerS: this.demandPerS, blocked,
      applicationLimited: this.limited || this.heldBack,
      confirmLatencyS: this.settled ? CONFIRM_S : null, confirmLatencyMinS: CONFIRM_S,
    };
    const signals = this.board.signals(own, now);
    this.decision = this.law.update(signals, now);
    this.notBeforeS = now + 0.9 * TICK_S;
    this.nextTickS = now + (signals.feedbackAgeS < 2 * TICK_S ? 1.2 : 1) * TICK_S;
    this.bucket ??= new TokenBucket(this.decision.ratePerS, now);
    this.bucket.setRate(this.decision.ratePerS, now);
    Object.assign(this, { limited: true, heldBack: false, settled: 0 });
  }
}

/**
 * One queue, its consumers, and the producer that sends to it.
 *
 * `settings` are those of DEFAULTS; each but the seed may be changed between two calls of `run` with `change`. `paused`
 * consumers begin no work, a `blocked` producer may not send. `samples` has the state ten times a second.
 */
export class Plant {
  constructor(settings) {
    this.settings = { ...DEFAULTS, ...settings };
    const { law, parameters, demandPerS, seed } = this.settings;
    Object.assign(this, { now: 0, steps: 0, capacity: 0, samples: [], reports: [], answers: [], nextSampleS: 0 });
    this.uniform = uniformFrom(seed);
    this.queue = new WorkQueue(uniformFrom(seed + 1), this.bound);
    this.queue.setWorkers(this.workers, 0, () => REPORT_S * this.uniform());
    this.producer = new Producer(LAWS[law].make(parameters), LAWS[law].retries, demandPerS);
    this.producer.nextTickS = TICK_S * this.uniform();
    this.uniform(); // the producer's own first report, which nobody else reads
    this.producer.nextReadingS = this.producer.nextTickS - DELAY_S;
  }

  get workers() {
    const { consumers: count, ratePerS, distribution, prefetch, paused } = this.settings;
    return { count, ratePerS, distribution, prefetch, paused };
  }

  get bound() {
    const { law, maxLength, overflow } = this.settings;
    return { maxLength: LAWS[law].bound ? maxLength : null, overflow };
  }

  /** Continue with other settings. */
  change(changes) {
    const before = this.settings;
    this.settings = { ...before, ...changes };
    const { law, parameters, demandPerS } = this.settings;
    this.queue.bound = this.bound;
    if (["consumers", "ratePerS", "distribution", "prefetch", "paused"].some((name) => before[name] !== this.settings[name])) {
      this.queue.setWorkers(this.workers, this.now, () => this.now + REPORT_S * this.uniform());
    }
    this.producer.demandPerS = demandPerS;
    if (law !== before.law || JSON.stringify(parameters) !== JSON.stringify(before.parameters)) {
      this.producer.law = LAWS[law].make(parameters);
      this.producer.retries = LAWS[law].retries;
    }
  }

  /** Let somebody else send this many messages at once; return how many the queue took. */
  burst(count) {
    let taken = 0;
    for (let number = 0; number < count; number += 1) taken += this.queue.arrive(this.now);
    return taken;
  }

  run(durationS) {
    const untilS = this.now + durationS;
    while (untilS / STEP_S > this.steps + 0.5) this.step();
  }

  step() {
    const startS = this.now;
    this.steps += 1;
    const now = (this.now = this.steps * STEP_S);
    this.capacity += this.capacityPerS * STEP_S;
    if (!this.settings.blocked) {
      for (const at of this.producer.emit(startS, now)) this.producer.settle(this.queue.arrive(at));
    }
    this.queue.advance(now);
    this.report();
    this.probe();
    if (now >= this.producer.nextTickS) this.producer.decide(now, this.settings.blocked);
    if (now >= this.nextSampleS) {
      this.nextSampleS += TICK_S;
      this.sample();
    }
  }

  get capacityPerS() {
    const { consumers, ratePerS, paused } = this.settings;
    return paused ? 0 : consumers * ratePerS;
  }

  report() {
    const { now, producer } = this;
    for (const consumer of this.queue.consumers) {
      if (now < consumer.nextReportS) continue;
      const lateS = Math.max(0, now - consumer.nextReportS);
      consumer.nextReportS = now + REPORT_S - Math.min(lateS, STEP_S);
      this.reports.push([now + DELAY_S, reportOf(consumer, now, this.workers)]);
    }
    while (this.reports.length && this.reports[0][0] <= now) {
      producer.board.onReport(this.reports.shift()[1], now);
      if (now >= producer.notBeforeS) producer.nextTickS = now;
    }
  }

  probe() {
    const { now, producer, queue } = this;
    if (now >= producer.nextReadingS) {
      producer.nextReadingS = Math.max(producer.nextReadingS, now - TICK_S) + TICK_S;
      this.answers.push([now + DELAY_S, queue.ready.length, this.settings.paused ? 0 : queue.consumers.length, now]);
    }
    while (this.answers.length && this.answers[0][0] <= now) {
      const [, ready, consumers, readAt] = this.answers.shift();
      producer.board.onReading(ready, consumers, readAt);
    }
  }

  sample() {
    const { queue, producer } = this;
    this.samples.push({
      atS: this.now, depth: queue.depth, ready: queue.ready.length, unacked: queue.unacked, offered: producer.offered,
      arrived: queue.arrived, sent: producer.arrived + producer.nacked, processed: queue.processed, nacked: producer.nacked, rejected: producer.rejected, dropped: queue.dropped,
      capacity: this.capacity, capacityPerS: this.capacityPerS, demandPerS: producer.demandPerS, ratePerS: producer.decision.ratePerS,
      reason: producer.decision.reason, bottleneckPerS: producer.decision.bottleneckPerS, waits: queue.waits.splice(0),
    });
  }
}

export const DEFAULTS = {
  law: "unbounded", parameters: {}, demandPerS: 120, consumers: 1, ratePerS: 100, distribution: "fixed", prefetch: 5,
  maxLength: null, overflow: "reject-publish", paused: false, blocked: false, seed: 1,
};
