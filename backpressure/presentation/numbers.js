// Numbers as people read them: the twin of numbers.py for browsers. null is unknown, and a dash.

export const UNKNOWN = "–";

export function amount(value) {
  if (value === null || value === undefined) return UNKNOWN;
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["K", 1e3]]) {
    const scaled = Math.abs(value) / size;
    if (scaled >= 0.9995) return (value < 0 ? "-" : "") + scaled.toFixed(scaled < 99.95 ? 1 : 0).replace(/\.0$/, "") + unit;
  }
  const small = Math.abs(value) > 0 && Math.abs(value) < 9.95;
  return value.toFixed(small ? 1 : 0).replace(/\.0$/, "");
}

export const rate = (value) => (value === null ? UNKNOWN : `${amount(value)}/s`);

export function duration(seconds) {
  if (seconds === null) return UNKNOWN;
  if (seconds < 0.9995e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 0.9995) return `${(seconds * 1e3).toFixed(seconds < 0.09995 ? 1 : 0)} ms`;
  if (seconds < 119.5) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
  return seconds < 7170 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function binaryBytes(value) {
  if (value === null) return UNKNOWN;
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 9.95 ? 1 : 0)} ${unit}`;
  }
  return `${value.toFixed(0)} B`;
}

export const percent = (share) => (share === null ? UNKNOWN : `${(100 * share).toFixed(0)} %`);
