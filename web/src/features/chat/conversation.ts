// The conversation: what was said, the answer that is arriving, and how to stop it. It lives in the page's cache, so
// that a look at the models does not lose it; it is never stored.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { type QueryClient, queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import type { Clients } from "../../api/clients";
import { useRuntime } from "../../api/context";
import { problemOf } from "../../api/errors";
import {
  FinishReason,
  type GenerateEnd,
  type GenerateRequestSchema,
} from "../../gen/millm/runtime/v1/runtime_pb";

export interface Turn {
  id: number;
  role: "user" | "assistant";
  text: string;
  // Of an answer that has ended: "38 tokens • 21.4 tokens/s".
  note?: string;
  error?: string;
}

export interface ChatSettings {
  temperature: number;
  maxTokens: number;
}

export interface ChatState {
  turns: readonly Turn[];
  answering: boolean;
  settings: ChatSettings;
}

export interface Conversation {
  // Asks and answers; `templated` says whether the model has a chat template.
  send(text: string, templated: boolean): Promise<void>;
  stop(): void;
  clear(): void;
  set(settings: Partial<ChatSettings>): void;
}

export const START: ChatState = {
  turns: [],
  answering: false,
  settings: { temperature: 0.7, maxTokens: 512 },
};

// Never fetched and never stale: the conversation writes it.
export const chatQuery = queryOptions({
  queryKey: ["conversation"],
  enabled: false,
  initialData: START,
  staleTime: Number.POSITIVE_INFINITY,
  gcTime: Number.POSITIVE_INFINITY,
});

export function createConversation(
  queries: QueryClient,
  runtime: Pick<Clients["runtime"], "generate">,
): Conversation {
  let nextId = 0;
  let stopping: AbortController | undefined;
  // Nobody may be looking while an answer arrives.
  queries.setQueryDefaults(chatQuery.queryKey, { gcTime: Number.POSITIVE_INFINITY });

  function current(): ChatState {
    return queries.getQueryData(chatQuery.queryKey) ?? START;
  }

  function set(change: Partial<ChatState>) {
    queries.setQueryData(chatQuery.queryKey, { ...current(), ...change });
  }

  function changeTurn(id: number, change: (turn: Turn) => Turn) {
    set({ turns: current().turns.map((turn) => (turn.id === id ? change(turn) : turn)) });
  }

  function turn(role: Turn["role"], text: string): Turn {
    nextId += 1;
    return { id: nextId, role, text };
  }

  async function send(text: string, templated: boolean) {
    const { turns: said, answering, settings } = current();
    if (answering) {
      return;
    }
    const stop = new AbortController();
    stopping = stop;
    const turns = [...said.filter((earlier) => earlier.text !== ""), turn("user", text)];
    const answer = turn("assistant", "");
    set({ turns: [...turns, answer], answering: true });
    try {
      const request = requestOf(turns, settings, templated);
      for await (const part of runtime.generate(request, { signal: stop.signal })) {
        const end = part.end;
        if (part.text !== "" || end) {
          changeTurn(answer.id, (before) => ({
            ...before,
            text: before.text + part.text,
            ...(end ? { note: noteOf(end) } : {}),
          }));
        }
      }
    } catch (cause) {
      const problem = stop.signal.aborted ? null : problemOf(cause);
      changeTurn(answer.id, (before) => ({
        ...before,
        ...(problem ? { error: problem.message } : { note: "Stopped" }),
      }));
    } finally {
      if (stopping === stop) {
        stopping = undefined;
        set({ answering: false });
      }
    }
  }

  return {
    send,
    stop: () => stopping?.abort(),
    clear() {
      stopping?.abort();
      stopping = undefined;
      set({ turns: [], answering: false });
    },
    set: (settings) => set({ settings: { ...current().settings, ...settings } }),
  };
}

// A model without a chat template continues what has been written so far.
function requestOf(
  turns: readonly Turn[],
  settings: ChatSettings,
  templated: boolean,
): MessageInitShape<typeof GenerateRequestSchema> {
  const sampling = { temperature: settings.temperature, chatDefaults: true };
  const common = { sampling, maxTokens: settings.maxTokens };
  if (!templated) {
    return { ...common, prompt: { case: "text", value: turns.map(({ text }) => text).join("") } };
  }
  const messages = turns.map(({ role, text }) => ({ role, content: text }));
  return { ...common, prompt: { case: "messages", value: { messages } } };
}

const ENDS: Partial<Record<FinishReason, string>> = {
  [FinishReason.LENGTH]: "reached the token limit",
  [FinishReason.CANCELLED]: "ended by the server",
};

export function noteOf(end: GenerateEnd): string {
  const tokens = end.generatedTokens;
  const parts = [tokens === 1 ? "1 token" : `${tokens} tokens`];
  const total = end.totalTime ? durationMs(end.totalTime) : 0;
  const first = end.timeToFirstToken ? durationMs(end.timeToFirstToken) : 0;
  // The first token is the prompt's work; the speed is that of the others.
  if (tokens > 1 && total > first) {
    parts.push(`${(((tokens - 1) * 1000) / (total - first)).toFixed(1)} tokens/s`);
  }
  const why = ENDS[end.finishReason];
  if (why) {
    parts.push(why);
  }
  return parts.join(" • ");
}

const conversations = new WeakMap<QueryClient, Conversation>();

// The conversation of this page's server.
export function useConversation(): { chat: Conversation; state: ChatState } {
  const queries = useQueryClient();
  const runtime = useRuntime();
  let chat = conversations.get(queries);
  if (!chat) {
    chat = createConversation(queries, runtime);
    conversations.set(queries, chat);
  }
  return { chat, state: useQuery(chatQuery).data };
}
