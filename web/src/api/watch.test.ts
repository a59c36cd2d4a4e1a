import { expect, test } from "vitest";
import { pauseAfter, watchUntil } from "./watch";

// Plays one script per connection; a script that throws is a connection that breaks.
async function play(connections: (() => Iterable<string>)[]): Promise<string[]> {
  const log: string[] = [];
  const stop = new AbortController();
  let opened = 0;
  await watchUntil<string>(
    {
      async *open(_signal, connected) {
        const script = connections[opened];
        opened += 1;
        if (!script) {
          stop.abort();
          return;
        }
        connected();
        yield* script();
      },
      onConnected: () => log.push("connected"),
      onMessage: (message) => log.push(message),
      onLost: (cause) => log.push(cause instanceof Error ? `lost: ${cause.message}` : "ended"),
    },
    stop.signal,
    async (ms) => {
      log.push(ms <= 250 ? "short pause" : "longer pause");
    },
  );
  return log;
}

test("a broken stream is opened again, and says that it is a new one", async () => {
  const log = await play([
    function* () {
      yield "a";
      throw new Error("reset");
    },
    function* () {
      yield "b";
    },
  ]);
  expect(log).toEqual([
    ...["connected", "a", "lost: reset", "short pause"],
    ...["connected", "b", "ended", "short pause"],
  ]);
});

test("pauses grow while nothing comes, and a message makes them short again", async () => {
  const silent = () => [];
  const log = await play([silent, silent, silent, () => ["a"]]);
  const pauses = log.filter((line) => line.endsWith("pause"));
  expect(pauses[0]).toBe("short pause");
  expect(pauses[2]).toBe("longer pause");
  expect(pauses[3]).toBe("short pause");
});

test("pauses are spread and have a limit", () => {
  expect(pauseAfter(0, 0)).toBe(125);
  expect(pauseAfter(0, 1)).toBe(250);
  expect(pauseAfter(50, 1)).toBe(8000);
});
