import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb";
import { asksForToken, problemOf, problemOfStatus } from "./errors";
import { sampleStatus } from "./samples";

test("an error of the table gives its reason, sentence and metadata", () => {
  const value = { reason: "MODEL_ALREADY_EXISTS", domain: "millm", metadata: { model_id: "7" } };
  const error = new ConnectError("Model already exists: 'a' (Q4).", Code.AlreadyExists, undefined, [
    { desc: ErrorInfoSchema, value },
  ]);
  expect(problemOf(error)).toEqual({
    reason: "MODEL_ALREADY_EXISTS",
    message: "Model already exists: 'a' (Q4).",
    metadata: { model_id: "7" },
  });
});

test("what we ended ourselves is no problem", () => {
  expect(problemOf(new ConnectError("stopped", Code.Canceled))).toBeNull();
  expect(problemOf(new DOMException("stopped", "AbortError"))).toBeNull();
});

test("a server that is away is said to be away", () => {
  expect(problemOf(new TypeError("Failed to fetch"))?.reason).toBe("UNREACHABLE");
  expect(problemOf(new ConnectError("HTTP 502", Code.Unavailable))?.reason).toBe("UNREACHABLE");
});

test("an error without a reason still has its sentence", () => {
  expect(problemOf(new ConnectError("something odd", Code.Internal))).toMatchObject({
    reason: "",
    message: "Something odd",
  });
});

test("a name at the beginning of a sentence keeps its first letter", () => {
  const messageOf = (text: string) => problemOf(new ConnectError(text, Code.Internal))?.message;
  expect(messageOf("train.jsonl, row 3: expected an object.")).toBe(
    "train.jsonl, row 3: expected an object.",
  );
  expect(messageOf("rows: none.")).toBe("Rows: none.");
});

test("a status inside a message reads the same", () => {
  expect(problemOfStatus(undefined)).toBeUndefined();
  const problem = problemOfStatus(sampleStatus("GATED_MODEL_NO_TOKEN", "'a/b' is gated."));
  expect(problem).toMatchObject({ reason: "GATED_MODEL_NO_TOKEN", message: "'a/b' is gated." });
  expect(asksForToken(problem)).toBe(true);
  expect(asksForToken(undefined)).toBe(false);
});
