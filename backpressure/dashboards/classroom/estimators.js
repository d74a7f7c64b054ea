// What the law `pace` knows: the twin of filters.py, depth.py and bottleneck.py for consumers that report.
// Times are seconds, null is unknown. A test compares this model with the one in Python.

const QUANTUM = 0.25;
const DRIFT = 0.5;

/** The recent past of a total. */
class Timeline {
  constructor(spanS) {
    this.spanS = spanS;
    this.points = [];
  }

  record(at, total) {
    const { points } = this;
    points.push([at, total]);
    while (points.length > 2 && at - points[1][0] >= this.spanS) points.shift();
  }

  at(moment) {
    const { points } = this;
    let later = points[points.length - 1];
    if (moment >= later[0]) return later[1];
    for (let index = points.length - 1; index >= 0; index -= 1) {
      const earlier = points[index];
      if (earlier[0] <= moment) return earlier[1] + ((later[1] - earlier[1]) * (moment - earlier[0])) / (later[0] - earlier[0]);
      later = earlier;
    }
    return later[1];
  }
}

class Cusum {
  constructor() {
    this.score = this.events = this.exposureS = 0;
  }

  add(z, events, exposureS) {
    const score = this.score + z - DRIFT;
    if (score <= 0) {
      this.score = this.events = this.exposureS = 0;
    } else {
      this.score = score;
      this.events += events;
      this.exposureS += exposureS;
    }
  }
}

/** A rate from pairs (events, exposure), with a change detector. */
class RateEstimator {
  constructor() {
    this.events = 0;
    this.exposureS = 0;
    this.rise = new Cusum();
    this.fall = new Cusum();
    this.rate = null;
    this.dispersion = 1;
  }

  get cautiousRate() {
    return this.rate === null ? 0 : (this.rate * this.events) / (this.events + 2 * this.dispersion);
  }

  expect(dispersion, events) {
    const count = Math.max(0, events);
    this.dispersion = (dispersion * count + 1) / (count + 1);
  }

  scale(factor) {
    if (this.rate !== null) this.begin(this.events, this.events / (this.rate * factor));
  }

  add(events, exposureS) {
    if (exposureS <= 0) return false;
    if (this.rate === null) {
      this.exposureS += exposureS;
      this.events += events;
      if (this.events >= 1) this.begin(this.events, this.exposureS);
      return false;
    }
    const expected = this.rate * exposureS;
    const z = (events - expected) / Math.sqrt(this.dispersion * expected + QUANTUM);
    this.rise.add(z, events, exposureS);
    this.fall.add(-z, events, exposureS);
    for (const run of [this.rise, this.fall]) {
      if (run.score > 5) {
        this.begin(Math.max(0.5, run.events), run.exposureS);
        return true;
      }
    }
    this.learnDispersion(events - expected, expected);
    const keep = Math.exp(-exposureS / Math.max(1.5, 20 / this.rate));
    this.events = this.events * keep + events;
    this.exposureS = this.exposureS * keep + exposureS;
    this.rate = this.events / this.exposureS;
    return false;
  }

  addLowerBound(events, exposureS) {
    return this.rate !== null && events <= this.rate * exposureS ? false : this.add(events, exposureS);
  }

  begin(events, exposureS) {
    this.events = events;
    this.exposureS = exposureS;
    this.rate = events / exposureS;
    this.rise = new Cusum();
    this.fall = new Cusum();
  }

  learnDispersion(error, spread) {
    if (spread < 1) return;
    const sample = Math.max(0, error ** 2 - QUANTUM) / spread;
    this.dispersion += 0.05 * (Math.min(sample, 9 * Math.max(this.dispersion, 0.05)) - this.dispersion);
  }
}

/** Departures per second, smoothed, for laws that do not tell noise from change. */
export class DepartureMeter {
  constructor(memoryS) {
    this.memoryS = memoryS;
    this.before = null;
    this.ratePerS = null;
  }

  update(signals, now) {
    let workers = 1;
    let count;
    if (signals.departedTotal !== null) {
      workers = signals.consumers ?? 0;
      count = [true, signals.departedTotal, signals.observedTotalS];
    } else if (signals.depth !== null) {
      count = [false, signals.confirmedTotal - signals.depth, now - signals.depthAgeS];
    } else {
      return this.ratePerS;
    }
    const { before } = this;
    if (before === null || before[0] !== count[0]) {
      this.before = count;
    } else if (workers === 0) {
      this.ratePerS = 0;
    } else if (count[2] > before[2]) {
      this.before = count;
      const spanS = count[2] - before[2];
      this.smooth((workers * Math.max(0, count[1] - before[1])) / spanS, spanS / workers);
    }
    return this.ratePerS;
  }

