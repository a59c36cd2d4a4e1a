import { expect, test } from "vitest";
import { piecesOf, spansOf } from "./pieces";

test("prose and fenced code are told apart", () => {
  const text = "See:\n\n```python\nx = 1\n\ny = 2\n```\nDone.";
  expect(piecesOf(text)).toEqual([
    { at: 0, code: false, text: "See:" },
    { at: 6, code: true, text: "x = 1\n\ny = 2" },
    { at: 29, code: false, text: "Done." },
  ]);
});

test("a fence that has not ended yet is code already", () => {
  expect(piecesOf("```\nx = 1").map((piece) => piece.code)).toEqual([true]);
  expect(piecesOf("")).toEqual([]);
});

test("a piece keeps its place while the text grows", () => {
  const text = "One.\n```\ncode\n```\nTwo grows";
  for (let end = text.indexOf("Two") + 1; end <= text.length; end += 1) {
    expect(piecesOf(text.slice(0, end)).map((piece) => piece.at)).toEqual([0, 5, 14]);
  }
});

test("strong words and code in prose", () => {
  expect(spansOf("It is **Tokyo**, not `kyoto`.").map(({ kind, text }) => `${kind}:${text}`)).toEqual([
    ...["plain:It is ", "strong:Tokyo", "plain:, not ", "code:kyoto", "plain:."],
  ]);
  expect(spansOf("2 ** 3 ** 4").map(({ kind }) => kind)).toEqual(["plain"]);
});
