import { expect, test } from "vitest";
import { wholeList } from "./lists";

test("a list is read to its last page", async () => {
  const pages: Record<string, [number[], string]> = { "": [[1, 2], "x"], x: [[3], "y"], y: [[], ""] };
  const asked: string[] = [];
  const items = await wholeList(async (token) => {
    asked.push(token);
    return pages[token] ?? [[], ""];
  });
  expect(items).toEqual([1, 2, 3]);
  expect(asked).toEqual(["", "x", "y"]);
});
