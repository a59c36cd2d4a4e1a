import { Code, ConnectError } from "@connectrpc/connect";
import { MutationObserver } from "@tanstack/react-query";
import { expect, test } from "vitest";
import type { Problem } from "./errors";
import { createQueries } from "./queries";

async function toldOf(cause: unknown, meta?: { refusalShown: boolean }): Promise<string[]> {
  const told: Problem[] = [];
  const queries = createQueries((problem) => told.push(problem));
  const call = new MutationObserver(queries, { mutationFn: () => Promise.reject(cause), meta });
  await expect(call.mutate()).rejects.toBe(cause);
  return told.map(({ message }) => message);
}

test("a refusal is told, unless its caller shows it, or it was wanted", async () => {
  const refusal = new ConnectError("model not found: 'a'.", Code.NotFound);
  expect(await toldOf(refusal)).toEqual(["Model not found: 'a'."]);
  expect(await toldOf(refusal, { refusalShown: true })).toEqual([]);
  expect(await toldOf(new ConnectError("stopped", Code.Canceled))).toEqual([]);
});
