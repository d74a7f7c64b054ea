// The rate-control laws of the classroom, the twins of backpressure/core/controllers/: signals in, decision out.
// A decision is { ratePerS, reason, window, bottleneckPerS }; an infinite rate is no limit, a window of null neither.

import { Bottleneck, DepartureMeter } from "./estimators.js";

const TICK_S = 0.1;
const WAYS = 2; // of a report, and then of a message
const decision = (ratePerS, reason, window = null, bottleneckPerS = null) => ({ ratePerS, reason, window, bottleneckPerS });

class Unbounded {
  update() {
    return decision(Infinity, "no control");
  }
}

class Bounded {
  nacked = 0;

  update(signals) {
    const refused = signals.nackedTotal - this.nacked;
    this.nacked = signals.nackedTotal;
    return decision(Infinity, refused > 0 ? `the queue's bound refused ${refused}` : "below the bound");
  }
}

class RateLimited {
  constructor({ rate_per_s: ratePerS = 100 } = {}) {
    this.ratePerS = ratePerS;
  }

  update() {
    return decision(this.ratePerS, "fixed rate");
  }
}

class Threshold {
  constructor({ reduction_factor: factor = 0.8, pressure_depth: depth = 500, recovery = 0.1 } = {}) {
    Object.assign(this, { factor, depth, recovery, ratePerS: null, nacked: 0, askedAt: null, confirmed: 0 });
  }

  update(signals, now) {
    const elapsedS = this.askedAt === null ? 0 : now - this.askedAt;
    const refused = signals.nackedTotal > this.nacked;
    const sent = signals.confirmedTotal - this.confirmed;
    Object.assign(this, { nacked: signals.nackedTotal, askedAt: now, confirmed: signals.confirmedTotal });
    let rate = this.ratePerS ?? signals.demandPerS;
    const depth = signals.depth ?? 0;
    let reason;
    if (refused || signals.blocked || depth > this.depth) {
      reason = refused ? "refused" : signals.blocked ? "blocked" : "queue too deep";
      if (rate === Infinity && elapsedS > 0) rate = sent / elapsedS;
      rate *= this.factor;
    } else if (depth > this.depth / 2 || signals.applicationLimited) {
      reason = "holding";
    } else {
      rate *= (1 + this.recovery) ** elapsedS;
      reason = "recovering";
    }
    this.ratePerS = Math.max(100, Math.min(rate, signals.demandPerS));
    return decision(this.ratePerS, reason);
  }
}

class Aimd {
  constructor({ backoff = 0.9, timeout_s: timeoutS = 0.5, initial_limit: limit = 20 } = {}) {
    Object.assign(this, { backoff, timeoutS, limit, nacked: 0, meter: new DepartureMeter(5 * TICK_S) });
  }

  update(signals, now) {
    const refused = signals.nackedTotal > this.nacked;
    this.nacked = signals.nackedTotal;
    const departures = this.meter.update(signals, now);
    if (signals.depth === null || departures === null) return decision(this.limit / TICK_S, "no reading yet");
    const confirmS = signals.confirmLatencyS ?? 0;
    const stayS = signals.depth / Math.max(departures, 0.1);
    const roundTripS = Math.max(stayS + confirmS, (signals.serviceMeanS ?? 0) + confirmS, 1e-3);
    let reason;
    if (refused || roundTripS > this.timeoutS) {
      this.limit *= this.backoff;
      reason = refused ? "refused" : "round trip above timeout";
    } else if (signals.depth * 2 >= this.limit) {
      this.limit += 1;
      reason = "increase";
    } else {
      reason = "application-limited";
    }
    this.limit = Math.min(10000, Math.max(1, this.limit));
    return decision(Math.max(0, departures + (this.limit - signals.depth) / TICK_S), reason);
  }
}

class Pid {
  constructor({ proportional = 1, integral = 0.2, derivative = 0, interval_s: intervalS = 1, min_rate_per_s: least = 1 } = {}) {
    Object.assign(this, { proportional, integral, derivative, intervalS, least, ratePerS: null, error: 0, computedAt: null });
    this.meter = new DepartureMeter(intervalS);
  }

