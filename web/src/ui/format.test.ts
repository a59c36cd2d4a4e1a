import { expect, test } from "vitest";
import { formatBytes, formatBytesOf, formatCount, formatSeconds, formatSpeed, plural } from "./format";

test.each([
  [0, "0 B"],
  [96, "96 B"],
  [1_800_000_000, "1.8 GB"],
  [67_108_864, "67 MB"],
  [12_400_000_000, "12 GB"],
])("%d bytes read %s", (n, text) => {
  expect(formatBytes(n)).toBe(text);
});

test("a unit shared by part and whole is named once", () => {
  expect(formatBytesOf(1_300_000_000, 4_600_000_000)).toBe("1.3 of 4.6 GB");
  expect(formatBytesOf(512_000_000, 4_600_000_000)).toBe("512 MB of 4.6 GB");
});

test.each([
  [2_506_172_416, "2.5B"],
  [3_673_344, "3.7M"],
  [9_000_000_000, "9B"],
  [134_515_008, "135M"],
  [912, "912"],
])("%d parameters read %s", (n, text) => {
  expect(formatCount(n)).toBe(text);
});

test.each([
  [9, "9 s"],
  [59.6, "1 min 0 s"],
  [125, "2 min 5 s"],
  [3790, "1 h 3 min"],
])("%d seconds read %s", (n, text) => {
  expect(formatSeconds(n)).toBe(text);
});

test("speeds and counts", () => {
  expect(formatSpeed(23_400_000)).toBe("23 MB/s");
  expect(plural(1, "request")).toBe("1 request");
  expect(plural(1200, "file")).toBe("1,200 files");
});
