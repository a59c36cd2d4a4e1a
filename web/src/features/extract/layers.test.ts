import { expect, test } from "vitest";
import { allLayers, formatLayers, parseLayers, toggled } from "./layers";

const list = (layers: ReadonlySet<number>) => [...layers].sort((a, b) => a - b);

test.each([
  ["", []],
  ["all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]],
  ["0,5-8", [0, 5, 6, 7, 8]],
  [" 11 , 3-3,2 - 4", [2, 3, 4, 11]],
])("“%s” are layers", (text, expected) => {
  const parsed = parseLayers(text, 12);
  expect("layers" in parsed && list(parsed.layers)).toEqual(expected);
});

test.each([
  ["12", "Layer 12 does not exist: this model has layers 0 to 11."],
  ["0,5-40", "Layer 40"],
  ["7-5", "7-5 falls"],
  ["1,,2", "“”"],
  ["1-", "“1-”"],
  ["-1", "“-1”"],
  ["1.5", "“1.5”"],
  ["0-99999999999", "“0-99999999999”"],
  [`${"x".repeat(50)}`, `“${"x".repeat(20)}…”`],
])("“%s” is refused", (text, says) => {
  const parsed = parseLayers(text, 12);
  expect("error" in parsed && parsed.error).toContain(says);
});

test.each([
  [[], 12, ""],
  [[0, 5, 6, 7, 8], 12, "0,5-8"],
  [[10, 2, 3], 12, "2,3,10"],
  [[0, 1], 2, "all"],
])("%j of %d are written %s", (layers, count, text) => {
  expect(formatLayers(new Set(layers), count)).toBe(text);
});

test("what is written is read", () => {
  for (let bits = 0; bits < 2 ** 9; bits += 1) {
    const layers = list(allLayers(9)).filter((layer) => (bits >> layer) % 2 === 1);
    const parsed = parseLayers(formatLayers(new Set(layers), 9), 9);
    expect("layers" in parsed && list(parsed.layers)).toEqual(layers);
  }
});

test("a click changes one layer, with a beginning all between", () => {
  const none = new Set<number>();
  expect(list(toggled(none, 3))).toEqual([3]);
  expect(list(toggled(new Set([3]), 3))).toEqual([]);
  expect(list(toggled(new Set([3]), 6, 3))).toEqual([3, 4, 5, 6]);
  expect(list(toggled(new Set([6]), 3, 6))).toEqual([3, 4, 5, 6]);
  expect(list(toggled(new Set([2, 3, 4, 5]), 5, 3))).toEqual([2]);
});