  smooth(measuredPerS, spanS) {
    if (this.ratePerS === null) this.ratePerS = measuredPerS;
    else this.ratePerS += (1 - Math.exp(-spanS / this.memoryS)) * (measuredPerS - this.ratePerS);
  }
}

/** The depth at this moment, from readings that are late and counters that are exact. */
class DepthObserver {
  constructor() {
    this.depth = null;
    this.unreportedPerS = 0;
    this.readAt = -Infinity;
    this.reading = 0;
    this.sent = new Timeline(30);
    this.arrived = new Timeline(30);
    this.arrivedAt = -Infinity;
    this.offset = null;
    this.trackedAt = -Infinity;
    this.usualAgeS = 0.1;
  }

  read(signals, now) {
    this.sent.record(now, signals.confirmedTotal);
    this.arrivedAt = Math.max(this.arrivedAt, now - signals.confirmLatencyMinS / 2);
    this.arrived.record(this.arrivedAt, signals.confirmedTotal);
    const readAt = now - signals.depthAgeS;
    if (signals.depth === null || readAt <= this.readAt + 1e-9) return false;
    this.readAt = readAt;
    this.reading = signals.depth;
    return true;
  }

  leftBy(moment, backlog) {
    return this.arrived.at(moment) - backlog;
  }

  predict(ratePerS, now) {
    this.offset = null;
    this.unreportedPerS = 0;
    if (this.readAt > -Infinity) {
      const since = this.sent.at(now) - this.arrived.at(this.readAt);
      this.depth = Math.max(0, this.reading + since - ratePerS * (now - this.readAt));
    }
  }

  count(signals, ratePerS, now, busy, stalled) {
    let ageS = signals.departedAgeS;
    if (ageS < Infinity) this.usualAgeS += 0.02 * (ageS - this.usualAgeS);
    if (ageS > 0.15) ageS = Math.min(ageS, 3 * this.usualAgeS);
    const gone = (signals.departedTotal ?? 0) + ratePerS * ageS;
    if (this.offset === null) {
      this.offset = gone - this.sent.at(now) + (this.readAt > -Infinity ? this.reading : signals.unacked ?? 0);
    } else if (this.readAt > this.trackedAt && !stalled) {
      const counted = this.sent.at(this.readAt) - gone + ratePerS * (now - this.readAt) + this.offset;
      this.track(this.reading - counted, 2 + 2 * ratePerS * ageS, this.reading >= busy);
    }
    this.trackedAt = this.readAt;
    this.depth = Math.max(0, this.sent.at(now) - gone + this.offset);
  }

  track(deviation, possible, steady) {
    const elapsedS = Math.min(1, this.readAt - this.trackedAt);
    const expected = this.unreportedPerS * elapsedS;
    const error = deviation - expected;
    const noise = Math.max(-possible, Math.min(possible, error));
    this.offset += expected + error - noise;
    if (steady || noise < 0) {
      this.offset += (1 - Math.exp(-elapsedS / 0.5)) * noise;
      this.unreportedPerS += 0.5 * elapsedS * noise;
    }
    if (this.reading <= 0) this.unreportedPerS *= Math.exp(-elapsedS / 0.5);
  }
}

/** How fast and how regular the consumers are, and whether they have enough to do. */
export class Bottleneck {
  constructor(staleS) {
    this.staleS = staleS;
    this.estimator = new RateEstimator();
    this.queue = new DepthObserver();
    this.workers = 1;
    this.before = null;
    this.lowReady = 0;
    this.lowDepth = 0;
    this.load = 1;
    this.seenLoad = 0;
    this.changedAt = -Infinity;
    this.stalled = false;
    this.ageS = 0;
    this.departedAgeS = 0;
    this.fresh = false;
    this.measured = false;
    this.emptySince = null;
    this.idle = 0;
    this.countedAt = -Infinity;
  }

  get ratePerS() {
    return this.estimator.rate === null ? null : this.estimator.cautiousRate * this.workers;
  }

  get dispersion() {
    return this.estimator.dispersion;
  }

  get servers() {
    return Math.max(1, this.workers * Math.max(1, this.load));
  }