  update(signals, now) {
    const departures = this.meter.update(signals, now) ?? 0;
    const processing = signals.consumers && signals.serviceMeanS ? signals.consumers / signals.serviceMeanS : departures;
    const elapsedS = this.computedAt === null ? this.intervalS : now - this.computedAt;
    let reason = "between batches";
    if (elapsedS >= this.intervalS * (1 - 1e-9)) {
      this.compute(processing, signals.depth ?? 0, elapsedS);
      this.computedAt = now;
      reason = "following the processing rate";
    }
    return decision(this.ratePerS ?? this.least, reason, null, processing);
  }

  compute(processing, depth, elapsedS) {
    if (this.ratePerS === null) {
      this.ratePerS = Math.max(this.least, processing);
      return;
    }
    const error = this.ratePerS - processing;
    const change = (error - this.error) / elapsedS;
    const step = this.proportional * error + (this.integral * depth) / this.intervalS + this.derivative * change;
    this.ratePerS = Math.max(this.least, this.ratePerS - step);
    this.error = error;
  }
}

class Pace {
  constructor({ gain = 0.6, idle = 0.001, start_per_s: startPerS = 50, stale_s: staleS = 0.5, target_wait_s: targetS = 0.02 } = {}) {
    Object.assign(this, { gain, idle, startPerS, beganPerS: startPerS, totalPerS: startPerS, targetS });
    this.bottleneck = new Bottleneck(Math.max(staleS, 2.5 * 0.1));
    Object.assign(this, { extra: 0, raisedAt: -Infinity, askedAt: null, nacked: 0, cutUntil: -Infinity, cap: Infinity, seenSent: 0, held: 0 });
    this.confirms = new ConfirmLatencyTracker();
  }

  update(signals, now) {
    const elapsedS = this.askedAt === null ? 0 : now - this.askedAt;
    this.askedAt = now;
    const { bottleneck } = this;
    this.confirms.update(signals, elapsedS);
    bottleneck.update(signals, now, this.confirms.stalled);
    this.wayS = signals.confirmLatencyMinS;
    const unseen = this.hasSentEnoughUnseen(signals);
    if (signals.blocked) return this.decide(signals, "blocked: estimators frozen");
    if (!bottleneck.fresh || unseen) {
      this.totalPerS = unseen ? 0 : this.totalPerS * 0.5 ** (elapsedS / 0.5);
      return this.decide(signals, unseen ? "blind: no more is sent unseen" : "no fresh signal: decaying to the floor", 1);
    }
    const loopS = TICK_S + bottleneck.ageS;
    const grew = this.grow(signals, now, loopS);
    this.watchRefusals(signals, now, loopS, elapsedS);
    const rate = bottleneck.ratePerS;
    if (rate === null) return this.find(signals);
    this.extra += elapsedS * (2 * Math.max(0, bottleneck.idle - 0.01) * rate - this.extra / 10);
    const setpoint = (this.held = this.setpoint(rate));
    const depth = bottleneck.queue.depth ?? setpoint;
    this.totalPerS = Math.max(0, rate - bottleneck.queue.unreportedPerS + (this.gain / loopS) * (setpoint - depth));
    if (now < this.cutUntil) {
      this.totalPerS *= 0.5;
      return this.decide(signals, "refused: cut until the effect can be seen");
    }
    if (grew) return this.decide(signals, "starved: growing");
    const state = depth > 2 * setpoint ? "draining the queue" : "holding the queue";
    return this.decide(signals, signals.consumers === 0 ? "nobody consumes" : state);
  }

  find(signals) {
    const probes = (2 * this.startPerS) / this.beganPerS;
    const onTheWay = this.startPerS * WAYS * this.wayS;
    const room = this.bottleneck.servers + probes + onTheWay - (this.bottleneck.queue.depth ?? 0);
    this.totalPerS = Math.max(0, Math.min(this.startPerS, room / TICK_S));
    return this.decide(signals, signals.consumers === 0 ? "nobody consumes" : "finding the bottleneck");
  }

  decide(signals, reason, floorPerS = 0) {
    const rate = Math.max(floorPerS, this.totalPerS);
    return decision(rate, reason, this.confirms.window(signals, rate, this.held), this.bottleneck.ratePerS);
  }

