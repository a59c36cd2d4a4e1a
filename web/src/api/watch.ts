// Keeps one server stream open: reconnects with growing pauses, for as long as the page wants it.

export interface Watch<T> {
  // Opens the stream. `connected` is called when the server has accepted it, before the first message.
  open(signal: AbortSignal, connected: () => void): AsyncIterable<T>;
  // A new connection: what was known before may be gone, the present state follows.
  onConnected(): void;
  onMessage(message: T): void;
  // The stream broke, or could not be opened; the next attempt comes in `retryMs`.
  onLost(cause: unknown, retryMs: number): void;
}

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8_000;

// Resolves when `signal` aborts. `pause` waits, and is a parameter so that tests need not.
export async function watchUntil<T>(
  watch: Watch<T>,
  signal: AbortSignal,
  pause: (ms: number, signal: AbortSignal) => Promise<void> = pauseFor,
): Promise<void> {
  let failures = 0;
  while (!signal.aborted) {
    let cause: unknown;
    try {
      for await (const message of watch.open(signal, () => watch.onConnected())) {
        // Only a message shows that it works: a gateway accepts streams that its service then refuses.
        failures = 0;
        watch.onMessage(message);
      }
    } catch (error) {
      cause = error;
    }
    if (signal.aborted) {
      return;
    }
    const retryMs = pauseAfter(failures, Math.random());
    failures += 1;
    watch.onLost(cause, retryMs);
    await pause(retryMs, signal);
  }
}

// Doubles from a quarter of a second to eight seconds; `chance` (0 to 1) spreads it, so that the pages of a
// restarted server do not all come back at once.
export function pauseAfter(failures: number, chance: number): number {
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** failures);
  return longest * (0.5 + chance / 2);
}

function pauseFor(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
