import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { expect, test, vi } from "vitest";
import { clientsOver } from "../../api/clients";
import { createQueries } from "../../api/queries";
import {
  FinishReason,
  GenerateEndSchema,
  type GenerateRequest,
  RuntimeService,
} from "../../gen/millm/runtime/v1/runtime_pb";
import { chatQuery, createConversation, noteOf, START } from "./conversation";

type Generate = (
  request: GenerateRequest,
  signal: AbortSignal,
) => AsyncIterable<{ text?: string; end?: object }>;

function conversation(generate: Generate) {
  const transport = createRouterTransport(({ service }) => {
    service(RuntimeService, { generate: (request, { signal }) => generate(request, signal) });
  });
  const queries = createQueries(() => {});
  const current = () => queries.getQueryData(chatQuery.queryKey) ?? START;
  const subscribe = (listener: () => void) => queries.getQueryCache().subscribe(listener);
  return { ...createConversation(queries, clientsOver(transport).runtime), current, subscribe };
}

test("an answer grows as it comes, and the next question carries the conversation", async () => {
  const asked: GenerateRequest[] = [];
  const chat = conversation(async function* (request) {
    asked.push(request);
    yield { text: "The capital is " };
    yield { text: "Tokyo." };
    yield { end: { finishReason: FinishReason.STOP, generatedTokens: 5 } };
  });
  const texts: string[] = [];
  chat.subscribe(() => texts.push(chat.current().turns.at(-1)?.text ?? ""));
  await chat.send("Capital of Japan?", true);
  expect(texts).toContain("The capital is ");
  expect(chat.current()).toMatchObject({
    answering: false,
    turns: [
      { role: "user", text: "Capital of Japan?" },
      { role: "assistant", text: "The capital is Tokyo.", note: "5 tokens" },
    ],
  });

  await chat.send("Sure?", true);
  const prompt = asked[1]?.prompt;
  expect(prompt?.case === "messages" && prompt.value.messages.map((m) => m.role)).toEqual([
    ...["user", "assistant", "user"],
  ]);
});

test("a model without a template gets the text as it stands", async () => {
  const asked: GenerateRequest[] = [];
  const chat = conversation(async function* (request) {
    asked.push(request);
    yield { text: " upon a time" };
  });
  await chat.send("Once", false);
  expect(asked[0]?.prompt).toEqual({ case: "text", value: "Once" });
});

test("stop ends the stream and keeps what had come", async () => {
  let left = false;
  const chat = conversation(async function* (_request, signal) {
    yield { text: "One, two" };
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    left = true;
  });
  const sent = chat.send("Count", true);
  await vi.waitFor(() => expect(chat.current().turns[1]?.text).toBe("One, two"));
  chat.stop();
  await sent;
  expect(chat.current()).toMatchObject({
    answering: false,
    turns: [{}, { text: "One, two", note: "Stopped" }],
  });
  await vi.waitFor(() => expect(left).toBe(true));
});

test("a refusal is shown in the place of the answer, and is not sent along later", async () => {
  const asked: GenerateRequest[] = [];
  const chat = conversation(async function* (request) {
    asked.push(request);
    throw new ConnectError("Too many requests: 8 waiting.", Code.ResourceExhausted);
    // biome-ignore lint/correctness/noUnreachable: makes this a stream.
    yield {};
  });
  await chat.send("Hello", true);
  expect(chat.current().turns[1]).toMatchObject({ text: "", error: "Too many requests: 8 waiting." });
  await chat.send("Hello?", true);
  const prompt = asked[1]?.prompt;
  expect(prompt?.case === "messages" && prompt.value.messages.map((m) => m.content)).toEqual([
    "Hello",
    "Hello?",
  ]);
});

test("the note tells speed and why it ended", () => {
  const end = create(GenerateEndSchema, {
    finishReason: FinishReason.LENGTH,
    generatedTokens: 41,
    timeToFirstToken: { seconds: 1n },
    totalTime: { seconds: 3n },
  });
  expect(noteOf(end)).toBe("41 tokens • 20.0 tokens/s • reached the token limit");
});
