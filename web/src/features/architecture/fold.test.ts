import { expect, test } from "vitest";
import { sampleLayer } from "../../api/inspection-samples";
import { type Folded, foldLayers, layoutOf, nameWithoutLayer, runText, structureOf } from "./fold";

// Each letter is a layer of its own layout.
function folded(kinds: string): string[] {
  const layers = [...kinds].map((kind, layer) => sampleLayer(layer, { attention: kind }));
  return foldLayers(layers, layoutOf).map(textOf);
}

function textOf(entry: Folded): string {
  return entry.kind === "layer" ? `L${entry.layer.layer}` : runText(entry.layers, entry.like);
}

test.each([
  ["", []],
  ["a", ["L0"]],
  ["aaaa", ["L0", "L1–L3, like L0"]],
  ["abbb", ["L0", "L1", "L2–L3, like L1"]],
  ["ababab", ["L0", "L1", "L2–L5, like L0–L1 in turn"]],
  ["ababa", ["L0", "L1", "L2–L4, like L0–L1 in turn"]],
  ["aaabaaabaa", ["L0", "L1–L2, like L0", "L3", "L4–L9, like L0–L3 in turn"]],
  ["abbaba", ["L0", "L1", "L2, like L1", "L3, like L0", "L4, like L1", "L5, like L0"]],
  [
    "abcdefghijklmabcdefghijklm",
    [..."abcdefghijklm"]
      .map((_, n) => `L${n}`)
      .concat([..."abcdefghijklm"].map((_, n) => `L${n + 13}, like L${n}`)),
  ],
])("%s", (kinds, expected) => {
  expect(folded(kinds)).toEqual(expected);
});

test("a run holds the very layers", () => {
  const layers = Array.from({ length: 32 }, (_, layer) => sampleLayer(layer));
  const [first, run] = foldLayers(layers, layoutOf);
  expect(first).toEqual({ kind: "layer", layer: layers[0] });
  expect(run?.kind === "run" && run.layers).toEqual(layers.slice(1));
});

test("types of tensors make another layout, but no other structure", () => {
  const layers = [sampleLayer(0, { dtype: "Q6_K" }), sampleLayer(1, { dtype: "Q4_K" })];
  expect(foldLayers(layers, layoutOf).map(textOf)).toEqual(["L0", "L1"]);
  expect(foldLayers(layers, structureOf).map(textOf)).toEqual(["L0", "L1, like L0"]);
});

test("a name without its layer", () => {
  expect(nameWithoutLayer("blk.3.attn_q.weight", 3)).toBe("blk.attn_q.weight");
  expect(nameWithoutLayer("resid_post.13", 13)).toBe("resid_post");
  expect(nameWithoutLayer("resid_post.13", 3)).toBe("resid_post.13");
});
