// Numbers as people read them; the command line writes them the same way.

const BYTES: [string, number][] = [
  ["TB", 1e12],
  ["GB", 1e9],
  ["MB", 1e6],
  ["KB", 1e3],
];

// "1.8 GB", "512 MB", "96 B": decimal units, as disks and hubs count.
export function formatBytes(n: number): string {
  for (const [unit, size] of BYTES) {
    if (n >= size) {
      const value = n / size;
      return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
    }
  }
  return `${Math.max(0, Math.round(n))} B`;
}

// "1.3 of 4.6 GB": the unit once when both share it.
export function formatBytesOf(part: number, whole: number): string {
  const [a, b] = [formatBytes(part), formatBytes(whole)];
  const [value, unit] = a.split(" ");
  return `${b.endsWith(` ${unit}`) ? value : a} of ${b}`;
}

const COUNTS: [string, number][] = [
  ["T", 1e12],
  ["B", 1e9],
  ["M", 1e6],
  ["K", 1e3],
];

// "2.5B", "135M", "3.7M".
export function formatCount(n: number): string {
  for (const [unit, size] of COUNTS) {
    if (n >= size) {
      const value = n / size;
      return `${value < 100 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0)}${unit}`;
    }
  }
  return String(n);
}

// "9 s", "2 min 5 s", "1 h 3 min".
export function formatSeconds(n: number): string {
  const s = Math.round(n);
  if (s < 60) {
    return `${s} s`;
  }
  if (s < 3600) {
    return `${Math.floor(s / 60)} min ${s % 60} s`;
  }
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export function formatSpeed(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

// "1 request", "2 requests"; `many` for nouns with a plural of their own.
export function plural(n: number, noun: string, many = `${noun}s`): string {
  return `${n.toLocaleString("en")} ${n === 1 ? noun : many}`;
}