  get mayBeFaster() {
    return !this.measured || this.seenLoad >= 0.9 * this.load;
  }

  raiseRate(factor) {
    this.estimator.scale(factor);
    if (this.measured) this.load *= factor;
  }

  update(signals, now, stalled) {
    this.stalled = stalled;
    this.workers = signals.consumers ?? 1;
    this.fresh = Math.min(signals.depthAgeS, signals.feedbackAgeS) <= this.staleS;
    const isNew = this.queue.read(signals, now);
    const interrupted = signals.blocked || signals.consumers === 0;
    if (interrupted) this.before = null;
    if (isNew) this.noteReading(signals);
    const reporting = signals.departedTotal !== null && signals.feedbackAgeS <= this.staleS;
    if (!interrupted) this.count(signals, now, reporting, isNew);
    const ratePerS = this.ratePerS ?? 0;
    if (reporting) this.queue.count(signals, ratePerS, now, this.servers, stalled);
    else this.queue.predict(ratePerS, now);
    const ageS = reporting ? signals.departedAgeS : signals.depthAgeS;
    this.departedAgeS += 0.1 * (Math.min(ageS, this.staleS) - this.departedAgeS);
    this.measured = reporting;
  }

  count(signals, now, reporting, isNew) {
    if (reporting) {
      const count = { source: "reports", departed: signals.departedTotal, clockS: signals.observedTotalS, busyS: signals.busyTotalS };
      this.learn(count, signals, now);
    } else if (isNew) {
      const { before } = this;
      const same = before !== null && before.source === "probe";
      const spanS = same ? this.queue.readAt - this.countedAt : 0;
      this.countedAt = this.queue.readAt;
      const clockS = (same ? before.clockS : 0) + spanS * Math.max(1, this.workers);
      this.learn({ source: "probe", departed: this.queue.leftBy(this.queue.readAt, this.queue.reading), clockS, busyS: 0 }, signals, now);
    }
  }

  noteReading(signals) {
    const depth = signals.depth ?? 0;
    this.lowReady = Math.min(this.lowReady, signals.ready ?? 0);
    this.lowDepth = Math.min(this.lowDepth, depth);
    this.ageS += 0.1 * (Math.min(signals.depthAgeS, this.staleS) - this.ageS);
    if (depth > 0) this.emptySince = null;
    else if (this.emptySince === null) this.emptySince = this.queue.readAt;
  }

  learn(count, signals, now) {
    const { before, estimator } = this;
    if (before === null || before.source !== count.source) {
      this.before = count;
      return;
    }
    const events = Math.max(0, count.departed - before.departed);
    const spanS = count.clockS - before.clockS;
    const workedS = count.busyS - before.busyS;
    if (spanS <= 0 || workedS < 0) return;
    this.before = count;
    const queued = this.lowDepth > this.servers && !signals.applicationLimited;
    const full = this.lowReady > 0 || (this.workers === 1 && this.load <= 1 && this.lowDepth > 1);
    this.lowReady = signals.ready ?? 0;
    this.lowDepth = signals.depth ?? 0;
    if (estimator.rate === null) this.changedAt = now;
    if ((count.departed < 20 || (estimator.rate ?? 0) * spanS < 1) && signals.serviceCv2 !== null) {
      estimator.expect(signals.serviceCv2, Math.min(count.departed, 20));
    }
    let changed;
    if (count.source === "probe") {
      changed = full ? estimator.add(events, spanS) : estimator.addLowerBound(events, spanS);
    } else {
      if (!this.stalled) this.watchLoad(workedS / spanS, spanS / Math.max(1, this.workers), full && events > 0);
      changed = estimator.add(events, full && !this.stalled ? spanS : Math.min(spanS, workedS / this.load));
    }
    if (changed) {
      this.changedAt = now;
      this.idle = 0;
    } else if (count.source === "reports" && now - this.changedAt > 1 && !this.stalled) {
      const idle = queued ? Math.max(0, 1 - workedS / (spanS * this.load)) : 0;
      this.idle += (1 - Math.exp(-spanS / Math.max(1, this.workers) / 5)) * (idle - this.idle);
    }
  }

  watchLoad(load, spanS, saturated) {
    const part = 1 - Math.exp(-spanS / 2);
    this.seenLoad += part * (load - this.seenLoad);
    if (saturated) this.load += part * (Math.max(0.05, load) - this.load);
    else if (this.seenLoad > this.load * 1.05) this.load = this.seenLoad;
  }
}