  setpoint(ratePerS) {
    const { bottleneck } = this;
    const step = Math.min(1, (this.gain / (TICK_S + bottleneck.ageS)) * TICK_S);
    const passing = ratePerS * (bottleneck.departedAgeS + WAYS * this.wayS + TICK_S / (step * (2 - step)));
    const sigma = Math.sqrt(bottleneck.dispersion * passing);
    const spread = sigma > 0 ? inverseLoss((this.idle * passing) / sigma) * sigma : 0;
    return Math.min(this.cap, bottleneck.servers + Math.max(this.targetS * ratePerS, spread) + this.extra);
  }

  grow(signals, now, loopS) {
    const { bottleneck } = this;
    if (bottleneck.emptySince === null || signals.applicationLimited || signals.consumers === 0) return false;
    const loops = bottleneck.ratePerS === null ? 1 : bottleneck.measured ? 3 : 2;
    if (now - Math.max(this.raisedAt, bottleneck.emptySince) < loops * loopS || !bottleneck.mayBeFaster) return false;
    this.raisedAt = now;
    if (bottleneck.ratePerS === null) this.startPerS *= 2;
    else if (bottleneck.ratePerS < 4 * Math.min(signals.demandPerS, 1e7)) bottleneck.raiseRate(2);
    return true;
  }

  hasSentEnoughUnseen(signals) {
    if (!signals.blind || signals.ready || !signals.consumers) this.seenSent = signals.confirmedTotal;
    return signals.blind && signals.confirmedTotal - this.seenSent >= 1000;
  }

  watchRefusals(signals, now, loopS, elapsedS) {
    this.cap *= 1 + 0.1 * elapsedS;
    if (signals.nackedTotal > this.nacked && now >= this.cutUntil) {
      this.cutUntil = now + 2 * loopS;
      this.cap = Math.max(1, 0.7 * Math.min(this.cap, this.bottleneck.queue.depth || 1));
    }
    this.nacked = signals.nackedTotal;
  }
}

/** How long confirms take, and how many messages may be unconfirmed. */
class ConfirmLatencyTracker {
  constructor() {
    Object.assign(this, { stalled: false, stalls: false, usualS: null, lastS: null, ratePerS: 0 });
  }

  update(signals, elapsedS) {
    const latencyS = signals.confirmLatencyS;
    if (this.usualS !== null) {
      const before = this.stalls;
      this.stalls = (latencyS ?? 0) > 2 * this.usualS;
      this.stalled = this.stalls || before;
    }
    if (latencyS === null) return;
    const sampleS = this.lastS === null ? latencyS : Math.min(latencyS, this.lastS);
    this.lastS = latencyS;
    if (this.usualS === null || sampleS > this.usualS) this.usualS = sampleS;
    else this.usualS += Math.min(1, elapsedS) * (sampleS - this.usualS);
  }

  window(signals, ratePerS, queued) {
    this.ratePerS = ratePerS;
    return this.usualS === null || !queued ? null : 1 + Math.ceil(queued + ratePerS * 2 * this.usualS);
  }
}

function erfc(x) {
  if (x < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; term > 1e-17 * sum; n += 1) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  let fraction = 0;
  for (let n = 60; n >= 1; n -= 1) fraction = n / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}

/** k ≥ 0 with E[max(0, Z − k)] = loss for a standard normal Z; 0 where even that loses less. */
function inverseLoss(loss) {
  let [low, high] = [0, 10];
  for (let n = 0; n < 30; n += 1) {
    const k = (low + high) / 2;
    if (Math.exp((-k * k) / 2) / Math.sqrt(2 * Math.PI) - (k * erfc(k / Math.sqrt(2))) / 2 > loss) low = k;
    else high = k;
  }
  return low;
}

/** Every law by its name: how it is made from its parameters, and whether a refused message is sent again. */
export const LAWS = {
  unbounded: { make: () => new Unbounded(), retries: false, bound: false },
  bounded: { make: () => new Bounded(), retries: false, bound: true },
  rate_limited: { make: (parameters) => new RateLimited(parameters), retries: false, bound: true },
  threshold: { make: (parameters) => new Threshold(parameters), retries: true, bound: true },
  aimd: { make: (parameters) => new Aimd(parameters), retries: true, bound: true },
  pid: { make: (parameters) => new Pid(parameters), retries: true, bound: true },
  pace: { make: (parameters) => new Pace(parameters), retries: true, bound: true },
};
