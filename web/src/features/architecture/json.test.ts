import { expect, test } from "vitest";
import { DEEPEST, findIn, type Json, parseJson, splitAt } from "./json";

const CONFIG: Json = {
  hidden_size: 64,
  rope_scaling: { rope_type: "llama3", factor: 8 },
  layer_types: ["full", "sliding"],
  tie: true,
};

test.each([
  ["factor", ["", "/rope_scaling", "/rope_scaling/factor"]],
  // A key that matches shows all that is inside.
  ["ROPE_S", ["", "/rope_scaling", "/rope_scaling/factor", "/rope_scaling/rope_type"]],
  ["sliding", ["", "/layer_types", "/layer_types/1"]],
  ["true", ["", "/tie"]],
  ["64", ["", "/hidden_size"]],
  // Indices are no keys.
  ["1", []],
  ["nothing", []],
])("a search for %s", (text, paths) => {
  expect([...findIn(CONFIG, text)].sort()).toEqual(paths);
});

test("a search ends, however deep the config is", () => {
  let deep: Json = "needle";
  for (let depth = 0; depth < 5_000; depth += 1) {
    deep = { a: deep };
  }
  expect(findIn(deep, "needle").size).toBe(0);
  let shallow: Json = "needle";
  for (let depth = 0; depth < DEEPEST; depth += 1) {
    shallow = [shallow];
  }
  expect(findIn(shallow, "needle").size).toBe(DEEPEST + 1);
});

test("the places of a text that was searched", () => {
  expect(splitAt("rope_Rope", "rope")).toEqual(["", "rope", "_", "Rope", ""]);
  expect(splitAt("rope", "")).toEqual(["rope"]);
  expect(splitAt("İrope", "rope")).toEqual(["İrope"]);
});

test("what is not JSON is no tree", () => {
  expect(parseJson("{")).toBeUndefined();
  expect(parseJson("null")).toBeNull();
});
